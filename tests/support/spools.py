"""Queues with a spool and without a worker thread, and what is in a spool's directory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery.exporter import Exporter
from codex_otel_logging.delivery.outages import Overflow
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.sender import Retry
from codex_otel_logging.delivery.spool import disk
from codex_otel_logging.delivery.spool.journal import Journal, SpoolSettings
from codex_otel_logging.delivery.spool.records import RecordDecoder
from codex_otel_logging.delivery.worker import Worker
from codex_otel_logging.events.event import Event, SharedAttributes
from support.queued_events import numbers, turns


def no_exporter(shared: SharedAttributes) -> Any:
    raise AssertionError("events of another resource")


def settings_of(directory: Path, **more: Any) -> SpoolSettings:
    """Return settings of a spool; keywords are fields of `SpoolSettings`."""
    shared = SharedAttributes({"service.name": "s"}, {})
    return SpoolSettings(str(directory), "x", shared, no_exporter, lambda _: None, **more)


class SpooledQueue:
    """A queue with a spool; the test is its worker. Its events are numbered from 0."""

    def __init__(self, settings: SpoolSettings, events: Iterable[Event] = (), **batch: Any) -> None:
        queued = list(events)
        self.queue = EventQueue(BatchConfig(**batch), Overflow("x"), lambda: None, queued, settings)
        self.logged = len(queued)

    @property
    def journal(self) -> Journal:
        assert self.queue.journal is not None
        return self.queue.journal

    def put(self, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            (event,) = turns(1, **{"duration_ms": self.logged, **fields})
            self.logged += 1
            self.queue.put(event)

    def export(self) -> list[int]:
        """Export one batch, and return the numbers of its events."""
        queue = self.queue
        queue.refill()
        with queue.lock:
            batch = queue.take_batch()
        queue.restore()
        queue.account(queue.settled + len(batch), exported=len(batch))
        return numbers(batch)

    def export_all(self) -> list[int]:
        """Export batches until none is left, and return the numbers of their events."""
        found = []
        while batch := self.export():
            found += batch
        return found


class ThreadlessWorker(Worker):
    """A worker without a thread: `export` exports what is queued, and leftovers, on its caller.

    It does not wait between two attempts.
    """

    def __init__(
        self, settings: SpoolSettings, exporter: Exporter, events: Iterable[Event] = ()
    ) -> None:
        super().__init__(
            BatchConfig(),
            connect=lambda: exporter,
            check=lambda _: None,
            on_start=lambda: None,
            destination="x",
            events=events,
            spool=settings,
        )
        self._batches: list[Sequence[Event]] = []

    def start(self) -> bool:
        return True

    def export(self) -> None:
        """Export one batch; then, if the collector works, one of leftovers."""
        self._batches.append(self.queue.take_batch())
        self._run()

    def _next_batch(self) -> Sequence[Event] | None:
        return self._batches.pop() if self._batches else None

    def _back_off(self, retry: Retry, flush_requests: int) -> None:
        pass


@contextmanager
def held_write(
    monkeypatch: pytest.MonkeyPatch, log: Callable[[], object]
) -> Iterator[Callable[[], None]]:
    """Log an event in another thread, held in the system call that writes its record.

    Yields a function that lets it go on, which the end of the block does, too.
    """
    append = disk.append
    is_held, may_go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=log)

    def append_held(descriptor: int, data: bytes) -> int:
        # A header begins otherwise.
        if threading.current_thread() is thread and data.startswith(b"\n"):
            is_held.set()
            assert may_go_on.wait(20)
        return append(descriptor, data)

    monkeypatch.setattr(disk, "append", append_held)
    thread.start()
    try:
        assert is_held.wait(20)
        yield may_go_on.set
    finally:
        may_go_on.set()
        thread.join(20)
    assert not thread.is_alive()


def segments(directory: Path) -> list[Path]:
    """Return the segments in a directory, oldest first."""
    return sorted(directory.glob("*.spool"))


def size_of(directory: Path) -> int:
    """Return the size of all files in a directory."""
    return sum(path.stat().st_size for path in directory.iterdir())


def on_disk(directory: Path) -> list[int]:
    """Return the numbers of the events in a directory, settled or not, in the order of files."""
    return numbers(event for _, event in records(directory))


def records(directory: Path) -> list[tuple[int, Event]]:
    """Return the events in a directory with the numbers of their records, in the order of files."""
    return [
        decoded
        for path in segments(directory)
        for line in path.read_bytes().split(b"\n")
        if (decoded := RecordDecoder().decode(line)) is not None
    ]


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> bool:
    """Wait until a condition holds; return False if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
