"""The command `drain`: exports what ended processes have left on disk, or lists it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.environment import is_disabled
from ..config.otel_config import OtelConfig
from ..config.settings import SpoolConfig
from ..config.tables import ConfigError
from ..handler import shared_attributes_of, spool_settings_of
from ..otlp.factory import missing_package
from ..text import printable
from .check.source import shell_advice, source_of
from .console import Console, console

if TYPE_CHECKING:
    from ..delivery.spool.draining import Drain
    from ..delivery.spool.survey import SpoolFile

NOTHING_LEFT, LEFT, INVALID = 0, 1, 2
"""Exit statuses."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def run(path: str | None, *, only_list: bool = False, redirect: bool = False) -> int:
    """Export what is left, or list it, and return the exit status.

    Args:
        path: the TOML file; None means the Codex CLI's own file.
        only_list: list what is left, and change nothing.
        redirect: also export what was meant for another destination.

    """
    try:
        source = source_of(path, None, ())
    except ConfigError as error:
        return _fail(*shell_advice(error, "drain"))
    spool = source.config.spool
    if spool is None:
        return _fail(f"{source.file.name}: [otel.spool]: missing; it names the directory to export")
    try:
        if only_list:
            return _list(console(), spool)
        return _export(console(), source.file.name, source.config, redirect=redirect)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        return _fail(f"{spool.path}: cannot be read: {error.strerror or error}", status=LEFT)


def _fail(*messages: str, status: int = INVALID) -> int:
    for message in messages:
        print(printable(message), file=sys.stderr)
    return status


def _list(out: Console, spool: SpoolConfig) -> int:
    from ..delivery.spool.survey import survey

    files = list(survey(spool.path))
    out.line(printable(spool.path))
    if files:
        out.line()
        out.table(("state", "destination", "files", "events", "bytes", "oldest"), [*_rows(files)])
    return _print_status(out, files)


def _rows(files: Iterable[SpoolFile]) -> Iterator[tuple[str, ...]]:
    """Yield one row for each state and destination."""
    from ..delivery.spool.survey import STATES

    def kind(file: SpoolFile) -> tuple[int, str]:
        return STATES.index(file.state), file.destination

    for (state, destination), group in groupby(sorted(files, key=kind), key=kind):
        same = list(group)
        yield (
            STATES[state],
            printable(destination) or "unknown",
            f"{len(same):,}",
            f"{_events(same):,}",
            f"{sum(file.size for file in same):,}",
            _age(min((file.oldest_ns for file in same if file.oldest_ns), default=0)),
        )


def _export(out: Console, name: str, config: OtelConfig, *, redirect: bool) -> int:
    exporter = config.exporter
    if exporter is None:
        return _fail(f"{name}: [otel] exporter: nothing is exported, because exporter is none")
    if is_disabled(os.environ):
        return _fail("OTEL_SDK_DISABLED: the variable turns off all exports")
    if (missing := missing_package(exporter)) is not None:
        return _fail(missing, status=LEFT)
    spool = spool_settings_of(exporter, shared_attributes_of(config, None), config)
    if spool is None:
        return INVALID
    from ..delivery.spool.draining import Drain

    def report(path: str, text: str) -> None:
        out.line(printable(f"{Path(path).name}: {text}" if path else text), "yellow")

    def progress() -> None:
        out.status(_summary(drain))

    drain = Drain(spool, config.batch, redirect=redirect, report=report, progress=progress)
    out.line(printable(f"From {spool.path} to {exporter.name} {exporter.safe_endpoint}"))
    try:
        files = drain.run()
    except KeyboardInterrupt:
        out.status("")
        out.line(f"{_summary(drain)} before the interruption")
        raise
    finally:
        out.status("")
    out.line(_summary(drain), "green" if drain.exported else "")
    if drain.failure:
        out.line(printable(f"Export failing: {drain.failure}"), "red")
    return _print_status(out, files)


def _summary(drain: Drain) -> str:
    text = f"Exported {_counted(drain.exported, 'event')} of {_counted(drain.processes, 'process')}"
    if drain.discarded:
        text += f"; {_counted(drain.discarded, 'event')} rejected or damaged"
    return text


def _print_status(out: Console, files: Sequence[SpoolFile]) -> int:
    """Print what is left in total, and return the exit status."""
    in_use = [file for file in files if file.state == "in use"]
    left = [file for file in files if file.state != "in use"]
    if in_use:
        events = _counted(_events(in_use), "event")
        out.line(f"In use by running processes: {events} in {_counted(len(in_use), 'file')}")
    if not left:
        out.line("Nothing is left")
        return NOTHING_LEFT
    events = _counted(_events(left), "event")
    out.line(f"Left: {events} in {_counted(len(left), 'file')}", "yellow")
    return LEFT


def _events(files: Iterable[SpoolFile]) -> int:
    return sum(file.events for file in files)


def _counted(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _age(time_ns: int) -> str:
    """Return how long ago a time was, in the largest unit, such as `3 h`; 0 means unknown."""
    if not time_ns:
        return "unknown"
    seconds = max(time.time_ns() - time_ns, 0) // 1_000_000_000
    unit, size = next(each for each in _UNITS if seconds >= each[1] or each[1] == 1)
    return f"{seconds // size} {unit}"
