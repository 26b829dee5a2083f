"""The command line: `python -m codex_otel_logging demo`, `check`, `listen` and `catalog`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from . import catalog
from .commands.console import Console, console
from .config import ConfigError

_LARGEST_PORT = 65535
_INTERRUPTED = 130
_ALWAYS = "2 for a wrong command line, 130 when interrupted by Ctrl-C"
_EXIT = f"Exit status: 0 when done, 1 if nobody reads the output any more; {_ALWAYS}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        _discard_output()
        return 1
    except KeyboardInterrupt:
        # What was cut in two, such as an answer half read, may complain when it is cleared away.
        sys.unraisablehook = lambda _: None
        _discard_output()
        return _INTERRUPTED
    return status


def _discard_output() -> None:
    """Let the end of Python find nothing to write, and so nobody to wait for."""
    with suppress(OSError, ValueError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m codex_otel_logging",
        description="Sends the events of a coding agent to an OpenTelemetry collector.",
        epilog=_EXIT,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="play a recorded agent session to a local collector and show what arrives",
        description="Plays a recorded agent session through logging to a collector on this "
        "machine, over OTLP/HTTP and OTLP/gRPC, and shows what arrived.",
        epilog="Exit status: 0 if everything arrived, 1 if not, or if a package for it is missing; "
        f"{_ALWAYS}.",
    )
    only = demo.add_mutually_exclusive_group()
    only.add_argument(
        "--http", dest="transports", action="store_const", const=("http",), help="only over HTTP"
    )
    only.add_argument(
        "--grpc", dest="transports", action="store_const", const=("grpc",), help="only over gRPC"
    )
    demo.set_defaults(run=_demo)

    check = commands.add_parser(
        "check",
        help="show the settings in effect, and with --send whether they work",
        description="Shows the settings in effect and where each came from; with --send, delivers "
        "one event and says what happened. Exit status 0 if all is well, 1 if the event was not "
        "delivered, 2 if the settings have faults or cannot be read.",
    )
    check.add_argument(
        "path",
        nargs="?",
        default="~/.codex/config.toml",
        metavar="PATH",
        help="the TOML file with the [otel] table (default: %(default)s)",
    )
    check.add_argument("--send", action="store_true", help="deliver one marked event")
    check.add_argument("--json", action="store_true", help="as one JSON object")
    check.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of the file instead"
    )
    check.set_defaults(run=_check)
    listen = commands.add_parser(
        "listen",
        help="show the events that arrive on this machine, live",
        description="Listens on this machine for the events of the Codex CLI, or of an "
        "application that logs through this package, and shows each one as it arrives. Ctrl-C "
        "ends it, and sums up each conversation. When the output is slow, up to 32 MiB wait to be "
        "printed; senders of more are told to send it again.",
        epilog="Exit status: 0 when ended by Ctrl-C or SIGTERM, 1 if a port is taken, a package "
        "for it is missing, or nobody reads its output any more; 2 for a wrong command line, 130 "
        "when a second Ctrl-C cuts the end short.",
    )
    listen.add_argument(
        "--http-port",
        type=_port,
        default=4318,
        metavar="PORT",
        help="port for OTLP/HTTP; 0 takes a free one (default: 4318)",
    )
    listen.add_argument(
        "--grpc-port",
        type=_port,
        default=4317,
        metavar="PORT",
        help="port for OTLP/gRPC; 0 takes a free one (default: 4317)",
    )
    listen.add_argument(
        "--json",
        action="store_true",
        help="a JSON object per line, for each event, and at the end for each conversation; "
        "README lists their keys",
    )
    listen.set_defaults(run=_listen)

    shown = commands.add_parser(
        "catalog",
        help="show the events and their fields",
        description="Shows the events and their fields: as tables on a terminal where rich is "
        "installed, elsewhere as Markdown.",
        epilog=_EXIT,
    )
    form = shown.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as Markdown")
    form.add_argument("--json", action="store_true", help="as JSON")
    shown.set_defaults(run=_catalog)
    return parser


def _demo(options: argparse.Namespace) -> int:
    try:
        from .commands import demo

        return demo.run(options.transports or demo.installed_transports())
    except (ImportError, ConfigError) as error:  # an exporter that is not installed
        print(error, file=sys.stderr)
        return 1


def _check(options: argparse.Namespace) -> int:
    if options.schema:
        from .commands.schema import schema

        print(json.dumps(schema(), indent=2))
        return 0
    from .commands import check

    return check.run(options.path, send=options.send, as_json=options.json)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is no port: expected 0 to {_LARGEST_PORT}")
    return port


def _listen(options: argparse.Namespace) -> int:
    from .commands import listen

    return listen.run(options.http_port, options.grpc_port, as_json=options.json)


def _catalog(options: argparse.Namespace) -> int:
    if options.json:
        document = {
            "common": [field._asdict() for field in catalog.COMMON_FIELDS],
            "events": [
                {**event._asdict(), "fields": [field._asdict() for field in event.fields]}
                for event in catalog.events()
            ],
        }
        print(json.dumps(document, indent=2))
    elif options.markdown or not (out := console()).rich:
        print(catalog.markdown(), end="")
    else:
        _print_tables(out)
    return 0


def _print_tables(out: Console) -> None:
    """Print a table for the common fields, and one for each event."""
    common = catalog.EventType("common fields", "They are on every event.", catalog.COMMON_FIELDS)
    for event in (common, *catalog.events()):
        out.parts([(event.name, "bold cyan"), (f"  {event.description}", "")])
        rows = [
            (f.name, " / ".join(f.choices) or f.type, f.presence, catalog.meaning(f))
            for f in event.fields
        ]
        out.table(("field", "type", "present", "meaning"), rows)
        out.line()


if __name__ == "__main__":
    sys.exit(main())
