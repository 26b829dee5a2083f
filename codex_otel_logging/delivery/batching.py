"""Queue, worker, retry, flush, shutdown and accounting.

State: `_queue` holds the accepted events in order, `_batch` those the worker has taken from it and
is sending; together they are what is queued. Every other accepted event has been settled, that is
counted exactly once, as exported, rejected or dropped. All of this changes under `_lock` only. The
lock is held for a few instructions, never while encoding, sending, logging or waiting, and the
thread that has it may take it again (in a signal handler or a finalizer). Signal handlers, which
may raise, run between the instructions of the main thread: after a call, or at the start of a
function, but never between two assignments. So what belongs together is assigned without a call in
between, and at most one call, to a function in C, ends such a sequence. The worker waits on
`_wakeup`; `_wake_at` is the length of the queue at which `put` must wake it. For a while after a
batch it looks by itself whether there is more, so that nearly every `put` wakes nobody. Only the
thread in `_worker` touches the exporter: a thread of our own or, where none can be started, the one
that flushes: at the very end, when Python starts no thread any more, in a sub-interpreter, which
may have no daemon threads, and in uWSGI's master.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import accumulate, islice, repeat

from .. import diagnostics
from ..config.settings import BatchConfig
from ..diagnostics import suppress_own_records
from ..events.event import Event
from ..native import NativeThread, RLock, monotonic, start_in_application
from .exporter import Exporter, Outcome
from .forks import PROCESS_MARK, reset_in_child
from .outages import Troubles, report_left
from .parts import Parts
from .stats import Stats
from .wakeup import LONGEST_WAIT_S, Wakeup

_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 3.0)
"""How long to wait after the first, second, ... failure in a row; the last is the longest."""

_COMMON_SIZE = 600
"""The bytes that what an event shares with others takes in a request, as each repeats it."""

_BACKOFF_AT_EXIT_S = 0.25
_IMPORT_INTERVAL_S = 60.0
"""The shortest time between two attempts to import an exporter."""

_LOOKS = 10
"""How many times the worker looks for events by itself, before it waits to be woken."""


class BatchProcessor:
    """Takes events from any thread and sends them in batches from one of its own.

    Args:
        config: the settings under `batch`.
        connect: builds the exporter; called on the worker's thread, before the first batch.
        inspect: called with each event on the worker's thread, before it is sent.
        on_start: called before a worker is started, on the thread that starts it; a `RuntimeError`
            means that none can be.
        destination: how messages call the collector.

    """

    def __init__(
        self,
        config: BatchConfig,
        *,
        connect: Callable[[], Exporter],
        inspect: Callable[[Event], None],
        on_start: Callable[[], None],
        destination: str,
    ) -> None:
        self._config = config
        self._max_size = config.max_queue_size
        self._max_bytes = config.max_queue_bytes
        self._connect = connect
        self._inspect = inspect
        self._on_start = on_start
        self._destination = destination
        self._queue: deque[Event] = deque()
        self.reset()

    def reset(self, *, keep_queue: bool = False) -> None:
        """Begin with nothing: no event, no count, no thread, no connection. For a forked child.

        With `keep_queue`, the child has inherited the events that its parent process had queued.
        """
        self._lock = RLock()
        self._queue = deque(self._queue if keep_queue else ())
        self._batch: Sequence[Event] = ()
        self._queued_bytes = sum(event.size for event in self._queue)
        self._exported = self._rejected = self._dropped = self._overflowed = self._ignored = 0
        self._settled = 0
        self._wakeup = Wakeup()
        self._wake_at = 1
        self._worker: NativeThread | None = None
        self._exporter: Exporter | None = None
        self._import_failure: Outcome | None = None
        self._import_at = 0.0
        self._has_no_exporter = False
        self._closing = False
        self._connecting = False
        self._progressed_at = 0.0
        self._hurrying = False
        self._at_the_end = False
        self._given_up = False
        self._reported_left = False
        self._nudges = 0
        self._waiters: list[Wakeup] = []
        self._troubles = Troubles(self._destination)
        self._overflow = self._troubles.overflow

    def put(self, event: Event) -> None:
        """Accept an event. Never blocks: with the queue full, the event is dropped and counted.

        Only when the process is at its end does it deliver first, as nothing may come afterwards;
        and when Python is being taken down, nothing can be delivered any more.
        """
        if self._at_the_end and sys.is_finalizing():
            # Other threads have stopped where they were, perhaps with the lock. None runs again.
            self._overflowed += 1
            return
        if not PROCESS_MARK[0]:
            reset_in_child()
        try:
            with self._lock:
                queue = self._queue
                length = len(queue) + 1
                size = self._queued_bytes + event.size
                if size > self._max_bytes or length + len(self._batch) > self._max_size:
                    self._overflowed += 1
                    if self._overflow.begun:
                        return
                    self._overflow.begun = True
                    wake = None  # reports the overflow, but not while the lock is held
                else:
                    self._queued_bytes = size
                    queue.append(event)
                    wake = length >= self._wake_at
                    if wake:
                        self._wake_at = sys.maxsize
                        if self._worker is None:
                            self._closing = False
            if wake:
                self._wake()
            elif wake is None:
                self._overflow.report_begin()
                return
        except BaseException:
            self._wake_at = 1  # Ctrl-C came in between; the next event wakes the worker instead
            raise
        if self._at_the_end and not self._is_worker():
            finish([self])

    def ignore(self) -> None:
        """Count a record that is not an event."""
        if not PROCESS_MARK[0]:
            reset_in_child()
        with self._lock:
            self._ignored += 1

    def stats(self) -> Stats:
        """Return the counts of this moment, consistent with each other."""
        reset_in_child()
        with self._lock:
            queued = len(self._queue) + len(self._batch)
            dropped = self._dropped + self._overflowed
            accepted = self._exported + self._rejected + dropped + queued
            return Stats(accepted, self._exported, self._rejected, dropped, queued, self._ignored)

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued without waiting for more, and wait until it is settled.

        Blocks for at most `timeout_s`; False when something accepted before the call is still
        queued then. A batch that waits to be retried is retried at once.
        """
        return flush_all([self], timeout_s)

    def close(self) -> None:
        """Let the worker send what is queued, close the connection and end. Does not wait.

        An event put afterwards starts a new worker.
        """
        reset_in_child()
        with self._lock:
            if self._worker is None and not self._queue:
                return
            self._closing = True
            self._nudges += 1
        self._wake()

    def nudge(self) -> None:
        """Send what is queued now, and retry now what waits to be retried. Does not wait."""
        reset_in_child()
        with self._lock:
            if not self._queue and not self._batch:
                return
            self._nudges += 1
        self._wake()

    def expect(self, waiter: Wakeup) -> int:
        """Hurry, and tell `waiter` of each settlement; return what `settled` will be in the end."""
        with self._lock:
            self._nudges += 1
            self._waiters.append(waiter)
            target = self._settled + len(self._queue) + len(self._batch)
        if self.settled < target:
            self._wake()
        return target

    def forget(self, waiter: Wakeup) -> None:
        """Tell `waiter` no more."""
        with self._lock:
            self._waiters.remove(waiter)

    @property
    def settled(self) -> int:
        """How many of the events that were queued have been settled so far."""
        return self._settled

    @property
    def progressed_at(self) -> float:
        """The monotonic time of the last settlement or connection; now, while connecting.

        Connecting means importing and building the exporter, which takes as long as it takes.
        """
        return monotonic() if self._connecting else self._progressed_at

    @property
    def has_no_exporter(self) -> bool:
        """Whether the exporter could not be imported, and that is reported."""
        return self._has_no_exporter

    def work(self, until: float) -> bool:
        """Make sure that somebody sends: the worker, or this thread until the time `until`.

        False when this is the worker's own thread, which cannot wait for itself.
        """
        if self._is_worker():
            return False
        if self._worker is None and self._queue and not self._start():
            Context().run(self._send_here, until)
        return True

    def begin_end(self, *, for_good: bool) -> float:
        """Hurry from now on; return how long to wait without progress, in seconds.

        With `for_good`, the process is ending, and each further event is delivered at once.
        """
        self._hurrying = True
        self._at_the_end |= for_good
        return 0.0 if self._given_up else self._config.shutdown_timeout_ms / 1000

    def end(self) -> tuple[int, str] | None:
        """Return how many events are left and why, the first time any are."""
        self._hurrying = self._at_the_end
        left = self.stats().queued
        if not left:
            return None
        self._given_up = True
        if self._reported_left:
            return None
        self._reported_left = True
        return left, f"{self._destination}: {self._troubles.reason or 'no answer yet'}"

    def _is_worker(self) -> bool:
        return self._worker is not None and self._worker.is_current()

    def _wake(self) -> None:
        if self._worker is None:
            self._start()
        self._wakeup.set()
        if diagnostics.are_pending():  # not logged here, in the middle of a logging call
            with suppress(RuntimeError):
                start_in_application(diagnostics.log_pending, "codex_otel_logging reports")

    def _start(self) -> bool:
        """Start the worker if there is none; False when no thread can be started."""
        # In a context of its own: agents hand the context of the thread that starts another on to
        # it, and the worker would keep that request's transaction for life.
        worker = NativeThread(lambda: Context().run(self._run), "codex_otel_logging")
        with self._lock:
            if self._worker is not None:
                return True
            self._worker = worker
        try:
            self._on_start()
            worker.start()
        except BaseException as error:
            with self._lock:
                self._worker = None
                self._wake_at = 1
            if isinstance(error, RuntimeError):
                return False
            raise
        return True

    def _run(self) -> None:
        """Send batch after batch; the worker's whole life."""
        while (batch := self._next_batch()) is not None:
            try:
                self._send(batch)
            except Exception as error:
                # A fault of ours must not end the worker, nor leave the batch uncounted.
                left = self._batch
                self._settle(left, dropped=len(left))
                self._troubles.refused(f"unexpected {type(error).__name__}", len(left))
            if self._overflow.begun and not self._queue:
                self._overflow.report_end(self._overflowed)

    def _next_batch(self) -> Sequence[Event] | None:
        """Wait for a batch: a full one, or what there is when it is due. None means the end."""
        delay_s = self._config.schedule_delay_ms / 1000
        looks = _LOOKS if delay_s else 0
        due = None
        while True:
            with self._lock:
                waiting = len(self._queue)
                now = monotonic()
                if waiting == 0:
                    # At the end of the process connections are left to it: closing them is no
                    # use any more, and libraries that have ended already complain.
                    if self._closing and not self._at_the_end:
                        exporter = self._retire()
                        break
                    self._wake_at = self._config.max_batch_size if looks else 1
                    timeout_s = delay_s if looks else LONGEST_WAIT_S
                    looks = max(looks - 1, 0)
                    due = None
                else:
                    due = due or now + delay_s - _age_s(self._queue[0])
                    hurry = self._closing or self._hurrying or self._waiters
                    if waiting >= self._config.max_batch_size or hurry or now >= due:
                        return self._take()
                    self._wake_at = self._config.max_batch_size
                    timeout_s = due - now
                self._have_reports_logged()
            self._wakeup.wait(timeout_s)
        if exporter is not None:
            with suppress_own_records(), suppress(Exception):
                exporter.shutdown()
        return None

    def _retire(self) -> Exporter | None:
        """Leave the place to the next worker; return the exporter to close. Needs the lock."""
        exporter, self._exporter = self._exporter, None
        self._worker = None
        self._wake_at = 1
        self._closing = False
        return exporter

    def _take(self) -> Sequence[Event]:
        """Take a batch within the limits from the queue. Needs the lock."""
        if self._batch:  # a signal handler that raised has cut `_put_back` short
            self._put_back()
        queue = self._queue
        count = size = 0
        while count < min(len(queue), self._config.max_batch_size):
            size += queue[count].size + _COMMON_SIZE
            if count and size > self._config.max_request_bytes:
                break
            count += 1
        # A request may be up to twice as large as the events in memory, if their text is not ASCII.
        if 2 * size > self._config.max_request_bytes:
            sizes = (event.request_size + _COMMON_SIZE for event in islice(queue, count))
            fitting = sum(total <= self._config.max_request_bytes for total in accumulate(sizes))
            count = max(fitting, 1)
        batch: list[Event] = []
        popped = map(deque.popleft, repeat(queue, count))
        self._wake_at = sys.maxsize
        self._batch = batch
        batch.extend(popped)  # one call: an event is never in neither of the two, nor in both
        return batch

    def _send(self, batch: Sequence[Event], until: float | None = None) -> bool:
        """Send a batch until all of it is settled; in parts if it is too large as a whole.

        With a time `until`, what could not be delivered by then goes back to the queue, and the
        answer is False.
        """
        for event in batch:
            with suppress(Exception):  # it only reports
                self._inspect(event)
        parts = Parts(batch)
        failures = 0
        give_up_at = 0.0
        while parts:
            nudges = self._nudges
            part = parts.take()
            outcome = self._export(part, until)
            if outcome.verdict != "retry":
                failures = 0
                self._conclude(parts, part, outcome)
                continue
            now = monotonic()
            failures += 1
            if failures == 1:
                give_up_at = now + self._config.retry_for_ms / 1000
            if now >= give_up_at:
                self._troubles.refused(f"given up: {outcome.reason}", len(part))
                self._settle(part, dropped=len(part))
                continue
            # The first failure may be a connection that the collector closed while it was idle.
            # At the end of the process, what is left is reported with its reason, all in one line.
            no_exporter = outcome is self._import_failure
            visible = (failures > 1 or no_exporter) and not self._hurrying
            self._troubles.failed(outcome.reason, self.stats(), visible=visible)
            if no_exporter:  # nothing to wait for any more
                self._has_no_exporter = True
                self._notify()
            parts.put_back(part)
            retry_at = min(now + self._delay_s(failures, outcome), give_up_at)
            if until is not None and retry_at >= until:
                self._put_back()
                return False
            self._wait_for_retry(retry_at, nudges, throttled=bool(outcome.retry_after_s))
        return True

    def _conclude(self, parts: Parts[Event], part: Sequence[Event], outcome: Outcome) -> None:
        """Account for a part, or split it in halves to be sent instead.

        Reports come first, so that they are logged when `flush` returns.
        """
        if outcome.verdict == "delivered":
            parts.accepted()
            rejected = min(outcome.rejected, len(part))
            if outcome.web_page:
                self._troubles.web_page(outcome.reason)
            reason = "" if outcome.web_page else outcome.reason
            self._troubles.delivered(rejected, reason, self.stats(), self._overflowed)
            self._settle(part, exported=len(part) - rejected, rejected=rejected)
        elif outcome.verdict == "not encodable":
            if len(part) > 1:
                parts.halve(part)
                return
            self._troubles.refused(f"not encodable: {outcome.reason}", len(part))
            self._settle(part, dropped=len(part))
        else:
            if parts.rejected():
                part = [*part, *parts.rest()]
            elif outcome.verdict != "refused" and len(part) > 1:
                parts.halve(part)
                return
            self._troubles.refused(outcome.reason, len(part))
            self._settle(part, rejected=len(part))

    def _export(self, events: Sequence[Event], until: float | None) -> Outcome:
        with suppress_own_records():
            exporter = self._exporter or self._build_exporter()
            if isinstance(exporter, Outcome):
                return exporter
            timeout_s = None if until is None else max(until - monotonic(), 0.001)
            try:
                return exporter.export(events, timeout_s)
            except OSError as error:  # the connection is of no use any more
                self._exporter = None
                return Outcome("retry", f"no connection: {error.strerror or type(error).__name__}")
            except Exception as error:
                return Outcome("not encodable", type(error).__name__)

    def _build_exporter(self) -> Exporter | Outcome:
        """Return a new exporter, or why there is none.

        A failed import is no outage. It fails again, at some cost, until somebody installs the
        package, so it is repeated at most once in `_IMPORT_INTERVAL_S`.
        """
        if self._import_failure is not None and monotonic() < self._import_at:
            return self._import_failure
        self._connecting = True
        try:
            self._exporter = exporter = self._connect()
            self._import_failure = None
            self._has_no_exporter = False
            return exporter
        except ImportError as error:
            self._import_at = monotonic() + _IMPORT_INTERVAL_S
            self._import_failure = Outcome("retry", str(error), retry_after_s=_IMPORT_INTERVAL_S)
            return self._import_failure
        except Exception as error:
            return Outcome("retry", f"no exporter: {error}")
        finally:
            self._progressed_at = monotonic()
            self._connecting = False
            self._notify()

    def _settle(
        self, events: Sequence[Event], *, exported: int = 0, rejected: int = 0, dropped: int = 0
    ) -> None:
        """Count what became of the first events of the current batch."""
        count = len(events)
        size = sum(event.size for event in events)
        now = monotonic()
        with self._lock:
            self._batch = self._batch[count:]
            self._queued_bytes -= size
            self._exported += exported
            self._rejected += rejected
            self._dropped += dropped
            self._settled += count
            self._given_up &= not exported
            self._reported_left &= self._at_the_end or not exported
            self._progressed_at = now
        self._notify()

    def _notify(self) -> None:
        with self._lock:
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.set()

    def _delay_s(self, failures: int, outcome: Outcome) -> float:
        """Return how long to wait before the next try; never less than the collector asks for."""
        delay_s = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]
        if self._hurrying:
            delay_s = min(delay_s, _BACKOFF_AT_EXIT_S)
        # The last digits of the finest clock spread the retries of many processes.
        jitter = 0.8 + time.perf_counter_ns() % 1000 / 1000 * 0.4
        return max(delay_s * jitter, outcome.retry_after_s or 0.0)

    def _wait_for_retry(self, retry_at: float, nudges: int, *, throttled: bool) -> None:
        """Wait until it is time; who asks to flush ends the wait, unless the collector set it."""
        while (left_s := retry_at - monotonic()) > 0:
            if self._nudges != nudges and not throttled:
                return
            self._have_reports_logged()
            self._wakeup.wait(left_s)

    def _have_reports_logged(self) -> None:
        """Have the next event wake the worker if that is to log what the worker must not log."""
        if diagnostics.are_pending():
            self._wake_at = 1

    def _send_here(self, until: float) -> None:
        """Send what is queued on this thread, because no other can be started."""
        me = NativeThread.current()
        try:
            with self._lock:
                if self._worker is not None:
                    return
                self._worker = me
            # In a function: CPython 3.14 handles signals at the end of a loop outside of `try`.
            self._send_all(until)
        finally:
            if self._worker is me:
                try:
                    self._put_back()  # what is left if a signal handler has raised; Ctrl-C does
                finally:  # no call comes first, so nothing keeps this thread in its place
                    self._worker = None
                    self._wake_at = 1

    def _send_all(self, until: float) -> None:
        """Send batch after batch until the queue is empty, or a batch could not be exported."""
        while True:
            with self._lock:
                if not self._queue:
                    return
                batch = self._take()
            if not self._send(batch, until):
                return

    def _put_back(self) -> None:
        """Return the events of the batch that are not settled to the head of the queue."""
        with self._lock:
            events = reversed(self._batch)
            self._batch = ()
            self._queue.extendleft(events)


def flush_all(processors: Sequence[BatchProcessor], timeout_s: float) -> bool:
    """Flush several processors at once; see `BatchProcessor.flush`."""
    reset_in_child()
    return _settle_all(
        processors, lambda started, _progress: started + timeout_s, Wakeup.wait_cooperatively
    )


def finish(processors: Sequence[BatchProcessor], *, for_good: bool = True) -> None:
    """Send what the processors have queued before the process ends; report what could not be.

    Waits as long as there is progress with any of them: gives up after `shutdown_timeout_ms`
    without, at the latest after five times that. Ctrl-C ends the wait as well.
    """
    reset_in_child()
    try:
        timeout_s = max((p.begin_end(for_good=for_good) for p in processors), default=0.0)
        _settle_all(
            processors,
            lambda started, progress: min(progress + timeout_s, started + 5 * timeout_s),
            Wakeup.wait,  # the process is ending, and with it all greenlets
        )
    except KeyboardInterrupt:
        pass  # an impatient person; what is left is reported all the same
    finally:
        left = [found for p in processors if (found := p.end()) is not None]
        if left:
            report_left(sum(count for count, _ in left), sorted({reason for _, reason in left}))


def _settle_all(
    processors: Sequence[BatchProcessor],
    deadline: Callable[[float, float], float],
    wait: Callable[[Wakeup, float], bool],
) -> bool:
    """Wait until all that the processors have queued now is settled.

    `deadline` gives the time to stop waiting from the time it began and the time of the last
    progress, all as `native.monotonic` has it.
    """
    waiter = Wakeup()
    started = monotonic()
    targets: list[tuple[BatchProcessor, int]] = []
    try:
        targets += [(p, p.expect(waiter)) for p in processors]
        while pending := [
            p for p, target in targets if p.settled < target and not p.has_no_exporter
        ]:
            until = deadline(started, max(started, *(p.progressed_at for p in processors)))
            if monotonic() >= until:
                return False
            for processor in pending:
                if not processor.work(until):
                    return False
            wait(waiter, until - monotonic())
        return all(p.settled >= target for p, target in targets)
    finally:
        for processor, _ in targets:
            processor.forget(waiter)
        diagnostics.log_pending()


def _age_s(event: Event) -> float:
    """Return for how long an event has been queued; 0 where the clock has been set back since."""
    return max(time.time_ns() - event.observed_ns, 0) / 1e9
