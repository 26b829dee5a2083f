"""`Worker` states: the transition table, its diagram, and the paths that workers take."""

from __future__ import annotations

import _thread
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.flushing import flush_all, flush_at_exit
from codex_otel_logging.delivery.wakeup import Wakeup
from codex_otel_logging.delivery.worker import TRANSITIONS, State, Worker
from codex_otel_logging.events.event import Event
from codex_otel_logging.native import NativeThread
from support.queued_events import turns
from support.spools import until

RETRY = Outcome("retry", "unavailable")

PATHS = {
    "flushed": "ended, idle, waiting, sending, idle, closing, ended",
    "closed while waiting": "ended, idle, waiting, closing, ended",
    "closed while sending": "ended, idle, sending, closing, ended",
    "more events meanwhile": "ended, idle, waiting, sending, waiting, closing, ended",
    "retried": "ended, idle, sending, backing off, sending, idle, closing, ended",
    "closed while backing off": "ended, idle, sending, backing off, closing, ended",
    "no thread": "ended, idle, ended, idle, ended, idle, ended, sending, ended",
    "interrupted": "ended, idle, ended, idle, ended, idle, ended, sending, backing off, ended",
}
"""The states that the worker passes through in each test below, in order."""


class Traced(Worker):
    """A worker that records its states; a test can wait for one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._changed = threading.Condition()
        self.states: list[State] = []
        super().__init__(*arguments, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_state":
            with self._changed:
                if self.states[-1:] != [value]:
                    self.states.append(value)
                self._changed.notify_all()

    def wait_for(self, state: State) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.states[-1] is state, 20), self.states

    @property
    def path(self) -> str:
        return ", ".join(state.value for state in self.states)


class Gated:
    """An exporter with the given outcomes; each request waits until `answer` is set."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = iter(outcomes)
        self.answer = threading.Event()
        self.answer.set()
        self.is_shut_down = False

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        assert self.answer.wait(20)
        return next(self._outcomes, DELIVERED)

    def shutdown(self) -> None:
        self.is_shut_down = True


Start = Callable[..., tuple[Traced, Gated]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Builds a worker whose exporter has the given outcomes."""
    workers: list[tuple[Traced, Gated]] = []

    def start(*outcomes: Outcome, **batch: Any) -> tuple[Traced, Gated]:
        exporter = Gated(*outcomes)
        worker = Traced(
            BatchConfig(**{"schedule_delay_ms": 600_000, **batch}),
            connect=lambda: exporter,
            check=lambda _: None,
            on_start=lambda: None,
            destination="x",
        )
        workers.append((worker, exporter))
        return worker, exporter

    yield start
    for worker, exporter in workers:
        exporter.answer.set()
        worker.close()
        worker.wait_for(State.ENDED)


def put(worker: Worker, count: int = 1) -> None:
    for event in turns(count):
        worker.queue.put(event)


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread can be started, as during interpreter finalization."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield


def test_flush_exports_waiting_events(start: Start) -> None:
    worker, _ = start()
    put(worker)
    worker.wait_for(State.WAITING)
    assert flush_all([worker], 20)
    worker.wait_for(State.IDLE)
    worker.close()
    worker.wait_for(State.ENDED)
    assert worker.path == PATHS["flushed"]
    assert worker.queue.stats().exported == 1


@pytest.mark.parametrize(
    "request_flush",
    [Worker.request_flush, lambda worker: flush_all([worker], 0)],
    ids=["without-waiting", "timeout-0"],
)
def test_requested_flush_exports_waiting_events_though_nobody_waits(
    start: Start, request_flush: Callable[[Worker], object]
) -> None:
    worker, _ = start()
    put(worker, 2)
    worker.wait_for(State.WAITING)
    request_flush(worker)
    worker.wait_for(State.IDLE)
    assert worker.queue.stats().exported == 2


def test_close_exports_waiting_events_and_ends_the_worker(start: Start) -> None:
    worker, _ = start()
    put(worker)
    worker.wait_for(State.WAITING)
    worker.close()
    worker.wait_for(State.ENDED)
    assert worker.path == PATHS["closed while waiting"]
    assert worker.queue.stats().exported == 1


def test_close_during_an_export_also_exports_later_events(start: Start) -> None:
    worker, exporter = start(schedule_delay_ms=0)
    exporter.answer.clear()
    put(worker)
    worker.wait_for(State.SENDING)
    worker.close()
    put(worker, 2)
    exporter.answer.set()
    worker.wait_for(State.ENDED)
    assert worker.path == PATHS["closed while sending"]
    assert worker.queue.stats().exported == 3


def test_event_queued_during_an_export_waits_for_the_next_batch(start: Start) -> None:
    worker, exporter = start()
    exporter.answer.clear()
    put(worker)
    worker.wait_for(State.WAITING)
    waiter = Wakeup()
    worker.add_waiter(waiter)
    worker.wait_for(State.SENDING)
    worker.queue.remove_waiter(waiter)
    put(worker)
    exporter.answer.set()
    worker.wait_for(State.WAITING)
    worker.close()
    worker.wait_for(State.ENDED)
    assert worker.path == PATHS["more events meanwhile"]


def test_failed_attempt_is_retried_after_a_backoff(start: Start) -> None:
    worker, _ = start(RETRY, schedule_delay_ms=0)
    put(worker)
    assert flush_all([worker], 20)
    worker.wait_for(State.IDLE)
    worker.close()
    worker.wait_for(State.ENDED)
    assert worker.path == PATHS["retried"]


def test_close_shortens_a_backoff(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codex_otel_logging.delivery.sender.BACKOFF_S", (600.0,))
    worker, _ = start(RETRY, schedule_delay_ms=0)
    put(worker)
    worker.wait_for(State.BACKING_OFF)
    worker.close()
    worker.wait_for(State.ENDED)
    assert worker.path == PATHS["closed while backing off"]
    assert worker.queue.stats().exported == 1


@pytest.mark.usefixtures("no_thread")
def test_flush_exports_on_the_calling_thread_if_no_thread_can_start(start: Start) -> None:
    worker, _ = start()
    put(worker)
    assert flush_all([worker], 20)
    assert worker.path == PATHS["no thread"]


@pytest.mark.usefixtures("no_thread")
def test_interrupted_flush_ends_the_worker_and_keeps_the_event_queued(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    worker, _ = start(RETRY)
    put(worker)
    with monkeypatch.context() as patch:
        patch.setattr(Wakeup, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            flush_all([worker], 20)
    assert worker.path == PATHS["interrupted"]
    assert len(worker.queue) == 1
    assert flush_all([worker], 20)


@pytest.mark.usefixtures("no_thread")
def test_flush_exports_after_another_flush_on_its_own_thread_has_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited until its timeout for a thread that did not export any more."""
    monkeypatch.setattr("codex_otel_logging.delivery.sender.BACKOFF_S", (600.0,))
    worker, exporter = start(DELIVERED, RETRY)
    put(worker)
    assert flush_all([worker], 20)  # connecting would wake the second one, too
    put(worker)
    exporter.answer.clear()
    flushed: list[bool] = []
    # Not `start`, which the fixture replaces.
    for count in (1, 2):
        _thread.start_new_thread(lambda: flushed.append(flush_all([worker], 20)), ())
        assert until(lambda count=count: len(worker.queue._waiters) == count)  # type: ignore[misc]
        worker.wait_for(State.SENDING)
    exporter.answer.set()
    assert until(lambda: len(flushed) == 2, 10)
    assert flushed == [True, True]


@pytest.mark.usefixtures("no_thread")
@pytest.mark.parametrize("retry_after_s", [None, 600.0])
def test_flush_on_its_own_thread_repeats_no_attempt_before_its_time(
    start: Start, monkeypatch: pytest.MonkeyPatch, retry_after_s: float | None
) -> None:
    monkeypatch.setattr("codex_otel_logging.delivery.sender.BACKOFF_S", (600.0,))
    worker, _ = start(RETRY._replace(retry_after_s=retry_after_s))
    put(worker)
    assert not flush_all([worker], 0.1)
    assert worker.queue.stats() == Stats(accepted=1, queued=1)
    # Another flush is a reason to try again, but not if the collector has set the time.
    assert flush_all([worker], 0.1 if retry_after_s else 20) is (retry_after_s is None)


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("has_thread", [False, True], ids=["no-thread", "thread"])
def test_batch_that_an_interrupted_flush_could_not_put_back_is_exported(
    start: Start, monkeypatch: pytest.MonkeyPatch, *, has_thread: bool, is_closed: bool
) -> None:
    """Ctrl-C may be pressed twice: while the flush waits, and while it puts the batch back."""

    def interrupted(*_: object) -> Any:
        if worker.queue.taken:
            raise KeyboardInterrupt

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker, _ = start(RETRY)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    put(worker)
    with monkeypatch.context() as patch:
        patch.setattr(Wakeup, "wait", interrupted)
        patch.setattr(worker.queue, "put_back", interrupted)
        with pytest.raises(KeyboardInterrupt):
            flush_all([worker], 20)
    assert worker.queue.taken == 1
    if has_thread:
        monkeypatch.undo()
    if is_closed:
        worker.close()
    assert flush_all([worker], 5)
    assert worker.queue.stats() == Stats(accepted=1, exported=1)


@pytest.mark.parametrize("has_begun", [True, False], ids=["thread-begun", "thread-not-begun"])
def test_ctrl_c_while_the_thread_starts_leaves_one_working_thread(
    start: Start, monkeypatch: pytest.MonkeyPatch, *, has_begun: bool
) -> None:
    """`threading.Thread.start` waits until the thread has begun, which Ctrl-C interrupts."""
    worker, exporter = start(schedule_delay_ms=0)
    exporter.answer.clear()
    interrupted: list[threading.Thread] = []
    start_thread = threading.Thread.start

    def start_and_raise(thread: threading.Thread) -> None:
        interrupted.append(thread)
        if has_begun:
            start_thread(thread)
            worker.wait_for(State.SENDING)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_raise)
        with pytest.raises(KeyboardInterrupt):
            put(worker)
    put(worker)
    worker.wait_for(State.SENDING)
    if not has_begun:
        start_thread(interrupted[0])  # the operating system was late
        interrupted[0].join(20)
        assert not interrupted[0].is_alive()
    exporter.answer.set()
    assert flush_all([worker], 20)
    worker.close()
    worker.wait_for(State.ENDED)
    interrupted[0].join(20)
    assert worker.queue.stats() == Stats(accepted=2, exported=2)
    assert worker.states.count(State.ENDED) == (2 if has_begun else 3)


def test_ctrl_c_after_the_thread_has_ended_leaves_the_thread_that_follows_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, exporter = start(schedule_delay_ms=0)
    started: list[threading.Thread] = []
    start_thread = threading.Thread.start

    def start_and_raise(thread: threading.Thread) -> None:
        started.append(thread)
        start_thread(thread)
        if len(started) == 1:
            worker.close()
            thread.join(20)
            exporter.answer.clear()
            put(worker)
            worker.wait_for(State.SENDING)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_raise)
        with pytest.raises(KeyboardInterrupt):
            put(worker)
    assert worker.thread is not None
    assert worker.state is State.SENDING
    exporter.answer.set()
    assert flush_all([worker], 20)
    assert worker.queue.stats() == Stats(accepted=2, exported=2)


def test_log_handler_that_exits_on_a_warning_does_not_end_the_worker(start: Start) -> None:
    """`sys.exit` and `pytest.fail` raise what is not an `Exception`."""

    class Exiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit

    reports, exiting = logging.getLogger("codex_otel_logging"), Exiting()
    reports.addHandler(exiting)
    try:
        worker, _ = start(Outcome("refused", "no"), schedule_delay_ms=0)
        for _ in range(2):
            put(worker)
            assert flush_all([worker], 20)
    finally:
        reports.removeHandler(exiting)
    assert worker.queue.stats() == Stats(accepted=2, exported=1, rejected=1)


def test_closed_worker_shuts_down_its_exporter_and_restarts_with_the_next_event(
    start: Start,
) -> None:
    worker, exporter = start(schedule_delay_ms=0)
    for count in (1, 2):
        put(worker)
        assert flush_all([worker], 20)
        worker.wait_for(State.IDLE)
        thread = worker.thread
        assert thread is not None
        worker.close()
        thread.join(20)
        assert worker.state is State.ENDED
        assert exporter.is_shut_down
        assert worker.queue.stats().exported == count


def test_closing_worker_keeps_its_connection_at_exit(start: Start) -> None:
    """The operating system closes connections when the process ends."""
    worker, exporter = start()
    put(worker)
    worker.wait_for(State.WAITING)
    worker.queue.at_exit = True
    worker.close()
    assert flush_all([worker], 20)
    assert worker.state is State.CLOSING
    assert not exporter.is_shut_down
    worker.queue.at_exit = False


def test_ctrl_c_before_the_exit_waits_for_leftovers_raises_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "export_leftovers_at_exit", interrupted)
    flush_at_exit([start()[0], start()[0]])


def test_close_starts_no_thread_for_an_empty_queue(start: Start) -> None:
    worker, _ = start()
    worker.close()
    assert worker.path == "ended"


@pytest.mark.parametrize("request_again", [Worker.close, Worker.request_flush])
def test_request_to_a_worker_that_is_just_ending_starts_no_thread(
    start: Start, monkeypatch: pytest.MonkeyPatch, request_again: Callable[[Worker], None]
) -> None:
    """Nothing would end it. A replaced handler is closed by `dictConfig`, and when collected."""
    worker, exporter = start(schedule_delay_ms=0)
    exporter.answer.clear()
    put(worker)
    worker.wait_for(State.SENDING)
    worker.close()
    wake = worker._wake

    def wake_once_ended() -> None:
        exporter.answer.set()
        worker.wait_for(State.ENDED)
        wake()

    monkeypatch.setattr(worker, "_wake", wake_once_ended)
    request_again(worker)
    assert worker.thread is None
    assert worker.path == PATHS["closed while sending"]


def test_worker_may_end_while_a_flush_looks_whether_it_is_its_thread(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = start()
    reads = iter([NativeThread.current(), None])
    with monkeypatch.context() as patch:
        patch.setattr(Traced, "thread", property(lambda _: next(reads)), raising=False)
        assert worker._is_current()


def test_flush_starts_another_thread_after_an_unexpected_error(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise MemoryError

    worker, _ = start()
    with monkeypatch.context() as patch:
        patch.setattr(worker.queue, "refill", fail)
        put(worker)
        worker.wait_for(State.ENDED)
    assert "export failing (unexpected MemoryError); events stay queued" in caplog.text
    assert flush_all([worker], 20)
    assert worker.queue.stats().exported == 1


def test_connection_is_closed_after_an_unexpected_error(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MemoryError

    worker, exporter = start()
    put(worker)
    assert flush_all([worker], 20)
    thread = worker.thread
    assert thread is not None
    with monkeypatch.context() as patch:
        patch.setattr(worker.queue, "refill", fail)
        put(worker)
        worker.request_flush()
        thread.join(20)
    assert exporter.is_shut_down


def moves(path: str) -> set[tuple[str, str]]:
    return set(pairwise(path.split(", ")))


LISTED = {(state.value, after.value) for state in State for after in TRANSITIONS[state]}


def test_tests_cover_exactly_the_transitions_of_the_table() -> None:
    assert set[tuple[str, str]]().union(*map(moves, PATHS.values())) == LISTED


def test_design_page_draws_exactly_the_transitions_of_the_table() -> None:
    page = files("codex_otel_logging").joinpath("docs/design.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^    (\S+) --> (\w+)(?:$|: )", page, re.MULTILINE)
    assert drawn[0] == ("[*]", "ended")
    shown = {(start.replace("_", " "), end.replace("_", " ")) for start, end in drawn[1:]}
    assert shown == LISTED
    assert len(shown) == len(drawn) - 1
