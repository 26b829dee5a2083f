"""Exports batches: builds the exporter, retries, splits rejected batches, gives up.

Events that are on disk follow other rules: they are retried for as long as the spool keeps them,
and refusals are retried as well. Those rules apply part by part, because a disk may fail.

Runs on one thread at a time: the worker or, if no thread can be started, the thread that flushes.
Holds no lock during a request and does not sleep: the worker waits between two attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ..config.settings import BatchConfig
from ..diagnostics import suppress_own_records
from ..events.event import Event, SharedAttributes
from ..native import monotonic
from .exporter import REFUSAL_INTERVAL_S, Exporter, Outcome
from .outages import OutageReporter
from .parts import MAX_REJECTED_BATCHES, Parts, Settlement
from .queue import EventQueue

if TYPE_CHECKING:
    from .spool.journal import SpoolSettings

BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 3.0)
"""Backoff after the first, second, ... consecutive failure, in seconds; the last value repeats."""

BACKOFF_ON_DISK_S = (*BACKOFF_S, 5.0, 10.0, 20.0, 30.0)
"""The same for events on disk: an outage may last for days."""

SET_ASIDE_AFTER = 5
"""After how many consecutive failures a batch on disk may be set aside, to let others pass."""

LONGEST_RETRY_AFTER_S = 3600.0
"""The longest delay that a collector can ask for, in seconds.

A date in the far future, or milliseconds for seconds, would stop the export of events on disk until
the process ends.
"""

_BACKOFF_AT_EXIT_S = 0.25
"""Longest backoff at exit, in seconds: several attempts must fit into `shutdown_timeout_ms`."""

IMPORT_INTERVAL_S = 60.0
"""Minimum time between two attempts to import an exporter, in seconds."""


def attempt(exporter: Exporter, events: Sequence[Event], timeout_s: float | None) -> Outcome:
    """Export events in one request; see `Exporter.export`.

    Raises:
        OSError: another exporter is needed.

    """
    try:
        return exporter.export(events, timeout_s)
    except OSError:
        raise
    except ImportError as error:  # says nothing about the events
        return Outcome("retry", f"unexpected {type(error).__name__}")
    except Exception as error:
        return Outcome("not encodable", type(error).__name__)


def no_connection(error: OSError) -> Outcome:
    """Return the outcome of an attempt that has raised an `OSError`."""
    return Outcome("retry", f"no connection: {error.strerror or type(error).__name__}")


class Retry(NamedTuple):
    """The time of the next attempt, as a time of `native.monotonic`.

    `throttled` is True if the collector set the time (HTTP `Retry-After`, gRPC `RetryInfo`). A
    flush then does not cut the wait short.

    `conclusive` is False for one failure on a connection that was used before: the collector may
    have closed it while it was idle.
    """

    at: float
    throttled: bool
    conclusive: bool = True


class LeftoverExporter:
    """Exports events of other processes, with the shared attributes of each. Not thread-safe.

    Args:
        connect: builds an exporter; called again when the shared attributes change.

    """

    def __init__(self, connect: Callable[[SharedAttributes], Exporter]) -> None:
        self._connect = connect
        self._current: tuple[SharedAttributes, Exporter] | None = None

    def export(
        self, shared: SharedAttributes, events: Sequence[Event], timeout_s: float | None = None
    ) -> Outcome:
        """Export events in one request.

        Blocks for at most about the exporter's timeout, or `timeout_s` if that is shorter.
        """
        with suppress_own_records():
            try:
                if self._current is None or self._current[0] != shared:
                    self.close()
                    self._current = shared, self._connect(shared)
                return attempt(self._current[1], events, timeout_s)
            except OSError as error:
                self._current = None
                return no_connection(error)
            except Exception as error:
                return Outcome("retry", f"no exporter: {error}")

    def close(self) -> None:
        """Close the connection; the next call of `export` opens another one."""
        if self._current is not None:
            _, exporter = self._current
            self._current = None
            with suppress(Exception):
                exporter.shutdown()


class Sender:
    """Exports one batch at a time and accounts for its events in the queue. Not thread-safe.

    Args:
        config: the settings under `batch`.
        queue: the queue that the batches are taken from.
        reporter: reports outages and losses.
        connect: builds the exporter; called before the first batch, and again after a lost
            connection. `ImportError` means that a package is missing or broken.
        check: called with each event before it is exported; its exceptions are ignored.
        spool: where the queue writes events to disk; None means nowhere.

    """

    def __init__(
        self,
        config: BatchConfig,
        queue: EventQueue,
        reporter: OutageReporter,
        *,
        connect: Callable[[], Exporter],
        check: Callable[[Event], None],
        spool: SpoolSettings | None = None,
    ) -> None:
        self.shutting_down = False
        """Whether the process is about to end. Backoff is then short; failures are not reported."""
        self.has_failed_at_exit = False
        """Whether a shutdown's last attempt has failed conclusively; see `Retry`."""
        self.has_no_exporter = False
        """Whether importing the exporter failed. A flush then does not wait for this sender."""
        self.has_succeeded = False
        """Whether the last request succeeded, so that the connection works, or did."""
        self.request_s = 0.0
        """How long the last request took, in seconds."""
        self._retry_for_s = config.retry_for_ms / 1000
        self._queue = queue
        self._reporter = reporter
        self._connect = connect
        self._check = check
        self._spool = spool
        self._exporter: Exporter | None = None
        self._leftover_exporter: LeftoverExporter | None = None
        self._import_failure: Outcome | None = None
        self._import_again_at = 0.0
        self._progressed_at: float | None = 0.0
        self._is_collector_proven = False
        """Whether the batch's rejections come from a collector, and not from a proxy."""
        self._rejected_batches = 0
        """How many batches in a row were rejected as a whole."""
        self._parts: Parts[Event] = Parts(())
        self._failures = 0
        self._give_up_at = 0.0
        self._expired_retry: Retry | None = None
        """When the next attempt is due, if all events of the last failed one have expired."""

    @property
    def progressed_at(self) -> float:
        """The time of the last progress: events settled, or an exporter built.

        While the exporter is being built, this is the current time: importing OpenTelemetry or gRPC
        may take seconds on a slow disk, and a flush must not mistake that for an outage.
        """
        progressed_at = self._progressed_at
        return monotonic() if progressed_at is None else progressed_at

    @property
    def is_done(self) -> bool:
        """Whether all events of the batch are settled."""
        return not self._parts

    def begin(self, batch: Sequence[Event]) -> None:
        """Start a batch that was just taken from the queue; `send` exports it, part by part."""
        for event in batch:
            # A check only reports invalid fields. A fault in it must not cost the event.
            try:  # noqa: SIM105  # `suppress` would take a third as long as the check
                self._check(event)
            except Exception:
                pass
        self._is_collector_proven = False
        self._parts = Parts(batch)
        self._failures = 0

    def send(self, deadline: float | None = None) -> Retry | None:
        """Export the next part of the batch in one request.

        Blocks for at most about the exporter's timeout, or until `deadline` if that is earlier.
        Returns the time of the next attempt; None if there is none to wait for, because the part is
        settled, was split, or was left on disk.
        """
        part = self._parts.take()
        self._queue.restore()
        if (retry := self._expired_retry) is not None and monotonic() < retry.at:
            return self._expire_more(part, retry)
        self._expired_retry = None
        answer = self._export(part, deadline)
        spool = self._spool_of(len(part))
        outcome = answer if spool is None else spool.keeping(answer)
        if outcome.verdict == "retry":
            return self._retry_later(part, outcome, is_refused=outcome is not answer)
        settlement = self._parts.apply(part, outcome)
        if settlement is None:
            return None
        if settlement.rejected and not self._prove_collector():
            # The halves tell nothing if no collector has answered: retry the batch as a whole.
            self._parts = Parts(self._queue.batch)
            kept = outcome._replace(verdict="retry", retry_after_s=REFUSAL_INTERVAL_S)
            return self._retry_later(
                self._parts.take(), kept, is_refused=True, is_empty_refused=True
            )
        self._failures = 0
        if outcome.verdict == "delivered":
            self.has_succeeded = True
            self.has_failed_at_exit = False
        if self._parts.any_accepted:
            self._rejected_batches = 0
        elif self.is_done and settlement.rejected:
            self._rejected_batches += 1
        self._report(settlement, outcome)
        self._account(settlement)
        return None

    def _retry_later(
        self,
        part: Sequence[Event],
        outcome: Outcome,
        *,
        is_refused: bool = False,
        is_empty_refused: bool = False,
    ) -> Retry | None:
        """Put a part back after a failed attempt; return the time of the next one.

        Returns None if the part was dropped, has expired or was set aside. `is_refused`: the part
        was refused, and is retried because it is on disk. `is_empty_refused`: so was an empty
        request after it.
        """
        now = monotonic()
        self._is_collector_proven = False  # something else may answer the next attempt
        self._failures += 1
        if self._failures == 1:  # retry_for_ms begins when the first attempt has failed
            self._give_up_at = now + self._retry_for_s
        spool = self._spool_of(len(part))
        if spool is not None:
            # The events may stay on disk for as long as the outage lasts, so they must survive a
            # power loss from now on. While exports succeed, nothing is synced.
            self._queue.sync()
            if expired := spool.count_expired(part):
                self._drop(expired, f"spool.keep_for_ms exceeded: {outcome.reason}")
                part = part[expired:]
            if part and self._set_aside(is_empty_refused=is_empty_refused):
                return None
        elif now >= self._give_up_at:
            self._drop(len(part), f"retry_for_ms exceeded: {outcome.reason}")
            return None
        if part:
            self._parts.put_back(part)
        conclusive = self._note_failure(outcome, is_refused=is_refused)
        retry_at = now + self.backoff_s(self._failures, outcome, is_on_disk=spool is not None)
        if spool is None:
            # The last attempt is made at the end of retry_for_ms, even if the backoff is longer.
            retry_at = min(retry_at, self._give_up_at)
        retry = Retry(retry_at, throttled=bool(outcome.retry_after_s), conclusive=conclusive)
        if part:
            return retry
        self._expired_retry = retry
        return None

    def _expire_more(self, part: Sequence[Event], retry: Retry) -> Retry | None:
        """Drop what else has expired, without an attempt; return `retry` if not all of `part` has.

        The attempt for the batch before has just failed, and `retry` is when the next one is due.
        """
        spool = self._spool_of(len(part))
        expired = 0 if spool is None else spool.count_expired(part)
        if expired:
            self._drop(expired, f"spool.keep_for_ms exceeded: {self._reporter.reason}")
        if expired == len(part):
            return None
        self._expired_retry = None
        self._parts.put_back(part[expired:])
        return retry

    def _note_failure(self, outcome: Outcome, *, is_refused: bool) -> bool:
        """Report a failed attempt, and let flushes know; return whether it is conclusive."""
        # A single failure is not reported: often the collector has closed an idle connection, and
        # the retry succeeds. At exit, one line reports the remaining events with the last reason.
        no_exporter = outcome is self._import_failure
        visible = (self._failures > 1 or no_exporter or is_refused) and not self.shutting_down
        self._reporter.report_failure(outcome.reason, self._queue.stats(), visible=visible)
        if no_exporter:  # a flush that waits for this sender returns now
            self.has_no_exporter = True
            self._queue.notify_waiters()
        conclusive = self._failures > 1 or not self.has_succeeded
        if self.shutting_down and conclusive:
            self.fail_at_exit()
        self.has_succeeded = False
        return conclusive

    def fail_at_exit(self) -> None:
        """Note that no further attempt is worth waiting for; see `has_failed_at_exit`."""
        self.has_failed_at_exit = True
        self._queue.notify_waiters()

    def _spool_of(self, count: int) -> SpoolSettings | None:
        """Return the spool if it keeps the next `count` events; None if it lacks any of them."""
        return self._spool if self._queue.is_kept(count) else None

    def _drop(self, count: int, reason: str) -> None:
        """Drop the first unsettled events of the batch, and report the loss."""
        self._reporter.report_loss("dropped", count, reason)
        self._account(Settlement(dropped=count))

    def _prove_collector(self) -> bool:
        """Return whether a rejection is final; for events on disk, ask if a collector answers.

        One does if it has accepted a part of the batch, or accepts an empty request. Otherwise the
        answer may come from something else, such as a proxy that sends requests elsewhere. Some of
        these accept an empty request; see `MAX_REJECTED_BATCHES`.
        """
        if not self._is_collector_proven:
            self._is_collector_proven = (
                self._parts.any_accepted
                or self._spool_of(self._queue.taken) is None
                or (self._rejected_batches < MAX_REJECTED_BATCHES and self._accepts_empty_request())
            )
        return self._is_collector_proven

    def _set_aside(self, *, is_empty_refused: bool) -> bool:
        """Let the other events pass a batch on disk that keeps failing; return whether they may.

        They may if the collector accepts an empty request: then the batch is to blame. If that was
        refused as well, the next batch shows what is. The only batch stays: its success is what
        tells the worker that the collector works again.
        """
        if self._failures % SET_ASIDE_AFTER or self.shutting_down or not self._queue:
            return False
        if not (is_empty_refused or self._accepts_empty_request()) or not self._queue.set_aside():
            return False
        self._parts.rest()
        return True

    def _accepts_empty_request(self) -> bool:
        return self._export((), None).verdict == "delivered"

    def export_leftovers(self, shared: SharedAttributes, events: Sequence[Event]) -> Outcome:
        """Export events of another process, with its shared attributes, in one request."""
        assert self._spool is not None
        if shared == self._spool.shared:
            # The usual case, an earlier run of the same program: the own connection will do.
            return self._export(events, None)
        if self._leftover_exporter is None:
            self._leftover_exporter = LeftoverExporter(self._spool.connect)
        started = monotonic()
        outcome = self._leftover_exporter.export(shared, events)
        self.request_s = monotonic() - started
        return outcome

    def leave_on_disk(self) -> bool:
        """Leave all queued events to other processes, with the batch; False if not all on disk."""
        if not self._queue.leave_on_disk():
            return False
        self._parts.rest()
        return True

    def drop_batch(self, reason: str) -> None:
        """Drop the rest of the batch, after an unexpected error."""
        left = self._queue.taken
        self._queue.account(self._queue.settled + left, dropped=left)
        self._reporter.report_loss("dropped", left, reason)

    def release_exporter(self) -> Exporter | None:
        """Return the exporter, if any, for the caller to shut down; the next batch builds one."""
        if self._leftover_exporter is not None:
            self._leftover_exporter.close()
        exporter, self._exporter = self._exporter, None
        return exporter

    def _report(self, settlement: Settlement, outcome: Outcome) -> None:
        """Report a settlement, before it is accounted for.

        `flush` returns once everything is accounted for, and by then the warnings must be logged.
        """
        if outcome.verdict == "delivered":
            if outcome.web_page:
                self._reporter.report_web_page(outcome.reason)
            reason = "" if outcome.web_page else outcome.reason
            self._reporter.report_success(
                settlement.rejected, reason, self._queue.stats(), self._queue.overflowed
            )
        elif settlement.dropped:
            reason = f"not encodable: {outcome.reason}"
            self._reporter.report_loss("dropped", settlement.dropped, reason)
        else:
            self._reporter.report_loss("rejected", settlement.rejected, outcome.reason)

    def _account(self, settlement: Settlement) -> None:
        """Settle the first unsettled events of the batch."""
        self._progressed_at = monotonic()
        through = self._queue.settled + settlement.events
        self._queue.account(through, **settlement._asdict())

    def _export(self, events: Sequence[Event], deadline: float | None) -> Outcome:
        with suppress_own_records():
            exporter = self._exporter or self._build_exporter()
            if isinstance(exporter, Outcome):
                return exporter
            # At least 1 ms: urllib3 raises ValueError for a timeout of 0 or less.
            timeout_s = None if deadline is None else max(deadline - monotonic(), 0.001)
            started = monotonic()
            try:
                return attempt(exporter, events, timeout_s)
            except OSError as error:
                self._exporter = None
                return no_connection(error)
            finally:
                self.request_s = monotonic() - started

    def _build_exporter(self) -> Exporter | Outcome:
        """Return a new exporter, or an outcome that says why there is none.

        A failing import takes time, and fails until someone repairs the installation. Therefore it
        is repeated at most once per `IMPORT_INTERVAL_S`.
        """
        if self._import_failure is not None and monotonic() < self._import_again_at:
            return self._import_failure
        self._progressed_at = None  # see `progressed_at`
        try:
            self._exporter = exporter = self._connect()
            self._import_failure = None
            self.has_no_exporter = False
            return exporter
        except ImportError as error:
            self._import_again_at = monotonic() + IMPORT_INTERVAL_S
            self._import_failure = Outcome("retry", str(error), retry_after_s=IMPORT_INTERVAL_S)
            return self._import_failure
        except Exception as error:
            return Outcome("retry", f"no exporter: {error}")
        finally:
            self._progressed_at = monotonic()
            self._queue.notify_waiters()

    def backoff_s(self, failures: int, outcome: Outcome, *, is_on_disk: bool = False) -> float:
        """Return the delay before the next attempt, in seconds.

        It is at least `retry_after_s`, but of that at most `LONGEST_RETRY_AFTER_S`.
        """
        delays_s = BACKOFF_ON_DISK_S if is_on_disk else BACKOFF_S
        delay_s = delays_s[min(failures, len(delays_s)) - 1]
        if self.shutting_down:
            delay_s = min(delay_s, _BACKOFF_AT_EXIT_S)
        # Spreads the retries of many processes over +-20 %, by the last digits of the finest clock.
        # The generator of `random` belongs to the application, which may have seeded it.
        jitter = 0.8 + time.perf_counter_ns() % 1000 / 1000 * 0.4
        return max(delay_s * jitter, min(outcome.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))
