"""Kills programs that log into a spool, and checks that every event arrives after their death."""

from __future__ import annotations

import json
import queue
import random
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from codex_otel_logging import CodexOtelHandler, Receiver, from_table
from codex_otel_logging.delivery.spool.segment import SUFFIX
from codex_otel_logging.receiver import ReceivedRequest, events_of
from support.collectors import Gate
from support.paths import PROGRAMS, ROOT
from support.records import record

Transport = Literal["http", "json", "grpc"]
TRANSPORTS: tuple[Transport, ...] = ("http", "json", "grpc")

STATES = ("healthy", "down", "hanging", "503")
"""What a collector may be like when a process dies; over gRPC, `503` is UNAVAILABLE."""

LOADS = ((1, 200), (4, 200), (1, 5000), (4, 5000), (1, 0), (4, 0))
"""Numbers of threads and rates in events per second; 0 is as many as possible."""

AT_ONCE = 4
"""How many processes share the directory and are killed one after the other."""

BATCH_SIZE = 512

_TIMEOUT_S = 60.0

Id = tuple[str, int]
"""Identifies an event: its conversation, and its number in it."""


class GatedCollector:
    """A receiver behind a gate, in one of the `STATES`. A context manager."""

    def __init__(self, transport: Transport) -> None:
        self.arrived: Counter[Id] = Counter()
        self._lock = threading.Lock()
        self._refuses = False
        self._receiver = Receiver(on_request=self._take)
        over_grpc = transport == "grpc"
        self._gate = Gate(
            self._receiver.grpc_endpoint if over_grpc else self._receiver.http_endpoint
        )
        settings = {"endpoint": self._gate.endpoint}
        if transport == "json":
            settings["protocol"] = "json"
        self.exporter = {"otlp-grpc" if over_grpc else "otlp-http": settings}

    def enter(self, state: str) -> None:
        """Change the state; ends all connections."""
        self._refuses = state == "503"
        change = {"down": self._gate.refuse, "hanging": self._gate.hang}
        change.get(state, self._gate.open)()

    def wait_for(self, life: str) -> bool:
        """Wait until an event of a process has arrived; return whether it has."""
        return until(lambda: any(key.startswith(f"{life}.") for key, _ in self._seen()), _TIMEOUT_S)

    def _seen(self) -> list[Id]:
        with self._lock:
            return list(self.arrived)

    def _take(self, request: ReceivedRequest) -> None:
        if self._refuses:
            raise queue.Full
        ids = [
            (event.attributes["conversation.id"], event.attributes["duration_ms"])
            for event in events_of(request)
        ]
        with self._lock:
            self.arrived.update(ids)

    def __enter__(self) -> GatedCollector:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.close()
        self._receiver.close()


@dataclass
class Result:
    """What became of the events of killed processes.

    `counted` events are those whose logging call had returned; `lost` ones of them have not
    arrived. `before` events arrived before the last death. `twice` counts arrivals beyond the
    first; `most_twice` is its maximum per kill, rounded up. `faults` describes everything that
    breaks the promise.
    """

    kills: int = 0
    counted: int = 0
    before: int = 0
    lost: int = 0
    twice: int = 0
    most_twice: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Add the figures of another one."""
        for name in ("kills", "counted", "before", "lost", "twice"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_twice = max(self.most_twice, other.most_twice)
        self.faults += other.faults


class Kills:
    """Kills processes over one transport, each group of them in a directory of its own.

    Args:
        transport: how events are exported.
        folder: where the directories are made.
        seed: determines the moments of the kills.
        longest_s: the longest time from the first event of a process to its death, in seconds.

    """

    def __init__(
        self, transport: Transport, folder: Path, *, seed: int, longest_s: float = 1.0
    ) -> None:
        self._transport = transport
        self._folder = folder
        self._random = random.Random(seed)
        self._longest_s = longest_s
        self._groups = 0

    def run(self, state: str, count: int = AT_ONCE) -> Result:
        """Start `count` processes, kill each at a random moment, and export what they left.

        In every second group the collector is healthy at first, so that the processes are connected
        when it changes. Blocks until the directory is empty, or for at most a minute.
        """
        self._groups += 1
        folder = self._folder / f"{self._transport}-{self._groups}"
        folder.mkdir()
        with GatedCollector(self._transport) as collector:
            otel = otel_table(collector.exporter, folder / "spool")
            is_healthy_first = self._groups % 2 == 0
            collector.enter("healthy" if is_healthy_first else state)
            with ExitStack() as stack:
                lives = [stack.enter_context(life) for life in self._start(folder, otel, count)]
                for life in lives:
                    life.wait_for_event()
                if is_healthy_first:
                    assert all(collector.wait_for(life.name) for life in lives), "none arrived"
                    collector.enter(state)
                for life in lives:
                    life.hurry()
                self._kill_all(lives)
            counted = {key: number for life in lives for key, number in life.counts().items()}
            before = sum(collector.arrived.values())
            collector.enter("healthy")
            is_empty = export_leftovers(otel, folder / "spool")
            return _judge(collector.arrived, counted, before, count, is_empty=is_empty, name=state)

    def _start(self, folder: Path, otel: dict[str, Any], count: int) -> Iterator[_Life]:
        for index, load in enumerate(self._random.sample(LOADS, count)):
            yield _Life(folder, f"life{index}", otel, *load)

    def _kill_all(self, lives: Sequence[_Life]) -> None:
        moments = sorted(self._random.uniform(0, self._longest_s) for _ in lives)
        started = time.monotonic()
        for life, moment in zip(lives, moments, strict=True):
            time.sleep(max(started + moment - time.monotonic(), 0))
            life.kill()


class _Life:
    """A process that logs until it is killed; a context manager that kills it at the latest."""

    def __init__(
        self, folder: Path, name: str, otel: dict[str, Any], threads: int, rate: int
    ) -> None:
        self.name = name
        self._threads = threads
        self._counts = folder / name
        self._counts.write_bytes(bytes(8 * (threads + 1)))
        self._errors = folder / f"{name}.stderr"
        program = [str(PROGRAMS / "log_until_killed.py"), json.dumps(otel), str(self._counts)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *program, name, str(threads), str(rate)],
                env={"PYTHONPATH": str(ROOT), "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def wait_for_event(self) -> None:
        until = time.monotonic() + _TIMEOUT_S
        while not any(self.counts().values()):
            assert self._process.poll() is None, self._errors.read_text()
            assert time.monotonic() < until, "no event"
            time.sleep(0.001)

    def hurry(self) -> None:
        """Let it log at its rate."""
        with self._counts.open("r+b") as file:
            file.seek(8 * self._threads)
            file.write(struct.pack("=Q", 1))

    def kill(self) -> None:
        assert self._process.poll() is None, self._errors.read_text()
        self._process.kill()
        self._process.wait()
        errors = self._errors.read_text()
        assert "Traceback" not in errors, errors

    def counts(self) -> dict[str, int]:
        *numbers, _ = struct.unpack(f"={self._threads + 1}Q", self._counts.read_bytes())
        return {f"{self.name}.{thread}": number for thread, number in enumerate(numbers)}

    def __enter__(self) -> _Life:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def otel_table(exporter: dict[str, Any], spool: Path, **batch: int) -> dict[str, Any]:
    """Return an `[otel]` table with a spool, whose queue is never full."""
    sizes = {"max_queue_size": 1_000_000, "max_queue_bytes": 1 << 30, "max_batch_size": BATCH_SIZE}
    return {
        "exporter": exporter,
        "spool": {"path": str(spool)},
        "batch": {**sizes, "schedule_delay_ms": 50, **batch},
    }


def export_leftovers(otel: dict[str, Any], spool: Path, timeout_s: float = _TIMEOUT_S) -> bool:
    """Export all leftovers of a directory, in this process; return False if any remain."""
    with handler_of(otel) as handler:
        # Leftovers are exported once the collector has accepted an event of this process.
        handler.handle(
            record("codex.turn_ttft", extra={"duration_ms": 0, "conversation.id": "next start"})
        )
        return handler.flush(timeout_s) and until(lambda: not segments(spool), timeout_s)


@contextmanager
def handler_of(otel: dict[str, Any]) -> Iterator[CodexOtelHandler]:
    """Yield a handler that is attached to no logger."""
    handler = from_table(otel)
    try:
        yield handler
    finally:
        handler.close()


def segments(spool: Path) -> list[str]:
    """Return the names of the files of a spool; none if there is no directory."""
    return sorted(path.name for path in spool.glob(f"*{SUFFIX}*"))


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Wait until a condition holds; return whether it does. For files, which cannot be awaited."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def _judge(
    arrived: Counter[Id],
    counted: dict[str, int],
    before: int,
    kills: int,
    *,
    is_empty: bool,
    name: str,
) -> Result:
    lost = [
        (life, number)
        for life, last in counted.items()
        for number in range(1, last + 1)
        if (life, number) not in arrived
    ]
    twice = sum(arrived.values()) - len(arrived)
    faults = []
    if lost:
        faults.append(f"{name}: {len(lost)} lost, such as {_examples(lost)}")
    if twice > kills * BATCH_SIZE:
        faults.append(f"{name}: {twice} twice in {kills} kills")
    if not is_empty:
        faults.append(f"{name}: the directory is not empty")
    return Result(
        kills, sum(counted.values()), before, len(lost), twice, -(-twice // kills), faults
    )


def _examples(ids: Sequence[Id]) -> str:
    return ", ".join(f"{life}:{number}" for life, number in [*ids[:3], *ids[-3:]])
