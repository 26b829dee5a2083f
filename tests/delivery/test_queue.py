"""`EventQueue` without a worker: limits, order, sequence numbers and counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery import outages
from codex_otel_logging.delivery.outages import Overflow
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.wakeup import Wakeup
from codex_otel_logging.events.event import Event
from support.queued_events import numbers, turns


def queue_of(count: int = 0, **batch: Any) -> EventQueue:
    queue = EventQueue(BatchConfig(**batch), Overflow("x"), lambda: None, turns(count))
    queue.wake_threshold = 1_000_000
    return queue


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that would be started to report an overflow."""
    names: list[str] = []
    monkeypatch.setattr(outages, "start_in_application", lambda _, name: names.append(name))
    return names


def test_full_queue_drops_the_newest_events_and_reports_them_once(reports: list[str]) -> None:
    queue = queue_of(max_queue_size=3)
    for event in turns(5):
        queue.put(event)
    assert queue.stats() == Stats(accepted=5, dropped=2, queued=3)
    assert queue.overflowed == 2
    assert numbers(queue.take_batch()) == [0, 1, 2]
    assert reports == ["codex_otel_logging overflow"]


def test_events_of_the_batch_count_against_both_bounds(reports: list[str]) -> None:
    (event,) = turns(1)
    for bound in ({"max_queue_size": 2}, {"max_queue_bytes": 2 * event.size}):
        queue = queue_of(2, **bound)
        assert len(queue.take_batch()) == 2
        queue.put(event)
        assert queue.stats() == Stats(accepted=3, dropped=1, queued=2)
        queue.account(1, exported=1)
        queue.put(event)
        assert queue.stats() == Stats(accepted=4, exported=1, dropped=1, queued=2)


def test_on_ready_is_called_once_at_the_wake_threshold() -> None:
    calls: list[int] = []
    queue = EventQueue(BatchConfig(), Overflow("x"), lambda: calls.append(len(queue)))
    queue.wake_threshold = 3
    for event in turns(5):
        queue.put(event)
    assert calls == [3]


def test_on_ready_is_called_for_each_event_at_exit() -> None:
    calls: list[int] = []
    queue = EventQueue(BatchConfig(), Overflow("x"), lambda: calls.append(len(queue)))
    queue.at_exit = True
    for event in turns(3):
        queue.put(event)
    assert calls == [1, 2, 3]


def test_event_after_an_interrupted_put_calls_on_ready_again() -> None:
    calls: list[int] = []

    def interrupted() -> None:
        calls.append(len(queue))
        if len(calls) == 1:
            raise KeyboardInterrupt

    queue = EventQueue(BatchConfig(), Overflow("x"), interrupted)
    first, second = turns(2)
    with pytest.raises(KeyboardInterrupt):
        queue.put(first)
    queue.put(second)
    assert calls == [1, 2]
    assert queue.stats() == Stats(accepted=2, queued=2)


def test_batch_stays_within_its_limits() -> None:
    assert len(queue_of(9, max_batch_size=4).take_batch()) == 4
    (event,) = turns(1)
    request_bytes = 3 * (event.request_size + 600)
    assert len(queue_of(9, max_request_bytes=request_bytes).take_batch()) == 3
    assert len(queue_of(9, max_request_bytes=1).take_batch()) == 1


@pytest.mark.parametrize("measured", ["size", "request_size"])
def test_event_logged_while_a_batch_is_measured_is_queued_behind_it(
    monkeypatch: pytest.MonkeyPatch, measured: str
) -> None:
    """A signal handler or a finalizer may log at that moment, in any function."""
    queue = queue_of(3, max_request_bytes=1_000)
    late = turns(1)
    (last,) = late
    read: Any = getattr(Event, measured)

    def log_and_read(event: Event) -> int:
        if late:
            queue.put(late.pop())
        size: int = read.__get__(event)
        return size

    monkeypatch.setattr(Event, measured, property(log_and_read))
    taken = [*queue.take_batch()]
    while queue:
        queue.account(len(taken), exported=queue.taken)
        taken += queue.take_batch()
    assert taken[-1] is last
    assert numbers(taken) == [0, 1, 2, 0]


def test_batch_that_is_put_back_is_taken_again() -> None:
    queue = queue_of(5, max_batch_size=3)
    assert numbers(queue.take_batch()) == [0, 1, 2]
    queue.account(1, exported=1)
    queue.put_back()
    assert (len(queue), queue.taken) == (4, 0)
    assert numbers(queue.take_batch()) == [1, 2, 3]


def test_take_batch_recovers_a_batch_that_was_not_put_back() -> None:
    """A signal handler that raises may prevent `put_back`."""
    queue = queue_of(5, max_batch_size=3)
    queue.take_batch()
    assert numbers(queue.take_batch()) == [0, 1, 2]
    assert queue.stats().queued == 5


def test_events_are_settled_by_their_sequence_numbers() -> None:
    queue = queue_of(4)
    assert queue.settled == 0
    assert queue.add_waiter(Wakeup()) == 4
    queue.take_batch()
    queue.account(3, exported=2, rejected=1)
    assert (queue.settled, queue.exported, queue.taken) == (3, 2, 1)
    queue.put(turns(1)[0])
    assert queue.add_waiter(Wakeup()) == 5
    queue.account(4, dropped=1)
    assert queue.stats() == Stats(accepted=5, exported=2, rejected=1, dropped=1, queued=1)


def test_each_settlement_notifies_the_waiters() -> None:
    queue, waiter = queue_of(2), Wakeup()
    queue.add_waiter(waiter)
    queue.take_batch()
    assert not waiter.wait(0)
    queue.account(1, exported=1)
    assert waiter.wait(0)
    queue.remove_waiter(waiter)
    queue.account(2, exported=1)
    assert not waiter.wait(0)


def test_ignored_records_do_not_count_as_accepted() -> None:
    queue = queue_of(1)
    queue.ignore()
    assert queue.stats() == Stats(accepted=1, queued=1, ignored=1)


def test_unsent_events_are_read_without_the_lock() -> None:
    """In a forked child, the thread that holds it does not exist."""

    class HeldElsewhere:
        def __enter__(self) -> None:
            raise AssertionError

        def __exit__(self, *_: object) -> None:
            raise AssertionError

    queue = queue_of(3)
    queue.lock = HeldElsewhere()  # type: ignore[assignment]
    assert numbers(queue.unsent()) == [0, 1, 2]


@given(steps=st.lists(st.sampled_from(["put", "take", "put back", "settle"]), max_size=60))
def test_order_counts_and_bytes_are_exact_after_any_sequence_of_calls(steps: list[str]) -> None:
    queue = queue_of(max_batch_size=3, max_queue_size=8)
    queue._overflow.begun = True
    events = turns(len(steps))
    accepted: list[int] = []
    for step, event in zip(steps, events, strict=True):
        if step == "put":
            dropped = queue.overflowed
            queue.put(event)
            accepted += numbers([event]) if queue.overflowed == dropped else []
        elif step == "take":
            expected = accepted[queue.settled : queue.settled + 3]
            assert numbers(queue.take_batch()) == expected if expected else True
        elif step == "put back":
            queue.put_back()
        elif queue.taken:
            queue.account(queue.settled + 1, exported=1)
        held = [*queue.batch, *queue.waiting]
        assert numbers(held) == accepted[queue.settled :]
        assert queue.queued_bytes == sum(event.size for event in held)
        assert queue.stats() == Stats(
            len(accepted) + queue.overflowed, queue.settled, 0, queue.overflowed, len(held)
        )
