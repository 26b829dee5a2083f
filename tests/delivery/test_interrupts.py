"""Signal handlers inside calls of this package: those that raise, as Ctrl-C does, or that log."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery import queue as queue_module
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.flushing import flush_all
from codex_otel_logging.delivery.outages import Overflow
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.spool import disk, journal
from codex_otel_logging.delivery.worker import Worker
from codex_otel_logging.events.event import Event
from support.paths import PROGRAMS
from support.queued_events import numbers, turns
from support.servers import Program
from support.spools import SpooledQueue, records, segments, settings_of


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_raising_signal_handler_leaves_queue_counts_and_bytes_exact(tmp_path: Path) -> None:
    with Program(tmp_path, str(PROGRAMS / "interrupted_calls.py"), "2000") as program:
        assert program.wait() == ""


def interrupts(
    call: Callable[[], object],
    at: int,
    handler: Callable[[], object],
    is_place: Callable[[FrameType, object], bool] = lambda _frame, _argument: True,
) -> bool:
    """Run `handler` inside `call`, where CPython may run signal handlers for the `at`-th time.

    That is at the start of a function or after a call; only those count that are an `is_place`.
    Returns False if there are fewer places.
    """
    places = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal places
        if event in ("call", "return", "c_return") and is_place(frame, argument):
            places += 1
            if places == at:
                handler()

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return places >= at


def test_event_of_a_signal_handler_inside_put_is_queued_and_counted() -> None:
    events = turns(4)

    def is_exact_when_interrupted(at: int) -> bool:
        queue = EventQueue(BatchConfig(), Overflow("x"), lambda: None)
        queue.put(events[0])
        is_interrupted = interrupts(lambda: queue.put(events[1]), at, lambda: queue.put(events[2]))
        queue.put(events[3])
        assert sorted(numbers(queue.waiting)) == ([0, 1, 2, 3] if is_interrupted else [0, 1, 3])
        assert queue.queued_bytes == sum(event.size for event in queue.waiting)
        assert queue.stats() == Stats(accepted=len(queue.waiting), queued=len(queue.waiting))
        return is_interrupted

    at = 1
    while is_exact_when_interrupted(at):
        at += 1
    assert at > 3


@pytest.mark.parametrize(
    ("warm", "before", "after", "limit"),
    [
        pytest.param(3, 0, 0, 1 << 20, id="creates-file"),
        pytest.param(1, 0, 1, 1 << 20, id="creates-file-for-cold-events-and-logs-again"),
        pytest.param(3, 1, 0, 1 << 20, id="warm"),
        pytest.param(3, 1, 1, 1 << 20, id="warm-and-logs-again"),
        pytest.param(3, 2, 0, 1 << 20, id="last-warm"),
        pytest.param(3, 3, 0, 1 << 20, id="cold"),
        pytest.param(3, 3, 1, 1 << 20, id="cold-and-logs-again"),
        pytest.param(3, 1, 0, 1, id="warm-with-a-file-of-its-own"),
        pytest.param(3, 3, 0, 1, id="cold-with-a-file-of-its-own"),
    ],
)
def test_events_of_a_signal_handler_inside_put_are_written_with_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: int, before: int, after: int, limit: int
) -> None:
    """The handler may run while this thread has a number, but no place, segment or file yet."""
    monkeypatch.setattr(disk, "MOUNTS", os.devnull)  # a list of mounts takes many calls to read
    events = turns(before + 3 + after)
    interrupted, first, second, *later = events[before:]
    monkeypatch.setattr(queue_module, "WARM_BYTES", warm * interrupted.size)
    monkeypatch.setattr(journal, "FIRST_LIMIT", limit)

    def is_exact_when_interrupted(at: int) -> bool:
        spool = tmp_path / str(at)
        spooled = SpooledQueue(settings_of(spool), max_batch_size=before + 1)
        queue = spooled.queue

        def put(*events: Event) -> None:
            for event in events:
                queue.put(event)

        put(*events[:before])
        is_interrupted = interrupts(lambda: put(interrupted), at, lambda: put(first, second))
        put(*later)
        count = before + 1 + 2 * is_interrupted + after
        assert queue.queued_bytes == sum(event.size for event in queue.waiting), at
        assert queue.stats() == Stats(accepted=count, queued=count, spooled=count), at
        assert queue.is_on_disk()
        found = dict(records(spool))
        assert sorted(found) == [*range(1, count + 1)], at
        assert len(records(spool)) == count
        exported = spooled.export()
        left = [number for number in found if number > len(exported)]
        assert {*left} <= {number for number, _ in records(spool)}, at
        exported += spooled.export_all()
        assert exported == numbers(found[number] for number in sorted(found)), at
        assert queue.stats() == Stats(accepted=count, exported=count)
        assert not segments(spool)
        return is_interrupted

    at = 1
    while is_exact_when_interrupted(at):
        at += 1
    assert at > 30


@pytest.mark.parametrize("limit", [1 << 20, 1], ids=["one-file", "file-for-each-event"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_events_of_a_signal_handler_inside_an_export_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, limit: int
) -> None:
    """The main thread exports if no other can be started, and removes what is settled.

    A handler must not write to a file that is about to be removed.
    """
    monkeypatch.setattr(disk, "MOUNTS", os.devnull)
    monkeypatch.setattr(journal, "FIRST_LIMIT", limit)
    events = turns(before + 3)

    def is_exact_when_interrupted(at: int) -> bool:
        spool = tmp_path / str(at)
        spooled = SpooledQueue(settings_of(spool), max_batch_size=2)
        queue = spooled.queue

        def put(*events: Event) -> None:
            for event in events:
                queue.put(event)

        put(*events[:before])
        exported: list[int] = []
        is_interrupted = interrupts(
            lambda: exported.extend(spooled.export()), at, lambda: put(*events[before:-1])
        )
        put(events[-1])
        count = before + 1 + 2 * is_interrupted
        assert {*range(queue.settled + 1, count + 1)} <= {number for number, _ in records(spool)}
        exported += spooled.export_all()
        assert exported == numbers(events if is_interrupted else [*events[:before], events[-1]])
        assert queue.stats() == Stats(accepted=count, exported=count)
        assert not segments(spool), at
        return is_interrupted

    at = 1
    while is_exact_when_interrupted(at):
        at += 1
    assert at > 30


def may_raise(frame: FrameType, argument: object) -> bool:
    """Return whether a signal handler may raise here, in this package, without breaking a lock."""
    # An interrupted `with lock:` leaves the lock taken, in every package.
    is_entering = getattr(argument, "__name__", "") == "__enter__"
    return "codex_otel_logging" in frame.f_code.co_filename and not is_entering


def test_interrupted_put_leaves_a_worker_that_exports_the_next_event() -> None:
    """Ctrl-C may come after the worker's thread was assigned and before it was started."""
    events = turns(2)

    class Accepting:
        def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
            return DELIVERED

        def shutdown(self) -> None:
            pass

    def interrupt() -> None:
        raise KeyboardInterrupt

    def is_exported_when_interrupted(at: int) -> bool:
        worker = Worker(
            BatchConfig(schedule_delay_ms=0),
            connect=Accepting,
            check=lambda _: None,
            on_start=lambda: None,
            destination="x",
        )
        is_interrupted = False
        try:
            interrupts(lambda: worker.queue.put(events[0]), at, interrupt, may_raise)
        except KeyboardInterrupt:
            is_interrupted = True
        worker.queue.put(events[1])
        assert flush_all([worker], 20), at
        worker.close()
        return is_interrupted

    at = 1
    while is_exported_when_interrupted(at):
        at += 1
    assert at > 30
