"""The measurements, their subjects, the bars that this package must meet, and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rounds import Bench, Rounds, missing
from subjects import SUBJECTS

Results = Mapping[str, Rounds]
"""The rounds of each measurement."""

REFERENCE = "official"
"""The peer that users would take instead; the bars refer to it."""

_SENDERS = tuple(name for name, subject in SUBJECTS.items() if subject.transport)


@dataclass(frozen=True)
class Column:
    """A figure of a measurement, or its ratio to that of the subject `over`."""

    title: str
    figure: str
    over: str | None = None
    worst: bool = False

    def value(self, rounds: Rounds, name: str) -> float | None:
        """Return the figure of a subject, or None if it or the other one was not measured."""
        if name not in rounds or (self.over and self.over not in rounds):
            return None
        if self.over:
            return rounds.ratio(name, self.over, self.figure)
        return rounds.worst(name, self.figure) if self.worst else rounds.median(name, self.figure)


@dataclass(frozen=True)
class Measurement:
    """A function of `measure`: its columns, number of events and subjects.

    `rounds` is a factor: 3 means three times as many rounds as the command line asks for.
    """

    columns: tuple[Column, ...]
    count: int
    quick_count: int
    names: tuple[str, ...] = _SENDERS
    rounds: float = 1


MEASUREMENTS = {
    "cost": Measurement(
        (
            Column("caller, CPU µs", "cpu_us"),
            Column("over floor", "cpu_us", over="floor"),
            Column("caller, wall µs", "wall_us"),
        ),
        count=10_000,
        quick_count=2_000,
        names=tuple(SUBJECTS),
    ),
    "work": Measurement(
        (
            Column("process, CPU µs", "cpu_us"),
            Column("over OTel", "cpu_us", over=REFERENCE),
        ),
        count=8_192,
        quick_count=2_048,
    ),
    "load": Measurement(
        (
            Column("call p99, µs", "p99_us"),
            Column("call max, µs", "max_us"),
        ),
        count=4_000,
        quick_count=1_000,
        names=tuple(SUBJECTS),
    ),
    "start": Measurement(
        (
            Column("first logged, ms", "logged_ms"),
            Column("over OTel", "logged_ms", over=REFERENCE),
            Column("first delivered, ms", "delivered_ms"),
        ),
        count=1,
        quick_count=1,
        rounds=3,
    ),
    "burst": Measurement(
        (
            Column("lost of 100,000", "lost", worst=True),
            Column("memory, MiB", "grown_mib"),
        ),
        count=100_000,
        quick_count=100_000,
        # Structlog and logfire use the SDK's batch processor, as OpenTelemetry's handler does.
        names=("ours", "ours-grpc", REFERENCE, "sentry"),
        rounds=0.5,
    ),
    "bulk": Measurement(
        (
            Column("lost of 100,000 of 1 KiB", "lost", worst=True),
            Column("memory, MiB", "grown_mib"),
        ),
        count=100_000,
        quick_count=100_000,
        names=("ours", "ours-grpc", REFERENCE),
        rounds=0.5,
    ),
}


@dataclass(frozen=True)
class Bar:
    """The maximum value of one of our figures."""

    text: str
    what: str
    column: Column
    limit: float
    name: str = "ours"


BARS = (
    Bar("caller's CPU over the floor's", "cost", Column("", "cpu_us", over="floor"), 1.5),
    Bar("caller's CPU over OpenTelemetry's", "cost", Column("", "cpu_us", over=REFERENCE), 0.3),
    Bar("process CPU over OpenTelemetry's", "work", Column("", "cpu_us", over=REFERENCE), 0.22),
    Bar(
        "with a spool: caller's CPU over the floor's",
        "cost",
        Column("", "cpu_us", over="floor"),
        2.8,
        "ours-spool",
    ),
    Bar(
        "with a spool: caller's CPU over OpenTelemetry's",
        "cost",
        Column("", "cpu_us", over=REFERENCE),
        0.6,
        "ours-spool",
    ),
    Bar(
        "with a spool: caller's CPU over a JSON file's",
        "cost",
        Column("", "cpu_us", over="file"),
        1.15,
        "ours-spool",
    ),
    Bar(
        "with a spool: process CPU over without",
        "work",
        Column("", "cpu_us", over="ours"),
        1.4,
        "ours-spool",
    ),
    Bar("exporter none over `NullHandler`", "cost", Column("", "cpu_us", over="null"), 1.1, "none"),
    Bar("start over OpenTelemetry's", "start", Column("", "logged_ms", over=REFERENCE), 0.25),
    Bar("lost of 100,000 at once", "burst", Column("", "lost", worst=True), 0),
    Bar("lost of 100,000 of 1 KiB at once", "bulk", Column("", "lost", worst=True), 0),
    Bar("the same over gRPC", "bulk", Column("", "lost", worst=True), 0, "ours-grpc"),
)


def overview(results: Results) -> list[list[str]]:
    """Return a table with a line for each subject and a column for each figure."""
    columns = [(what, column) for what in results for column in MEASUREMENTS[what].columns]
    lines = [["", *(column.title for _, column in columns)]]
    for name, subject in SUBJECTS.items():
        if missing(name):
            cells = ["not installed", *[""] * (len(columns) - 1)]
        else:
            cells = [_cell(results[what], what, name, column) for what, column in columns]
        if any(cells):
            lines.append([subject.title, *cells])
    return lines


def _cell(rounds: Rounds, what: str, name: str, column: Column) -> str:
    if name in MEASUREMENTS[what].names and name not in rounds:
        return "failed"
    value = column.value(rounds, name)
    return "" if value is None else number(value)


def bars(results: Results) -> list[list[str]]:
    """Return a table of the measured bars and whether each is met."""
    lines = [["bar", "at most", "measured", ""]]
    for bar in BARS:
        if bar.what not in results:
            continue
        value = bar.column.value(results[bar.what], bar.name)
        if value is None:
            lines.append([bar.text, f"{bar.limit:g}", "", "not measured"])
        else:
            met = "met" if value <= bar.limit else "missed"
            lines.append([bar.text, f"{bar.limit:g}", number(value), met])
    return lines


COUNTS = (100, 1_000, 10_000, 100_000, 1_000_000)
THREADS = (1, 2, 4, 8, 16)
_MANY = 100_000


def scaling(bench: Bench, *, quick: bool) -> list[list[list[str]]]:
    """Return our figures in two tables: by the number of events, and by the number of threads."""

    def steady(count: int, threads: int) -> Rounds:
        # Figures of few events vary more, so they take more rounds.
        rounds = 1 if quick else min(max(_MANY // count, 1), 9)
        return bench.rounds("steady", ("ours",), rounds=rounds, count=count, threads=threads)

    many = _MANY // 10 if quick else _MANY
    counts = [count for count in COUNTS if count <= many or not quick]
    return [
        _series("events", {f"{count:,}": steady(count, 1) for count in counts}),
        _series(f"threads, {many:,} events", {str(n): steady(many, n) for n in THREADS}),
    ]


_SERIES = (
    Column("caller, CPU µs", "cpu_us"),
    Column("wall µs per event", "wall_us"),
    Column("memory grown, MiB", "grown_mib"),
    Column("lost", "lost", worst=True),
)


def _series(title: str, points: Mapping[str, Rounds]) -> list[list[str]]:
    lines = [[title, *points, ""]]
    for column in _SERIES:
        values = [column.value(rounds, "ours") for rounds in points.values()]
        plot = sparkline([value or 0.0 for value in values])
        texts = ["" if value is None else number(value) for value in values]
        lines.append([column.title, *texts, plot])
    return lines


def number(value: float) -> str:
    """Return a figure with about three significant digits."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}" if value else "0"


def sparkline(values: list[float]) -> str:
    """Return a bar chart of the values in one line of text."""
    largest = max(values) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(max(value, 0.0) / largest * 7)] for value in values)
