"""The command line of `codex-otel-logging`, also started as `python -m codex_otel_logging`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING

from ..config.tables import ConfigError
from .arguments import Parser, logging_dict, path, port, seconds
from .interruption import repeated_if_dropped

if TYPE_CHECKING:
    from typing import TypeAlias

    Commands: TypeAlias = argparse._SubParsersAction[Parser]

NAME = "codex-otel-logging"
_INVALID_COMMAND_LINE = 2
_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_ALWAYS = "2 for an invalid command line, 130 if interrupted by Ctrl-C"
_EXIT = f"Exit status: 0 on success, 1 if the output pipe is closed, {_ALWAYS}."


def program(prog: str = NAME) -> int:
    """Run the command line of this process and return its exit status.

    Args:
        prog: the program name to show in usage messages.

    Raises:
        SystemExit: the command line is invalid, or asks for help.

    """
    status = main(prog=prog)
    # Ctrl-C can change nothing any more, only make Python print a traceback while it exits.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def main(arguments: Sequence[str] | None = None, *, prog: str = NAME) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: the command and its options; None means `sys.argv[1:]`.
        prog: the program name to show in usage messages.

    Raises:
        SystemExit: the command line is invalid, or asks for help.

    """
    parser = build_parser(prog)
    options = parser.parse_args(arguments)
    try:
        with repeated_if_dropped():
            status = int(options.run(options))
            sys.stdout.flush()  # here, not at exit, where Python reports a broken pipe itself
    except BrokenPipeError:  # a pager or `head` has exited
        _discard_output()
        return 1
    except KeyboardInterrupt:
        # Suppress "Exception ignored in ..." from objects interrupted mid-operation.
        sys.unraisablehook = lambda _: None
        _discard_output()
        return _INTERRUPTED
    return status


def _discard_output() -> None:
    """Redirect standard output to the null device, so that Python's flush at exit cannot block."""
    with suppress(OSError, ValueError):  # standard output has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser(prog: str) -> Parser:
    """Return the parser of whole command lines; `prog` is how the program was started."""
    parser = Parser(
        prog=prog,
        description="Tools for sending a coding agent's events to an OpenTelemetry collector.",
        epilog=_EXIT,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (_add_demo, _add_check, _add_listen, _add_drain, _add_catalog, _add_docs):
        add(commands)
    return parser


def _no_command(options: argparse.Namespace) -> int:
    """Print the version, or list the commands and return status 2: a command is required."""
    if not options.version:
        options.parser.print_help(sys.stderr)
        return _INVALID_COMMAND_LINE
    try:
        print(NAME, metadata.version(__name__.partition(".")[0]))
    except metadata.PackageNotFoundError:
        print(NAME, "(version unknown: the package is not installed)")
    return 0


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="play a recorded agent session to a local receiver and show what arrives",
        description="Plays a recorded agent session through logging to a receiver on this "
        "machine, over OTLP/HTTP and OTLP/gRPC, and compares what arrived with what was logged.",
        epilog="Exit status: 0 if everything arrived, 1 if not or if a package is missing, "
        f"{_ALWAYS}.",
    )
    only = demo.add_mutually_exclusive_group()
    only.add_argument(
        "--http", dest="transports", action="store_const", const=("http",), help="use HTTP only"
    )
    only.add_argument(
        "--grpc", dest="transports", action="store_const", const=("grpc",), help="use gRPC only"
    )
    demo.set_defaults(run=_demo)


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="show the settings in effect and test them",
        description="Shows the settings in effect and their sources. With --send, exports one "
        "event and reports each step; with --logging, reports whether events reach the handler.",
        epilog="Exit status: 0 if no problem was found; 1 if an exporter is set but nothing can be "
        "sent, if the event was not delivered, or if events do not reach the handler exactly once; "
        "2 if the settings or the logging dictionary are invalid or cannot be read, and for an "
        "invalid command line; 130 if interrupted by Ctrl-C.",
    )
    check.add_argument(
        "path",
        nargs="?",
        type=path,
        metavar="PATH",
        help="the TOML file with the [otel] table (default: config.toml in $CODEX_HOME or in "
        "~/.codex; with --logging, the settings of the configured handler)",
    )
    check.add_argument(
        "--send", action="store_true", help="export one event, marked by its conversation.id"
    )
    check.add_argument(
        "--logging",
        dest="reference",
        type=logging_dict,
        metavar="MODULE:DICT",
        help="configure logging with this dictionary, such as settings:LOGGING, and report "
        "whether events reach the handler exactly once and which other handlers receive them",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument(
        "--schema", action="store_true", help="print only the JSON Schema of the TOML file"
    )
    check.set_defaults(run=_check)


def _add_listen(commands: Commands) -> None:
    listen = commands.add_parser(
        "listen",
        help="receive events on this machine and show them live",
        description="Receives events from the Codex CLI, or from an application that logs through "
        "this package, on this machine and shows each one as it arrives. Press Ctrl-C to stop and "
        "print a summary of each conversation. If the output is slow, up to 32 MiB of requests are "
        "queued; senders of further requests are asked to retry.",
        epilog="Exit status: 0 when stopped by Ctrl-C or SIGTERM, 1 if a port is in use, a package "
        "is missing or the output pipe is closed, 2 for an invalid command line, 130 if a second "
        "Ctrl-C interrupts the summary.",
    )
    listen.add_argument(
        "--http-port",
        type=port,
        default=4318,
        metavar="PORT",
        help="port for OTLP/HTTP; 0 selects a free port (default: 4318)",
    )
    listen.add_argument(
        "--grpc-port",
        type=port,
        default=4317,
        metavar="PORT",
        help="port for OTLP/gRPC; 0 selects a free port (default: 4317)",
    )
    listen.add_argument(
        "--json",
        action="store_true",
        help="print JSON Lines: one object per event, and one per conversation",
    )
    listen.set_defaults(run=_listen)


def _add_drain(commands: Commands) -> None:
    drain = commands.add_parser(
        "drain",
        help="export the events that ended processes left on disk",
        description="Exports the events that ended processes left in the directory of the "
        "settings' [otel.spool] table. The next process that logs does the same; drain is "
        "for a machine on which none follows. Files of running processes are not touched. Any "
        "number of drains may run at once. If the collector keeps failing, drain ends after a few "
        "attempts and can be repeated.",
        epilog="Exit status: 0 if no ended process has left anything; 1 if files are left, the "
        "directory cannot be read, or the exporter's package is missing; 2 if the settings are "
        "invalid, cannot be read, name no spool or no exporter, or are turned off by "
        "OTEL_SDK_DISABLED, for --discard without a terminal and without --yes, and for an invalid "
        "command line; 130 if interrupted by Ctrl-C.",
    )
    drain.add_argument(
        "path",
        nargs="?",
        type=path,
        metavar="PATH",
        help="the TOML file with the [otel] table (default: config.toml in $CODEX_HOME or in "
        "~/.codex)",
    )
    _add_drain_options(drain)
    drain.set_defaults(run=_drain)


def _add_drain_options(drain: Parser) -> None:
    action = drain.add_mutually_exclusive_group()
    action.add_argument(
        "--list", dest="only_list", action="store_true", help="show what is left and change nothing"
    )
    action.add_argument(
        "--discard",
        action="store_true",
        help="remove what is left instead of exporting it, also damaged files; asks first",
    )
    drain.add_argument(
        "--redirect",
        action="store_true",
        help="also export, or discard, events that were meant for another collector",
    )
    drain.add_argument(
        "--timeout",
        dest="timeout_s",
        type=seconds,
        metavar="S",
        help="end after this many seconds, whatever is left (default: no limit)",
    )
    drain.add_argument(
        "--yes", action="store_true", help="discard without asking; required without a terminal"
    )
    drain.add_argument("--json", action="store_true", help="print one JSON object")


def _add_catalog(commands: Commands) -> None:
    shown = commands.add_parser(
        "catalog",
        help="show the events and their fields",
        description="Shows the events and their fields: tables on a terminal, Markdown otherwise.",
        epilog="Exit status: 0 on success, 1 if the output pipe is closed, 2 for an unknown event "
        "or an invalid command line, 130 if interrupted by Ctrl-C.",
    )
    shown.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="the event to show, for example codex.tool_result (default: all events)",
    )
    form = shown.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(run=_catalog)


def _add_docs(commands: Commands) -> None:
    docs = commands.add_parser(
        "docs",
        help="show the documentation",
        description="Lists the pages of the documentation, or prints one of them: rendered on a "
        "terminal if rich is installed, otherwise as Markdown.",
        epilog="Exit status: 0 on success, 1 if the output pipe is closed, 2 for an unknown topic "
        "or an invalid command line, 130 if interrupted by Ctrl-C.",
    )
    docs.add_argument(
        "topic",
        nargs="?",
        metavar="TOPIC",
        help="print this page, for example settings (default: list all pages)",
    )
    docs.set_defaults(run=_docs)


# Commands are imported when they run: `--help` and `--version` stay fast, and a command that needs
# no extra works without one.


def _demo(options: argparse.Namespace) -> int:
    try:
        from . import demo

        return demo.run(options.transports or demo.installed_transports())
    except (ImportError, ConfigError) as error:  # an exporter is not installed
        print(error, file=sys.stderr)
        return 1


def _check(options: argparse.Namespace) -> int:
    if options.schema:
        from ..config.schema import schema

        print(json.dumps(schema(), indent=2))
        return 0
    from .check import command as check

    return check.run(
        options.path, send=options.send, as_json=options.json, reference=options.reference
    )


def _listen(options: argparse.Namespace) -> int:
    from .listen import command as listen

    return listen.run(options.http_port, options.grpc_port, as_json=options.json)


def _drain(options: argparse.Namespace) -> int:
    if options.yes and not options.discard:
        options.parser.error("option '--yes' requires '--discard'")
    from . import drain

    return drain.run(
        options.path,
        drain.Options(
            only_list=options.only_list,
            discard=options.discard,
            redirect=options.redirect,
            timeout_s=options.timeout_s,
            yes=options.yes,
            as_json=options.json,
        ),
    )


def _catalog(options: argparse.Namespace) -> int:
    from . import catalog

    return catalog.run(options.name, as_json=options.json, as_markdown=options.markdown)


def _docs(options: argparse.Namespace) -> int:
    from . import docs

    return docs.run(options.topic)
