"""Reports of a full queue: immediate, once per overflow, and on a separate thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.delivery import outages
from codex_otel_logging.delivery.outages import Overflow
from support.collectors import Gate
from support.events import log
from support.fixtures import HandlerFactory

REPORTS = logging.getLogger("codex_otel_logging")

FULL = "queue full; new events are dropped"


class Lines(logging.Handler):
    """Collects reports; a test can wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self._arrival = threading.Condition()
        self.lines: list[str] = []
        self.threads: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        """Collect a line without taking the handler's lock, so that other handlers may block."""
        with self._arrival:
            self.lines.append(record.getMessage().partition(": ")[2].partition("; to diagnose")[0])
            self.threads.append(threading.current_thread().name)
            self._arrival.notify_all()
        return True

    def wait_for(self, text: str) -> bool:
        with self._arrival:
            return self._arrival.wait_for(lambda: any(text in line for line in self.lines), 10)


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    REPORTS.addHandler(lines)
    yield lines
    REPORTS.removeHandler(lines)


@pytest.fixture
def blocked(attach: HandlerFactory, gated: dict[str, Any], gate: Gate) -> Any:
    """A handler with a queue for 4 events, whose worker is blocked in its first request."""
    ((name, settings),) = gated.items()
    gate.hang()
    handler = attach(
        {
            "exporter": {name: {**settings, "timeout_ms": 60_000}},
            "batch": {"schedule_delay_ms": 0, "max_queue_size": 4, "max_batch_size": 4},
        }
    )
    log(1)
    assert gate.wait_for_connection()
    return handler


def test_full_queue_is_reported_while_the_worker_is_blocked(
    blocked: Any, gate: Gate, lines: Lines
) -> None:
    log(10)
    assert lines.wait_for(FULL)
    assert blocked.stats() == Stats(accepted=11, dropped=7, queued=4)
    log(10)
    gate.open()
    assert blocked.flush(30)
    assert lines.wait_for("queue has room again")
    assert lines.lines == [FULL, "queue has room again; 17 events dropped while it was full"]
    assert blocked.stats() == Stats(accepted=21, exported=4, dropped=17)


def test_full_queue_is_reported_once_if_many_threads_fill_it(blocked: Any, lines: Lines) -> None:
    ready = threading.Barrier(16)

    def fill() -> None:
        ready.wait(10)
        log(100)

    threads = [threading.Thread(target=fill) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert lines.wait_for(FULL)
    assert blocked.stats() == Stats(accepted=1601, dropped=1597, queued=4)
    assert lines.lines == [FULL]


def test_each_overflow_is_reported_when_it_begins_and_ends(
    attach: HandlerFactory, gated: dict[str, Any], gate: Gate, lines: Lines
) -> None:
    batch = {"schedule_delay_ms": 600_000, "max_queue_size": 4, "max_batch_size": 4}
    handler = attach({"exporter": gated, "batch": batch})
    expected = []
    for times in (1, 2):
        gate.refuse()
        log(6)
        assert lines.wait_for(FULL)
        gate.open()
        assert handler.flush(30)
        assert lines.wait_for("queue has room again")
        expected += [FULL, "queue has room again; 2 events dropped while it was full"]
        assert [line for line in lines.lines if line.startswith("queue ")] == expected
        assert handler.stats() == Stats(accepted=6 * times, exported=4 * times, dropped=2 * times)
        lines.lines.clear()
        expected.clear()


def test_end_of_an_outage_reports_the_events_dropped_by_a_full_queue(
    attach: HandlerFactory, gated: dict[str, Any], gate: Gate, lines: Lines
) -> None:
    """The overflow then has no second line of its own."""
    batch = {"schedule_delay_ms": 0, "max_queue_size": 4, "max_batch_size": 4}
    handler = attach({"exporter": gated, "batch": batch})
    gate.refuse()
    log(1)
    assert lines.wait_for("export failing")
    log(10)
    assert lines.wait_for(FULL)
    gate.open()
    assert handler.flush(30)
    assert lines.wait_for("7 events dropped or rejected meanwhile")
    assert [line for line in lines.lines if line.startswith("queue ")] == [FULL]


def test_full_queue_is_not_reported_on_the_thread_that_fills_it(blocked: Any, lines: Lines) -> None:
    """That thread may hold a lock that one of the application's handlers needs."""
    lock = threading.Lock()
    free: list[bool] = []

    class Locking(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            free.append(lock.acquire(timeout=10))
            return True

    REPORTS.addHandler(locking := Locking())
    try:
        with lock:
            log(10)
        assert lines.wait_for(FULL)
    finally:
        REPORTS.removeHandler(locking)
    assert lines.threads == ["codex_otel_logging overflow"]
    assert blocked.stats().dropped == 7


def test_reports_of_one_overflow_keep_their_order(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits for a handler that is slow to log the first line."""
    monkeypatch.setattr(outages, "LONGEST_REPORT_S", 10.0)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            if FULL in record.getMessage():
                begun.set()
                go_on.wait(10)
            return True

    slow = Slow()
    REPORTS.handlers.insert(0, slow)
    try:
        overflow = Overflow("x")
        overflow.begun = True
        overflow.report_begin()
        assert begun.wait(10)
        worker = threading.Thread(target=overflow.report_end, args=(lambda: 3,))
        worker.start()
        worker.join(0.1)
        assert worker.is_alive()
        go_on.set()
        worker.join(10)
    finally:
        REPORTS.removeHandler(slow)
    assert lines.lines == [FULL, "queue has room again; 3 events dropped while it was full"]


def test_events_dropped_while_the_end_is_being_reported_are_counted(lines: Lines) -> None:
    """They begin no overflow of their own, and perhaps none follows."""
    dropped = [2]

    class Dropping(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            dropped.append(1)
            return True

    dropping = Dropping()
    REPORTS.addHandler(dropping)
    try:
        overflow = Overflow("x")
        overflow.begun = True
        overflow.report_end(lambda: sum(dropped))
    finally:
        REPORTS.removeHandler(dropping)
    assert lines.lines == [FULL, "queue has room again; 3 events dropped while it was full"]


def test_worker_reports_a_full_queue_if_no_thread_can_start(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during interpreter finalization."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    overflow = Overflow("x")
    overflow.begun = True
    overflow.report_begin()
    assert lines.lines == []
    overflow.report_end(lambda: 3)
    assert lines.lines == [FULL, "queue has room again; 3 events dropped while it was full"]


def test_thread_that_starts_after_the_overflow_reports_nothing(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker reports the overflow before the thread runs."""
    started: list[Callable[[], None]] = []
    overflow = Overflow("x")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: started.append(thread.run))
        overflow.begun = True
        overflow.report_begin()
    overflow.report_end(lambda: 3)
    for run in started:
        run()
    assert len(started) == 1
    assert lines.lines == [FULL, "queue has room again; 3 events dropped while it was full"]
