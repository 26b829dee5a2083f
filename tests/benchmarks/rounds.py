"""Runs `measure` in fresh processes against local collectors, with all subjects in every round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median

from subjects import SUBJECTS

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parent.parent
_TIMEOUT_S = 900.0

Figures = dict[str, float]


class Rounds(dict[str, list[Figures]]):
    """The figures of each subject, round by round. Subjects that were not measured are absent."""

    def median(self, name: str, figure: str) -> float:
        """Return the median of a figure over all rounds."""
        return median(figures[figure] for figures in self[name])

    def worst(self, name: str, figure: str) -> float:
        """Return the largest value of a figure in any round."""
        return max(figures[figure] for figures in self[name])

    def ratio(self, name: str, reference: str, figure: str) -> float:
        """Return the median of a figure's ratio to another subject's in the same round."""
        pairs = zip(self[name], self[reference], strict=True)
        return median(figures[figure] / other[figure] for figures, other in pairs)


class Bench(ExitStack):
    """Measures subjects against collectors on loopback, which end with this context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self._sinks: dict[str, Sink] = {}

    def rounds(
        self, what: str, names: Iterable[str], *, rounds: int, count: int, threads: int = 1
    ) -> Rounds:
        """Measure all subjects in each of `rounds` rounds. Failures are added to `failures`."""
        measured = Rounds({name: [] for name in names if not missing(name)})
        for number in range(rounds):
            # Every second round in reverse order: a machine that slows down while it is measured
            # then affects all subjects alike.
            for name in list(measured)[:: -1 if number % 2 else 1]:
                print(f"\r\033[K{what} {number + 1}/{rounds}: {name}", end="", file=sys.stderr)
                try:
                    measured[name].append(self._measure(what, name, count, threads))
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    self.failures.append(f"{what}, {SUBJECTS[name].title}: {error}")
                    del measured[name]
        print("\r\033[K", end="", file=sys.stderr)
        return measured

    def _measure(self, what: str, name: str, count: int, threads: int) -> Figures:
        transport = SUBJECTS[name].transport
        sink = self._sink(transport or "http")
        arguments = [what, name, sink.endpoint, str(count), str(threads)]
        done = run_program("measure.py", *arguments)
        events = sink.take()["events"]
        if done.returncode:
            raise ValueError(f"exit status {done.returncode}: {done.stderr.strip()[-500:]}")
        figures: Figures = json.loads(done.stdout)
        if transport:
            figures["lost"] = figures["logged"] - events
        return figures

    def endpoint(self, transport: str) -> str:
        """Return the endpoint of a collector that answers at once."""
        return self._sink(transport).endpoint

    def _sink(self, transport: str) -> Sink:
        if transport not in self._sinks:
            self._sinks[transport] = self.enter_context(Sink.started(transport))
        return self._sinks[transport]


class Sink:
    """The collector `sink.py` in its own process."""

    def __init__(self, transport: str, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests, self._answers = process.stdin, process.stdout
        self.port = port = int(self._answers.readline())
        path = "/v1/logs" if transport == "http" else ""
        self.endpoint = f"http://127.0.0.1:{port}{path}"

    @classmethod
    @contextmanager
    def started(cls, transport: str, port: int = 0) -> Iterator[Sink]:
        """Start it; it ends with the context. With 0, the system chooses the port."""
        command = [sys.executable, str(_HERE / "sink.py"), transport, str(port)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield cls(transport, process)

    def take(self) -> dict[str, int]:
        """Return the counts since the last call."""
        print(file=self._requests, flush=True)
        counts: dict[str, int] = json.loads(self._answers.readline())
        return counts


def environment() -> dict[str, str]:
    """Return the environment of programs: the checkout's package, and no outside settings."""
    # Without PYTHONDONTWRITEBYTECODE, among others: compiled modules are kept, as those of
    # installed packages are.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "SENTRY_", "LOGFIRE_", "PYTHON"))
        and "proxy" not in name.lower()
    }
    return {**kept, "PYTHONPATH": str(_CHECKOUT)}


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this folder with the checkout's package, without outside settings."""
    return subprocess.run(
        [sys.executable, str(_HERE / program), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def missing(name: str) -> bool:
    """Return whether a package that the subject needs is not installed."""
    return any(version(package) is None for package in SUBJECTS[name].packages)


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of the installed packages that the subjects need."""
    packages = sorted({package for name in names for package in SUBJECTS[name].packages})
    return {package: found for package in packages if (found := version(package))}
