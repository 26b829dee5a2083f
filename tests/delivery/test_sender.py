"""`Sender` without a worker: outcomes, retries, splitting and giving up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery.exporter import DELIVERED, Exporter, Outcome
from codex_otel_logging.delivery.outages import OutageReporter
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.sender import LeftoverExporter, Retry, Sender, no_connection
from codex_otel_logging.delivery.wakeup import Wakeup
from codex_otel_logging.diagnostics import is_own_export
from codex_otel_logging.events.event import Event, SharedAttributes
from codex_otel_logging.native import monotonic
from support.queued_events import numbers, turns

RETRY = Outcome("retry", "unavailable")
TOO_LARGE = Outcome("too large", "too large")


class Scripted:
    """An exporter with one given outcome per request; exceptions are raised."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self._outcomes = iter(outcomes)
        self.requests: list[list[int]] = []
        self.timeouts: list[float | None] = []
        self.connections = 0

    def connect(self) -> Exporter:
        self.connections += 1
        return self

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        self.requests.append(numbers(events))
        self.timeouts.append(timeout_s)
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def shutdown(self) -> None:
        raise AssertionError


def sender_of(
    count: int,
    connect: Callable[[], Exporter],
    check: Callable[[Event], None] = lambda _: None,
    **batch: Any,
) -> tuple[EventQueue, Sender]:
    config, reporter = BatchConfig(**batch), OutageReporter("x")
    queue = EventQueue(config, reporter.overflow, lambda: None, turns(count))
    sender = Sender(config, queue, reporter, connect=connect, check=check)
    sender.begin(queue.take_batch())
    return queue, sender


def send_all(sender: Sender) -> list[Retry]:
    """Send the batch without waiting; return the retries that the sender asked for."""
    retries = []
    while not sender.is_done:
        if (retry := sender.send()) is not None:
            retries.append(retry)
    return retries


def test_accepted_batch_counts_exported_and_rejected_events() -> None:
    exporter = Scripted(Outcome("delivered", rejected=1))
    checked: list[Event] = []
    queue, sender = sender_of(3, exporter.connect, checked.append)
    assert numbers(checked) == [0, 1, 2]
    assert send_all(sender) == []
    assert queue.stats() == Stats(accepted=3, exported=2, rejected=1)


def test_rejected_batch_does_not_count_as_a_success() -> None:
    exporter = Scripted(Outcome("refused", "no"))
    queue, sender = sender_of(1, exporter.connect)
    sender.has_failed_at_exit = True
    assert send_all(sender) == []
    assert queue.stats() == Stats(accepted=1, rejected=1)
    assert not sender.has_succeeded
    assert sender.has_failed_at_exit


def test_exception_in_check_does_not_affect_the_export() -> None:
    exporter = Scripted(DELIVERED)

    def failing(_: Event) -> None:
        raise RuntimeError

    queue, sender = sender_of(2, exporter.connect, failing)
    send_all(sender)
    assert queue.stats() == Stats(accepted=2, exported=2)


def test_failed_part_is_retried_before_later_parts() -> None:
    exporter = Scripted(TOO_LARGE, DELIVERED, RETRY, DELIVERED)
    queue, sender = sender_of(4, exporter.connect)
    before = monotonic()
    (retry,) = send_all(sender)
    assert exporter.requests == [[0, 1, 2, 3], [0, 1], [2, 3], [2, 3]]
    assert before + 0.08 <= retry.at <= monotonic() + 0.12
    assert not retry.throttled
    assert queue.stats() == Stats(accepted=4, exported=4)


def test_failed_import_during_an_export_drops_no_event() -> None:
    """As in a child that was forked while a thread of its parent imported the same module."""
    exporter = Scripted(ImportError("partially initialized module"), DELIVERED)
    queue, sender = sender_of(4, exporter.connect)
    assert len(send_all(sender)) == 1
    assert exporter.requests == [[0, 1, 2, 3]] * 2
    assert queue.stats() == Stats(accepted=4, exported=4)


def test_event_that_cannot_be_encoded_is_dropped_alone() -> None:
    exporter = Scripted(*[ValueError()] * 3, DELIVERED, DELIVERED)
    queue, sender = sender_of(4, exporter.connect)
    send_all(sender)
    assert exporter.requests == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]
    assert queue.stats() == Stats(accepted=4, exported=3, dropped=1)


def test_batch_is_dropped_after_retry_for_ms() -> None:
    exporter = Scripted(RETRY)
    queue, sender = sender_of(2, exporter.connect, retry_for_ms=0)
    assert send_all(sender) == []
    assert queue.stats() == Stats(accepted=2, dropped=2)


def test_last_attempt_is_due_at_retry_for_ms() -> None:
    """Even if Retry-After is longer."""
    exporter = Scripted(Outcome("retry", retry_after_s=3600.0))
    _, sender = sender_of(2, exporter.connect, retry_for_ms=5000)
    retry = sender.send()
    assert retry is not None
    assert retry.throttled
    assert retry.at <= monotonic() + 5


def test_lost_connection_is_replaced_by_a_new_exporter() -> None:
    exporter = Scripted(ConnectionResetError(104, "reset"), DELIVERED)
    queue, sender = sender_of(1, exporter.connect)
    assert len(send_all(sender)) == 1
    assert exporter.connections == 2
    assert queue.stats() == Stats(accepted=1, exported=1)


def test_failed_import_notifies_waiters_and_is_not_repeated_immediately() -> None:
    attempts: list[bool] = []

    def connect() -> Exporter:
        attempts.append(sender.has_no_exporter)
        raise ImportError("not installed")

    queue, sender = sender_of(1, connect)
    waiter = Wakeup()
    queue.add_waiter(waiter)
    for _ in range(3):
        retry = sender.send()
        assert retry is not None
        assert retry.throttled
        assert sender.has_no_exporter
        assert waiter.wait(0)
    assert attempts == [False]
    assert queue.stats() == Stats(accepted=1, queued=1)


def test_connecting_counts_as_progress() -> None:
    times: list[float] = []

    def connect() -> Exporter:
        times.extend((monotonic(), sender.progressed_at, monotonic()))
        raise RuntimeError

    _, sender = sender_of(1, connect)
    assert sender.progressed_at == 0
    sender.send()
    assert len(times) == 3
    assert times == sorted(times)
    assert times[2] <= sender.progressed_at <= monotonic()


def test_deadline_limits_the_timeout_of_a_request() -> None:
    exporter = Scripted(RETRY, DELIVERED)
    _, sender = sender_of(1, exporter.connect)
    sender.send()
    sender.send(monotonic() + 5)
    no_deadline, timeout_s = exporter.timeouts
    assert no_deadline is None
    assert timeout_s is not None
    assert 0 < timeout_s <= 5


def test_rest_of_a_batch_is_dropped_after_an_unexpected_error() -> None:
    exporter = Scripted(TOO_LARGE, DELIVERED)
    queue, sender = sender_of(4, exporter.connect)
    sender.send()
    sender.send()
    sender.drop_batch("unexpected error")
    assert queue.stats() == Stats(accepted=4, exported=2, dropped=2)


def test_released_exporter_is_built_anew() -> None:
    exporter = Scripted(DELIVERED, DELIVERED)
    queue, sender = sender_of(1, exporter.connect)
    send_all(sender)
    released: Any = sender.release_exporter()
    assert released is exporter
    assert sender.release_exporter() is None
    queue.put(turns(1)[0])
    sender.begin(queue.take_batch())
    send_all(sender)
    assert exporter.connections == 2


@pytest.mark.parametrize("failures", [1, 2, 3, 50])
@pytest.mark.parametrize("retry_after_s", [None, 0.0, 7.0])
def test_backoff_is_positive_and_at_least_retry_after(
    failures: int, retry_after_s: float | None
) -> None:
    _, sender = sender_of(1, Scripted().connect)
    delay_s = sender.backoff_s(failures, Outcome("retry", retry_after_s=retry_after_s))
    assert delay_s >= max(0.08, retry_after_s or 0.0)
    assert delay_s <= 7.0


@pytest.mark.parametrize("retry_after_s", [86_400.0, 1e11, float("inf")])
def test_collector_delays_the_next_attempt_by_an_hour_at_most(retry_after_s: float) -> None:
    """With a spool nothing else limits the wait; `Retry-After` may be a date in the year 9999."""
    _, sender = sender_of(1, Scripted().connect)
    outcome = Outcome("retry", retry_after_s=retry_after_s)
    assert sender.backoff_s(1, outcome, is_on_disk=True) == 3600


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionResetError(104, "reset"), "no connection: reset"),
        (InterruptedError(), "no connection: InterruptedError"),
    ],
)
def test_lost_connection_is_described_by_its_error(error: OSError, reason: str) -> None:
    assert no_connection(error) == Outcome("retry", reason)


class Leftovers:
    """Connects the exporters of a `LeftoverExporter`, and lists its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.connect_error: Exception | None = None

    def connect(self, shared: SharedAttributes) -> Exporter:
        assert is_own_export()
        self.calls.append(f"connect {shared.resource['service.name']}")
        if self.connect_error is not None:
            raise self.connect_error
        return self

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        assert is_own_export()
        self.calls.append("export")
        if self.error is not None:
            raise self.error
        return DELIVERED

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        raise RuntimeError


def test_leftovers_share_a_connection_until_their_shared_attributes_change() -> None:
    """An error while the old connection is closed does not matter."""
    leftovers = Leftovers()
    exporter = LeftoverExporter(leftovers.connect)
    first, second = (SharedAttributes({"service.name": name}, {}) for name in "ab")
    for shared in (first, first, second):
        assert exporter.export(shared, turns(1)) == DELIVERED
    exporter.close()
    exporter.close()
    assert not is_own_export()
    assert leftovers.calls == [
        *("connect a", "export", "export", "shutdown"),
        *("connect b", "export", "shutdown"),
    ]


def test_leftovers_are_retried_on_a_new_connection_after_a_failure() -> None:
    leftovers = Leftovers()
    exporter = LeftoverExporter(leftovers.connect)
    shared = SharedAttributes({"service.name": "a"}, {})
    leftovers.error = ConnectionResetError(104, "reset")
    assert exporter.export(shared, turns(1)) == Outcome("retry", "no connection: reset")
    leftovers.connect_error = ValueError("odd")
    assert exporter.export(shared, turns(1)) == Outcome("retry", "no exporter: odd")
    leftovers.error = leftovers.connect_error = None
    assert exporter.export(shared, turns(1)) == DELIVERED
    assert leftovers.calls == ["connect a", "export", "connect a", "connect a", "export"]
