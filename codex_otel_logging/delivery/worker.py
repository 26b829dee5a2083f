"""The worker: decides when a batch is exported, waits between attempts, and ends when closed.

Only `Worker.thread` takes batches and touches the exporter: a thread of our own or, where
none can be started, the one that flushes: at the very end, when Python starts no thread any more,
in a sub-interpreter, which may have no daemon threads, and in uWSGI's master. The state changes
under the lock of the queue only, together with what `put` compares to decide whether to wake the
worker. For a while after a batch the worker polls the queue, so that hardly any `put` has to wake
it.

`docs/design.md` draws the states and their transitions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from enum import Enum

from .. import diagnostics
from ..config.settings import BatchConfig
from ..diagnostics import suppress_own_records
from ..events.event import Event
from ..native import NativeThread, monotonic, start_in_application
from .exporter import Exporter
from .flushing import flush_at_exit
from .outages import OutageReporter
from .queue import EventQueue
from .sender import Retry, Sender
from .wakeup import LONGEST_WAIT_S, Wakeup

IDLE_POLLS = 10
"""How many times an idle worker polls the queue before it waits to be woken."""


class State(Enum):
    """What the worker is doing."""

    IDLE = "idle"
    """The queue is empty."""
    WAITING = "waiting"
    """Events are queued, until they fill a batch or the oldest is due."""
    SENDING = "sending"
    """A batch is being exported."""
    BACKING_OFF = "backing off"
    """A batch waits for its next attempt."""
    CLOSING = "closing"
    """What is queued is exported without delay; then the worker ends."""
    ENDED = "ended"
    """There is no worker; the next event starts one."""


IDLE, WAITING, SENDING, BACKING_OFF, CLOSING, ENDED = State
# Names of the module, because Python 3.10 looks members up in a function of `Enum`, in which a
# signal handler could raise.

TRANSITIONS: Mapping[State, frozenset[State]] = {
    # A worker starts; or the thread that flushes exports in its place.
    ENDED: frozenset({IDLE, SENDING}),
    # No thread can be started: back to `ENDED`.
    IDLE: frozenset({WAITING, SENDING, CLOSING, ENDED}),
    WAITING: frozenset({SENDING, CLOSING}),
    # Only a thread that exports in the worker's place ends from here, and when it is interrupted.
    SENDING: frozenset({IDLE, WAITING, BACKING_OFF, CLOSING, ENDED}),
    BACKING_OFF: frozenset({SENDING, CLOSING, ENDED}),
    # It exports and backs off without leaving this state.
    CLOSING: frozenset({ENDED}),
}
"""The states that may follow each state."""


class Worker:
    """Exports what is in its queue, in batches, on a thread that the first event starts.

    All methods may be called from any thread; none waits for the network, but for `ensure_sending`.

    Args:
        config: the settings under `batch`.
        connect: builds the exporter; called on the worker thread, before the first batch.
        check: called with each event on the worker thread, before it is exported.
        on_start: called before the thread is started, on the thread that starts it; a
            `RuntimeError` means that none can be.
        destination: how messages call the collector.
        events: what the queue holds at first.

    """

    def __init__(
        self,
        config: BatchConfig,
        *,
        connect: Callable[[], Exporter],
        check: Callable[[Event], None],
        on_start: Callable[[], None],
        destination: str,
        events: Iterable[Event] = (),
    ) -> None:
        self._max_batch_size = config.max_batch_size
        self._schedule_delay_s = config.schedule_delay_ms / 1000
        self._shutdown_timeout_s = config.shutdown_timeout_ms / 1000
        self._on_start = on_start
        self._destination = destination
        self._reporter = OutageReporter(destination)
        self.queue = EventQueue(config, self._reporter.overflow, _on_ready(self), events)
        self.sender = Sender(config, self.queue, self._reporter, connect=connect, check=check)
        self._state = ENDED
        self.thread: NativeThread | None = None
        """The thread that exports, if there is one; changed by the worker only."""
        self._wakeup = Wakeup()
        self._flush_requests = 0
        self._given_up_at: int | None = None
        """The number of exported events when a shutdown last left some behind."""

    @property
    def state(self) -> State:
        """What the worker is doing at this moment."""
        return self._state

    def close(self) -> None:
        """Let the worker export what is queued, close the connection and end. Does not wait.

        An event put afterwards starts a new worker.
        """
        with self.queue.lock:
            if self.thread is None and not self.queue:
                return
        if not self.start():
            return
        with self.queue.lock:
            self._enter(CLOSING)
            self._flush_requests += 1
        self._wake()

    def request_flush(self) -> None:
        """Export what is queued now, and retry now what backs off. Does not wait."""
        with self.queue.lock:
            if not self.queue and not self.queue.taken:
                return
            self._flush_requests += 1
        self._wake()

    def add_waiter(self, waiter: Wakeup) -> int:
        """Request a flush and set `waiter` at each progress; return what `settled` must reach."""
        with self.queue.lock:
            self._flush_requests += 1
            target = self.queue.add_waiter(waiter)
        if self.queue.settled < target:
            self._wake()
        return target

    def ensure_sending(self, deadline: float) -> bool:
        """Make sure that somebody exports: the worker, or this thread until `deadline`.

        False when this is the worker's own thread, which cannot wait for itself.
        """
        if self._is_current():
            return False
        if self.thread is None and self.queue and not self.start():
            Context().run(self._send_here, deadline)
        return True

    def begin_shutdown(self, *, for_good: bool) -> float:
        """Hurry from now on; return how long to wait without progress, in seconds.

        With `for_good` the process is ending, and each further event is exported before `put`
        returns.
        """
        exported = self.queue.exported
        if not self.queue.at_exit and self._given_up_at != exported:
            self._given_up_at = None
        self.sender.shutting_down = True
        self.queue.at_exit |= for_good
        return 0.0 if self._given_up_at == exported else self._shutdown_timeout_s

    def report_undelivered(self) -> tuple[int, str] | None:
        """End the shutdown; return how many events are left and why, the first time any are.

        They are reported again once others were exported, if the process did not end after all.
        """
        at_exit = self.sender.shutting_down = self.queue.at_exit
        stats = self.queue.stats()
        if not stats.queued:
            return None
        before, self._given_up_at = self._given_up_at, stats.exported
        if before is not None and (at_exit or before == stats.exported):
            return None
        return stats.queued, f"{self._destination}: {self._reporter.reason or 'no answer yet'}"

    def _events_ready(self) -> None:
        """Wake the worker; once the exit hook has run, wait for it, as nothing may come later."""
        self._wake()
        if self.queue.at_exit and not self._is_current():
            flush_at_exit([self])

    def _is_current(self) -> bool:
        return self.thread is not None and self.thread.is_current()

    def _enter(self, state: State) -> None:
        """Move to a state, unless the table rules it out: closing only ends. Needs the lock."""
        if state in TRANSITIONS[self._state]:
            self._state = state

    def _wake(self) -> None:
        if self.thread is None:
            self.start()
        self._wakeup.set()
        if diagnostics.are_pending():  # not logged here, in the middle of a logging call
            with suppress(RuntimeError):
                start_in_application(diagnostics.log_pending, "codex_otel_logging reports")

    def start(self) -> bool:
        """Start the worker if there is none; False when no thread can be started."""
        # In a context of its own: agents hand the context of the thread that starts another on to
        # it, and the worker would keep that request's transaction for life.
        thread = NativeThread(lambda: Context().run(self._run), "codex_otel_logging")
        with self.queue.lock:
            if self.thread is not None:
                return True
            self.thread = thread
            self._state = IDLE
        try:
            self._on_start()
            thread.start()
        except BaseException as error:
            with self.queue.lock:
                self.thread = None
                self._state = ENDED
                self.queue.wake_threshold = 1
            if isinstance(error, RuntimeError):
                return False
            raise
        return True

    def _run(self) -> None:
        """Export batch after batch; the whole life of the worker thread."""
        overflow = self._reporter.overflow
        while (batch := self._next_batch()) is not None:
            try:
                self._send(batch)
            except Exception as error:
                # A fault of ours must not end the worker, nor leave the batch uncounted.
                self.sender.drop_batch(f"unexpected {type(error).__name__}")
            if overflow.begun and not self.queue:
                overflow.report_end(self.queue.overflowed)

    def _next_batch(self) -> Sequence[Event] | None:
        """Wait for a batch: a full one, or what there is when it is due. None means the end."""
        delay_s = self._schedule_delay_s
        polls = IDLE_POLLS if delay_s else 0
        due = None
        while True:
            with self.queue.lock:
                waiting = len(self.queue)
                now = monotonic()
                if waiting == 0:
                    # At exit connections are left to the process: closing them is no use any more,
                    # and libraries that have ended already complain.
                    if self._state is CLOSING and not self.queue.at_exit:
                        exporter = self._retire()
                        break
                    self._enter(IDLE)
                    self.queue.wake_threshold = self._max_batch_size if polls else 1
                    timeout_s = delay_s if polls else LONGEST_WAIT_S
                    polls = max(polls - 1, 0)
                    due = None
                else:
                    due = due or now + delay_s - self.queue.oldest_age_s()
                    if waiting >= self._max_batch_size or self._must_hurry() or now >= due:
                        self._enter(SENDING)
                        return self.queue.take_batch()
                    self._enter(WAITING)
                    self.queue.wake_threshold = self._max_batch_size
                    timeout_s = due - now
                self._have_reports_logged()
            self._wakeup.wait(timeout_s)
        if exporter is not None:
            with suppress_own_records(), suppress(Exception):
                exporter.shutdown()
        return None

    def _must_hurry(self) -> bool:
        """Return whether what is queued is to be exported without delay. Needs the lock."""
        return self._state is CLOSING or self.sender.shutting_down or self.queue.has_waiters

    def _retire(self) -> Exporter | None:
        """Leave the place to the next worker; return the exporter to close. Needs the lock."""
        exporter = self.sender.release_exporter()
        self.thread = None
        self._state = ENDED
        self.queue.wake_threshold = 1
        return exporter

    def _send(self, batch: Sequence[Event], deadline: float | None = None) -> bool:
        """Export a batch until all of it is settled.

        With a `deadline`, what could not be exported by then goes back to the queue, and the answer
        is False.
        """
        self.sender.begin(batch)
        while not self.sender.is_done:
            flush_requests = self._flush_requests
            retry = self.sender.send(deadline)
            if retry is None:
                continue
            if deadline is not None and retry.at >= deadline:
                self.queue.put_back()
                return False
            self._back_off(retry, flush_requests)
        return True

    def _back_off(self, retry: Retry, flush_requests: int) -> None:
        """Sleep until the next attempt.

        A flush requested since the last one cuts the wait short, unless the collector throttles.
        """
        with self.queue.lock:
            self._enter(BACKING_OFF)
        while (left_s := retry.at - monotonic()) > 0:
            if self._flush_requests != flush_requests and not retry.throttled:
                break
            self._have_reports_logged()
            self._wakeup.wait(left_s)
        with self.queue.lock:
            self._enter(SENDING)

    def _have_reports_logged(self) -> None:
        """Have the next event wake the worker if that is to log what the worker must not log."""
        if diagnostics.are_pending():
            self.queue.wake_threshold = 1

    def _send_here(self, deadline: float) -> None:
        """Export what is queued on this thread, because no other can be started."""
        me = NativeThread.current()
        try:
            with self.queue.lock:
                if self.thread is not None:
                    return
                self.thread = me
                self._state = SENDING
            # In a function: CPython 3.14 handles signals at the end of a loop outside of `try`.
            self._send_all(deadline)
        finally:
            if self.thread is me:
                try:
                    self.queue.put_back()  # what is left if a signal handler has raised
                finally:  # no call comes first, so nothing keeps this thread in its place
                    self.thread = None
                    self._state = ENDED
                    self.queue.wake_threshold = 1

    def _send_all(self, deadline: float) -> None:
        """Export batch after batch until the queue is empty, or a batch could not be exported."""
        while True:
            with self.queue.lock:
                if not self.queue:
                    return
                batch = self.queue.take_batch()
            if not self._send(batch, deadline):
                return


def _on_ready(worker: Worker) -> Callable[[], None]:
    """Return what a queue calls to wake its worker; keeps no reference that would form a cycle.

    A worker that nobody uses any more must be gone at once, not with the next garbage collection.
    """
    reference = weakref.ref(worker)

    def on_ready() -> None:
        worker = reference()
        if worker is not None:
            worker._events_ready()

    return on_ready
