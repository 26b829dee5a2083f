"""The worker: decides when to export a batch, waits between attempts, and ends when closed.

Only the thread in `Worker.thread` takes batches and uses the exporter. Usually it is a thread of
the worker. If none can be started, it is the thread that flushes: during interpreter finalization,
in a sub-interpreter, which may have no daemon threads, and in uWSGI's master process.

The state changes only under the lock of the queue, together with `EventQueue.wake_threshold`.
Therefore `put` never misses a worker that is about to sleep or to end.

`docs/design.md` draws the states and their transitions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from enum import Enum
from typing import TYPE_CHECKING

from .. import diagnostics
from ..config.settings import BatchConfig
from ..diagnostics import suppress_own_records
from ..events.event import Event
from ..native import NativeThread, monotonic, start_in_application
from .exporter import Exporter
from .flushing import flush_at_exit
from .outages import OutageReporter, Undelivered
from .queue import EventQueue
from .sender import Retry, Sender
from .wakeup import LONGEST_WAIT_S, Wakeup

if TYPE_CHECKING:
    from .spool.journal import SpoolSettings
    from .spool.leftovers import Leftovers

RESCAN_S = 60.0
"""How often to look for leftovers of other processes, in seconds."""

_COLD_POLL_S = 0.01
"""How long the worker waits before it looks again for cold events, in seconds."""

IDLE_POLLS = 10
"""How many times an idle worker polls the queue before it sleeps until `put` wakes it.

Waking a thread is the slowest part of `put`. While events keep coming, the worker finds them by
polling, and `put` wakes it only for a full batch.
"""


class State(Enum):
    """What the worker is doing."""

    IDLE = "idle"
    """The queue is empty."""
    WAITING = "waiting"
    """Events are queued; they do not fill a batch, and the oldest one is not due yet."""
    SENDING = "sending"
    """A batch is being exported."""
    BACKING_OFF = "backing off"
    """A batch waits for its next attempt, after a failed one."""
    CLOSING = "closing"
    """The queued events are exported without delay; then the worker ends."""
    ENDED = "ended"
    """There is no thread; the next event starts one."""


# Module globals: on Python 3.10 `State.IDLE` calls a Python function, in which a signal handler
# could raise between two assignments that belong together.
IDLE, WAITING, SENDING, BACKING_OFF, CLOSING, ENDED = State

TRANSITIONS: Mapping[State, frozenset[State]] = {
    # IDLE: a worker thread starts. SENDING: the thread that flushes exports in its place.
    ENDED: frozenset({IDLE, SENDING}),
    # ENDED: the thread could not be started.
    IDLE: frozenset({WAITING, SENDING, CLOSING, ENDED}),
    WAITING: frozenset({SENDING, CLOSING}),
    # ENDED, here and below: the thread that flushes has finished or was interrupted.
    SENDING: frozenset({IDLE, WAITING, BACKING_OFF, CLOSING, ENDED}),
    BACKING_OFF: frozenset({SENDING, CLOSING, ENDED}),
    # A closing worker also exports and backs off, but stays in this state.
    CLOSING: frozenset({ENDED}),
}
"""The states that may follow each state."""


class Worker:
    """Exports the events of its queue in batches, on a thread that the first event starts.

    All methods may be called from any thread. Only `ensure_sending` may wait for the network.

    Args:
        config: the settings under `batch`.
        connect: builds the exporter; called on the worker thread, before the first batch.
        check: called with each event on the worker thread, before it is exported.
        on_start: called before the thread starts, on the thread that starts it. Raises
            `RuntimeError` if this process must not start a thread.
        destination: the name of the collector in messages.
        events: the initial contents of the queue.
        spool: where the queue writes events to disk; None means nowhere.

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
        spool: SpoolSettings | None = None,
    ) -> None:
        self._max_batch_size = config.max_batch_size
        self._schedule_delay_s = config.schedule_delay_ms / 1000
        self._shutdown_timeout_s = config.shutdown_timeout_ms / 1000
        self._on_start = on_start
        self._destination = destination
        self._reporter = OutageReporter(destination)
        self.queue = EventQueue(config, self._reporter.overflow, _on_ready(self), events, spool)
        self.sender = Sender(
            config, self.queue, self._reporter, connect=connect, check=check, spool=spool
        )
        self._leftovers: Leftovers | None = None
        if spool is not None:
            from .spool.leftovers import Leftovers

            self._leftovers = Leftovers(
                spool,
                config,
                export=self.sender.export_leftovers,
                account=self.queue.account_leftovers,
            )
        self._rescan_at = 0.0
        """When to look for leftovers again."""
        self._expire_at = 0.0
        """When to look for expired leftovers again, during an outage."""
        self._has_leftovers = False
        """Whether a batch of leftovers was exported, so that more may follow."""
        self._in_leftovers = False
        """Whether a batch of leftovers is being exported."""
        self._leftovers_until = float("-inf")
        """Until when to export leftovers in a shutdown; negative before the shutdown allows it."""
        self._state = ENDED
        self.thread: NativeThread | None = None
        """The thread that exports, if any. Changed only by the worker."""
        self._wakeup = Wakeup()
        self._flush_requests = 0
        """A count, so that a backoff ends only for requests made since the last attempt began."""
        self._flush_through = 0
        """The number of the last event that a flush has requested."""
        self._put_off: tuple[Retry, int] | None = None
        """The attempt that a flush on the calling thread had no time for, and the flush requests
        before it; see `_back_off`."""
        self._exported_when_given_up: int | None = None
        """The number of exported events when a shutdown last gave up; None if none has."""

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    def close(self) -> None:
        """Let the worker export the queued events, close the connection and end. Does not wait.

        An event that is queued after the worker has ended starts it again.
        """
        if not self.start():
            return
        with self.queue.lock:
            self._enter(CLOSING)
            self._flush_requests += 1
        self._wake()

    def request_flush(self) -> None:
        """Request an immediate export of the queued events; cuts a backoff short. Does not wait."""
        with self.queue.lock:
            if not self.queue and not self.queue.taken:
                return
            self._flush_requests += 1
            self._flush_through = self.queue.last
        self._wake()

    def add_waiter(self, waiter: Wakeup) -> int:
        """Request a flush and register `waiter` for progress.

        Returns the value of `EventQueue.settled` at which all events queued now are settled.
        """
        with self.queue.lock:
            self._flush_requests += 1
            target = self._flush_through = self.queue.add_waiter(waiter)
        if self.queue.settled < target:
            self._wake()
        return target

    def ensure_sending(self, deadline: float) -> bool:
        """Make sure that a thread exports: the worker's or, until `deadline`, the calling one.

        Blocks only in the second case. Returns False on the worker's own thread, which must not
        wait for itself: it gets here if its warnings reach an application handler that flushes.
        """
        if self._is_current():
            return False
        if not self.start():
            # In an empty context, as on the worker thread; see `start`.
            Context().run(self._export_here, deadline)
        return True

    @property
    def can_leave(self) -> bool:
        """Whether a shutdown may leave its events: an attempt failed, and all are on disk."""
        sender = self.sender
        # A process may survive the shutdown; then flushes wait again.
        return sender.shutting_down and sender.has_failed_at_exit and self.queue.is_on_disk()

    def begin_shutdown(self, *, for_good: bool) -> float:
        """Export without delays from now on; return how long to wait without progress, in seconds.

        With `for_good`, the exit hook has started: each further event is exported before `put`
        returns. Returns 0 if a shutdown has given up before and nothing was exported since, so that
        a collector that is down delays the exit only once.
        """
        exported = self.queue.exported
        # At exit the value is kept, whatever was exported since: each event of a later exit hook
        # flushes, and only the first flush that leaves events behind may report them.
        if not self.queue.at_exit and self._exported_when_given_up != exported:
            self._exported_when_given_up = None
        self.sender.shutting_down = True
        self.sender.has_failed_at_exit = False
        self.queue.at_exit |= for_good
        return 0.0 if self._exported_when_given_up == exported else self._shutdown_timeout_s

    def end_shutdown(self) -> Undelivered | None:
        """End a shutdown; return what to report about the events that are still queued.

        Returns None if there are none, or if they have been reported. A process may survive a
        SIGTERM and shut down again later; its events are reported again if any were exported in
        between. Blocks for the disk.
        """
        at_exit = self.sender.shutting_down = self.queue.at_exit
        stats = self.queue.stats()
        if not stats.queued:
            return None
        before, self._exported_when_given_up = self._exported_when_given_up, stats.exported
        if before is not None and (at_exit or before == stats.exported):
            return None
        # Usually the worker has synced after the last failed attempt; not if it hangs in a request.
        self.queue.sync()
        stats = self.queue.stats()  # that may take long, and the worker goes on exporting
        journal = self.queue.journal
        left = self.queue.left_on_disk
        unknown = "set aside after failed attempts" if stats.queued == left else "no answer yet"
        return Undelivered(
            stats.queued - stats.spooled,
            # Of those that were left, another handler or process may have exported some.
            stats.spooled - left + self.queue.count_left(),
            f"{self._destination}: {self._reporter.reason or unknown}",
            "" if journal is None else journal.path,
        )

    def _events_ready(self) -> None:
        """Wake the worker. After the exit hook, flush, because no later flush may come."""
        self._wake()
        if self.queue.at_exit and not self._is_current():
            flush_at_exit([self])

    def _is_current(self) -> bool:
        thread = self.thread  # read once: another thread may be ending
        return thread is not None and thread.is_current()

    def _enter(self, state: State) -> None:
        """Move to `state` if `TRANSITIONS` allows it. Needs the lock.

        The table is what keeps a closing worker in its state while it exports and backs off.
        """
        if state in TRANSITIONS[self._state]:
            self._state = state

    def _wake(self) -> None:
        if self.thread is None:
            self.start()
        self._wakeup.set()
        if diagnostics.are_pending():
            # Logged in a new thread: this one is inside a logging call, perhaps with the lock of a
            # handler that the report needs.
            with suppress(RuntimeError):
                start_in_application(diagnostics.log_pending, "codex_otel_logging reports")

    def start(self) -> bool:
        """Start the worker thread if events are queued; return False if none can be started.

        Does nothing if there is one.
        """
        # In an empty context: monitoring agents copy the context of the starting thread to the new
        # one. The worker would keep the trace of the request that logged the first event for life.
        thread = NativeThread(lambda: Context().run(self._run), "codex_otel_logging")
        try:
            with self.queue.lock:
                # A closing worker may have exported the events and ended since the caller looked.
                # Then nothing would ever end another thread.
                if self.thread is not None or not (self.queue or self.queue.taken):
                    return True
                self.thread = thread
                self._state = IDLE
            self._on_start()
            thread.start()
        except BaseException as error:
            with self.queue.lock:
                # A signal handler may have raised after the thread has begun, or even ended.
                if self.thread is thread and not thread.is_alive():
                    self.thread = None
                    self._state = ENDED
                    self.queue.wake_threshold = 1
            if isinstance(error, RuntimeError):
                return False
            raise
        return True

    def _run(self) -> None:
        """Export until the worker ends. The target of the worker thread."""
        try:
            self._export_until_closed()
        except Exception as error:
            # Such as a MemoryError while events are read back. They stay queued; the next event or
            # flush starts another thread.
            reason = f"unexpected {type(error).__name__}"
            self._reporter.report_failure(reason, self.queue.stats(), visible=True)
            with self.queue.lock:
                exporter = self._retire()
            if not self.queue.at_exit:  # as in `_next_batch`
                _shut_down(exporter)

    def _export_until_closed(self) -> None:
        """Export batch after batch until the worker is closed."""
        overflow = self._reporter.overflow
        while (batch := self._next_batch()) is not None:
            exported = self.queue.exported
            try:
                if batch:
                    self._send(batch)
            except Exception as error:
                # A bug in this package must neither end the worker nor leave events uncounted.
                self.sender.drop_batch(f"unexpected {type(error).__name__}")
            self._export_leftovers(is_proven=self.queue.exported > exported)
            if overflow.begun and not self.queue:
                overflow.report_end(lambda: self.queue.overflowed)

    def _next_batch(self) -> Sequence[Event] | None:
        """Wait until a batch is full or due and take it; return None when the worker ends.

        Returns an empty batch if there are leftovers to export, but no events.
        """
        self.queue.put_back()  # if a signal handler has raised while a flush did so
        delay_s = self._schedule_delay_s
        polls = IDLE_POLLS if delay_s else 0
        due = None
        while True:
            self.queue.refill()
            with self.queue.lock:
                waiting = len(self.queue)
                now = monotonic()
                if waiting == 0:
                    # Not at exit: the operating system closes the connections, and libraries whose
                    # exit hooks have run already would log errors.
                    if self._state is CLOSING and not self.queue.at_exit:
                        exporter = self._retire()
                        break
                    if self._wants_leftovers(now):
                        self._enter(SENDING)
                        return ()  # `_export_until_closed` then exports leftovers
                    self._enter(IDLE)
                    # While polls are left, only a full batch wakes this thread; then any event.
                    self.queue.wake_threshold = self._max_batch_size if polls else 1
                    timeout_s = delay_s if polls else LONGEST_WAIT_S
                    polls = max(polls - 1, 0)
                    due = None
                elif not self.queue.waiting:
                    # All are cold, and `refill` found none: other threads are still writing them.
                    timeout_s = _COLD_POLL_S
                else:
                    # Computed once per batch: the age comes from the system clock, which may be
                    # set back while the thread waits, and the batch would then be due much later.
                    due = due or now + delay_s - self.queue.oldest_age_s()
                    if waiting >= self._max_batch_size or self._is_urgent() or now >= due:
                        self._enter(SENDING)
                        return self.queue.take_batch()
                    self._enter(WAITING)
                    self.queue.wake_threshold = self._max_batch_size
                    timeout_s = due - now
                self._let_next_event_log_reports()
            self._wakeup.wait(timeout_s)
        _shut_down(exporter)
        return None

    def _is_urgent(self) -> bool:
        """Return whether events are exported without waiting for a full batch. Needs the lock."""
        is_requested = self._flush_through > self.queue.settled
        return self._state is CLOSING or self.sender.shutting_down or is_requested

    def _retire(self) -> Exporter | None:
        """Give up the place as `thread`; return the exporter to shut down. Needs the lock.

        `put` queues events under the same lock: either this thread has seen the event, or the event
        starts a new thread.
        """
        exporter = self.sender.release_exporter()
        if self._leftovers is not None:
            self._leftovers.release()
            self._has_leftovers = False
        self.thread = None
        self._state = ENDED
        self.queue.wake_threshold = 1
        return exporter

    def _send(self, batch: Sequence[Event], deadline: float | None = None) -> bool:
        """Export a batch until all of it is settled, or left on disk.

        If neither can be done by `deadline`, puts the rest back into the queue and returns False.
        """
        self._put_off = None
        self.sender.begin(batch)
        while not self.sender.is_done:
            flush_requests = self._flush_requests
            retry = self.sender.send(deadline)
            if retry is None:
                continue
            if deadline is not None and retry.at >= deadline:
                self.queue.put_back()
                self._put_off = retry, flush_requests
                return False
            if self._state is CLOSING and retry.conclusive and self.sender.leave_on_disk():
                return True
            self._expire_leftovers()
            self._back_off(retry, flush_requests)
        return True

    @property
    def is_exporting_leftovers(self) -> bool:
        """Whether the worker exports leftovers, or is about to look for some."""
        return self.thread is not None and (
            self._in_leftovers or self._wants_leftovers(monotonic())
        )

    def export_leftovers_at_exit(self, until: float) -> None:
        """Let the worker export leftovers in a shutdown, until then. Only the first call counts."""
        if self._leftovers is not None and self._leftovers_until < 0:
            self._leftovers_until = until
            if self.is_exporting_leftovers:
                self._wake()

    def _wants_leftovers(self, now: float) -> bool:
        """Return whether to export a batch of leftovers, or to look for some."""
        # Own events come first in a shutdown. There must be time for a request that takes as long
        # as the last one: the next process repeats an export that is cut short.
        if self.sender.shutting_down and (
            self.queue or now + self.sender.request_s > self._leftovers_until
        ):
            return False
        # After a failure, own events show when the collector works again.
        is_scan_due = self._leftovers is not None and now >= self._rescan_at
        return self.sender.has_succeeded and (self._has_leftovers or is_scan_due)

    def _export_leftovers(self, *, is_proven: bool) -> None:
        """Export one batch of leftovers, if there are any and the collector works.

        `is_proven` says that it has just accepted events of this worker; see `Leftovers.step`.
        """
        # Asked first: an exit waits for a worker that is exporting leftovers.
        if self._leftovers is None or not self._wants_leftovers(monotonic()):
            return
        self._in_leftovers = True
        try:
            if not self._has_leftovers:
                self._leftovers.scan()
            self._has_leftovers = self._leftovers.step(is_proven=is_proven)
        except Exception:
            # A bug in this package must not end the worker. The segment stays for `drain`, or for
            # a release without the bug.
            self._leftovers.release()
            self._has_leftovers = False
        finally:
            self._in_leftovers = False
        if not self._has_leftovers:
            self._rescan_at = monotonic() + RESCAN_S
        self.queue.notify_waiters()

    def _expire_leftovers(self) -> None:
        """Remove leftovers that are too old, after a failed attempt; now and then in an outage.

        They would fill the spool, and new events would be dropped.
        """
        now = monotonic()
        if self._leftovers is None or self.sender.shutting_down or now < self._expire_at:
            return
        self._expire_at = now + RESCAN_S
        self._has_leftovers = False
        self._rescan_at = 0.0
        with suppress(Exception):  # as in `_export_leftovers`
            self._leftovers.expire()

    def _back_off(self, retry: Retry, flush_requests: int) -> None:
        """Sleep until the next attempt.

        A flush that was requested since the last attempt began cuts the wait short, unless the
        collector sent Retry-After or RetryInfo.
        """
        with self.queue.lock:
            self._enter(BACKING_OFF)
        # A loop, because a full batch or a pending report also ends a wait.
        while (left_s := retry.at - monotonic()) > 0:
            if self._flush_requests != flush_requests and not retry.throttled:
                break
            if retry.throttled and self.sender.shutting_down:
                self.sender.fail_at_exit()  # the wait is too long for an exit
            if retry.throttled and self._state is CLOSING and self.sender.leave_on_disk():
                break
            self._let_next_event_log_reports()
            self._wakeup.wait(left_s)
        with self.queue.lock:
            self._enter(SENDING)

    def _let_next_event_log_reports(self) -> None:
        """Make the next `put` call `_wake` if reports are pending.

        Beside greenlets the worker must not log its reports itself: see `is_beside_greenlets`.
        """
        if diagnostics.are_pending():
            self.queue.wake_threshold = 1

    def _export_here(self, deadline: float) -> None:
        """Export the queued events on the calling thread, because no other can be started."""
        me = NativeThread.current()
        try:
            with self.queue.lock:
                if self.thread is not None:
                    return
                if self._is_put_off(deadline):
                    if self.sender.shutting_down and not self.sender.has_failed_at_exit:
                        self.sender.fail_at_exit()  # the wait is too long for an exit
                    return
                self.thread = me
                self._state = SENDING
            # The loop is in a function of its own: CPython 3.14 runs signal handlers at the end of
            # a loop in a place that the `try` around it does not cover.
            self._export_all(deadline)
        finally:
            if self.thread is me:
                try:
                    self.queue.put_back()  # the batch, if a signal handler has raised
                finally:  # a signal handler may have raised there too; none runs before these
                    self.thread = None
                    self._state = ENDED
                    self.queue.wake_threshold = 1
                    # Another thread that flushes may wait for this one, and have more time.
                    self.queue.notify_waiters()

    def _is_put_off(self, deadline: float) -> bool:
        """Return whether the next attempt is due after `deadline`, and no flush cuts the wait."""
        if self._put_off is None:
            return False
        retry, flush_requests = self._put_off
        is_cut_short = self._flush_requests != flush_requests and not retry.throttled
        return retry.at >= deadline and not is_cut_short

    def _export_all(self, deadline: float) -> None:
        """Export batch after batch until the queue is empty or a batch cannot be exported."""
        if self._put_off is not None:
            self._back_off(*self._put_off)
        while True:
            self.queue.refill()
            with self.queue.lock:
                if not self.queue:
                    return
                batch = self.queue.take_batch() if self.queue.waiting else ()
            if batch:
                if not self._send(batch, deadline):
                    return
            elif monotonic() >= deadline:
                return
            else:  # all are cold, and other threads are still writing them
                self._wakeup.wait(_COLD_POLL_S)


def _shut_down(exporter: Exporter | None) -> None:
    if exporter is not None:
        with suppress_own_records(), suppress(Exception):
            exporter.shutdown()


def _on_ready(worker: Worker) -> Callable[[], None]:
    """Return the `on_ready` of a worker's queue; it refers to the worker only weakly.

    A reference cycle would keep a worker that is no longer used, with its queue, alive until the
    next garbage collection.
    """
    reference = weakref.ref(worker)

    def on_ready() -> None:
        worker = reference()
        if worker is not None:
            worker._events_ready()

    return on_ready
