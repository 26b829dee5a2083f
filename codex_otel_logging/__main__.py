"""The command line: `python -m codex_otel_logging demo`, `check` and `catalog`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from . import catalog
from .config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130  # as a shell counts it: 128 and the signal's number
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m codex_otel_logging",
        description="Sends the events of a coding agent to an OpenTelemetry collector.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="play a recorded agent session to a local collector and show what arrives",
        description="Plays a recorded agent session through logging to a collector on this "
        "machine, over OTLP/HTTP and OTLP/gRPC, and shows what arrived. Exit status 0 "
        "if everything did, 1 if not.",
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

    shown = commands.add_parser(
        "catalog",
        help="show the events and their fields",
        description="Shows the events and their fields.",
    )
    form = shown.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as Markdown (the default)")
    form.add_argument("--json", action="store_true", help="as JSON")
    shown.set_defaults(run=_catalog)
    return parser


def _demo(options: argparse.Namespace) -> int:
    try:
        from . import demo

        return demo.run(options.transports or demo.installed_transports())
    except (ImportError, ConfigError) as error:  # an exporter that is not installed
        print(error, file=sys.stderr)
        return 1


def _check(options: argparse.Namespace) -> int:
    if options.schema:
        from .schema import schema

        print(json.dumps(schema(), indent=2))
        return 0
    from . import check

    return check.run(options.path, send=options.send, as_json=options.json)


def _catalog(options: argparse.Namespace) -> int:
    if options.json:
        document = {
            "common": [asdict(field) for field in catalog.COMMON_FIELDS],
            "events": [asdict(event) for event in catalog.events()],
        }
        print(json.dumps(document, indent=2))
    else:
        print(catalog.markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
