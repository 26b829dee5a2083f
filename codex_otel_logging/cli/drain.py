"""The command `drain`: exports what ended processes have left on disk, lists or discards it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.environment import is_disabled
from ..config.settings import SpoolConfig
from ..config.tables import ConfigError
from ..handler import shared_attributes_of, spool_settings_of
from ..otlp.factory import missing_package
from ..text import counted, printable
from .check.source import Source, shell_advice, source_of
from .console import Console, console
from .leftovers import HEADER, as_json, row

if TYPE_CHECKING:
    from ..delivery.spool.discarding import Discard
    from ..delivery.spool.draining import Drain
    from ..delivery.spool.survey import SpoolFile

NOTHING_LEFT, LEFT, INVALID = 0, 1, 2
"""Exit statuses."""


class Options(NamedTuple):
    """The options of the command line, as its help describes them."""

    only_list: bool = False
    discard: bool = False
    redirect: bool = False
    timeout_s: float | None = None
    yes: bool = False
    as_json: bool = False


@dataclass(slots=True)
class _Result:
    """What the command has done, and what is left. Its fields are those of the JSON object."""

    path: str
    destination: str | None
    exported: int = 0
    processes: int = 0
    discarded: int = 0
    """How many events were rejected, damaged or expired, or removed by --discard."""
    discarded_files: int = 0
    failure: str | None = None
    timed_out: bool = False
    interrupted: bool = False
    messages: list[str] = field(default_factory=list)
    files: Sequence[SpoolFile] = ()
    """What is left."""

    @property
    def status(self) -> int:
        is_left = any(file.state != "in use" for file in self.files)
        return LEFT if is_left or self.failure else NOTHING_LEFT

    def as_json(self) -> dict[str, Any]:
        from ..delivery.spool.survey import grouped

        names = [name for name in self.__slots__ if name != "files"]
        facts = {name: getattr(self, name) for name in names}
        return facts | {"remaining": [as_json(group) for group in grouped(self.files)]}


class _CommandError(Exception):
    """The command cannot begin; the argument is the message."""


def run(path: str | None, options: Options) -> int:
    """Export what is left, list it or discard it, and return the exit status.

    Args:
        path: the TOML file; None means the Codex CLI's own file.
        options: what to do.

    """
    try:
        source = source_of(path, None, ())
    except ConfigError as error:
        return _fail(*shell_advice(error, "drain"))
    spool = source.config.spool
    if spool is None:
        return _fail(f"{source.file.name}: [otel.spool]: missing; it names the directory to export")
    exporter = source.config.exporter
    result = _Result(spool.path, None if exporter is None else exporter.destination)
    command = _Command(console(), source, spool, options, result)
    try:
        if options.only_list:
            command.list()
        elif options.discard:
            command.discard()
        else:
            command.export()
    except _CommandError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        result.interrupted = True
        command.print_interrupted()
        raise
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        result.failure = f"{spool.path}: cannot be read: {error.strerror or error}"
        command.print_failure(result.failure)
    if options.as_json:
        print(json.dumps(result.as_json(), indent=2))
    return result.status


def _fail(*messages: str) -> int:
    for message in messages:
        print(printable(message), file=sys.stderr)
    return INVALID


class _Command:
    """Runs the command, records its results in `result`, and prints them unless with `--json`."""

    def __init__(
        self, out: Console, source: Source, spool: SpoolConfig, options: Options, result: _Result
    ) -> None:
        self._out = out
        self._name = source.file.name
        self._config = source.config
        self._spool = spool
        self._options = options
        self._result = result
        self._total = 0
        self._drain: Drain | None = None
        self._discard: Discard | None = None

    def list(self) -> None:
        from ..delivery.spool.survey import grouped, survey

        files = self._result.files = [*survey(self._spool.path)]
        self._line(self._spool.path)
        if files and not self._options.as_json:
            self._out.line()
            self._out.table(HEADER, [row(group) for group in grouped(files)])
        self._print_rest()

    def export(self) -> None:
        exporter = self._config.exporter
        if exporter is None:
            raise _CommandError(
                f"{self._name}: [otel] exporter: nothing is exported, because exporter is none"
            )
        if is_disabled(os.environ):
            raise _CommandError("OTEL_SDK_DISABLED: the variable turns off all exports")
        if (missing := missing_package(exporter)) is not None:
            self._result.failure = missing
            self.print_failure(missing)
            return
        shared = shared_attributes_of(self._config, None)
        if (settings := spool_settings_of(exporter, shared, self._config)) is None:
            raise _CommandError(f"{self._spool.path}: nothing can be exported on this platform")
        from ..delivery.spool.draining import Drain

        self._drain = drain = Drain(
            settings,
            self._config.batch,
            redirect=self._options.redirect,
            timeout_s=self._options.timeout_s,
            report=self._report,
            progress=self._show_progress,
        )
        self._line(f"From {self._spool.path} to {exporter.name} {exporter.safe_endpoint}")
        if self._out.width is not None and not self._options.as_json:
            self._total = drain.exportable()
        try:
            self._result.files = drain.run()
        finally:
            self._out.progress("")
            self._note()
        self._line(self._summary(), "green" if drain.exported else "")
        if drain.failure:
            self._line(f"Export failing: {drain.failure}", "red")
        self._print_timeout()
        self._print_rest()

    def discard(self) -> None:
        from ..delivery.spool import disk
        from ..delivery.spool.discarding import Discard
        from ..delivery.spool.survey import survey

        destination = None if self._options.redirect else self._result.destination
        if destination is None and not self._options.redirect:
            raise _CommandError(
                f"{self._name}: [otel] exporter: exporter is none; to discard the events for every "
                "destination, add --redirect"
            )
        if not (self._options.yes or _is_interactive()):
            raise _CommandError("--discard: not on a terminal; confirm with --yes")
        if not disk.has_locks():
            raise _CommandError(f"{self._spool.path}: nothing can be discarded on this platform")
        self._discard = Discard(
            self._spool.path,
            destination,
            timeout_s=self._options.timeout_s,
            report=self._report,
        )
        self._line(f"In {self._spool.path}, for {destination or 'every destination'}")
        affected = self._discard.affected(survey(self._spool.path))
        try:
            if not affected or self._options.yes or _confirm(affected):
                self._discard.run()
        finally:
            self._note()
        self._line(self._summary())
        self._print_timeout()
        self._result.files = [*survey(self._spool.path)]
        self._print_rest()

    def print_interrupted(self) -> None:
        self._out.progress("")  # the interruption may have come while it was removed
        if self._options.as_json:
            from ..delivery.spool.survey import survey

            with suppress(OSError):
                self._result.files = [*survey(self._spool.path)]
            print(json.dumps(self._result.as_json(), indent=2))
        elif self._drain is not None or self._discard is not None:
            self._line(f"{self._summary()} before the interruption")

    def print_failure(self, text: str) -> None:
        if not self._options.as_json:
            print(printable(text), file=sys.stderr)

    def _note(self) -> None:
        """Record the progress, also after an interruption."""
        result = self._result
        if (drain := self._drain) is not None:
            result.exported, result.processes = drain.exported, drain.processes
            result.discarded = drain.discarded
            result.failure, result.timed_out = drain.failure or None, drain.timed_out
        if (discard := self._discard) is not None:
            result.discarded, result.discarded_files = discard.events, discard.files
            result.timed_out = discard.timed_out

    def _line(self, text: str, style: str = "") -> None:
        if not self._options.as_json:
            self._out.line(printable(text), style)

    def _report(self, path: str, text: str) -> None:
        text = f"{Path(path).name}: {text}" if path else text
        self._result.messages.append(text)
        self._line(text, "yellow")

    def _show_progress(self) -> None:
        if self._options.as_json:
            return
        self._note()
        done = self._result.exported + self._result.discarded
        # Processes that end meanwhile leave more than was counted.
        self._out.progress(self._summary(), min(done / self._total, 1.0) if self._total else None)

    def _summary(self) -> str:
        result = self._result
        discarded = counted(result.discarded, "event")
        if self._discard is not None:
            return f"Discarded {discarded} in {counted(result.discarded_files, 'file')}"
        text = f"Exported {counted(result.exported, 'event')}"
        text += f" of {counted(result.processes, 'process')}"
        return f"{text}; {discarded} rejected, expired or damaged" if result.discarded else text

    def _print_timeout(self) -> None:
        if self._result.timed_out:
            self._line(f"Stopped after {self._options.timeout_s:g} s", "yellow")

    def _print_rest(self) -> None:
        """Print what is left in total."""
        in_use = [file for file in self._result.files if file.state == "in use"]
        left = [file for file in self._result.files if file.state != "in use"]
        if in_use:
            self._line(f"In use by running processes: {_total(in_use)}")
        self._line(f"Left: {_total(left)}" if left else "Nothing is left", "yellow" if left else "")


def _total(files: Sequence[SpoolFile]) -> str:
    events = sum(file.events for file in files)
    return f"{counted(events, 'event')} in {counted(len(files), 'file')}"


def _is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _confirm(files: Iterable[SpoolFile]) -> bool:
    """Ask on standard error, because standard output may be a pipe; anything but yes means no."""
    print(f"Discard {_total([*files])}? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except UnicodeDecodeError:
        return False
