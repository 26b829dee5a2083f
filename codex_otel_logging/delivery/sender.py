"""Exports batches: builds the exporter, retries, splits what a collector rejects, gives up.

Runs on one thread at a time: the worker's or, where none can be started, the one that flushes.
Holds no lock and does not sleep: the worker waits between two attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from ..config.settings import BatchConfig
from ..diagnostics import suppress_own_records
from ..events.event import Event
from ..native import monotonic
from .exporter import Exporter, Outcome
from .outages import OutageReporter
from .queue import EventQueue

BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 3.0)
"""Backoff after the first, second, ... failure in a row; the last is the longest."""

_BACKOFF_AT_EXIT_S = 0.25
IMPORT_INTERVAL_S = 60.0
"""The shortest time between two attempts to import an exporter."""

Record = TypeVar("Record")


class Parts(Generic[Record]):
    """The parts of a batch that are still to be sent, in the order of their records.

    A collector may reject a batch because it is too large or because of a few of its records. Such
    a batch is halved, and so are its halves, down to the records that the collector rejects. A
    collector that rejects everything would cost nearly two requests per record. Therefore, if the
    first ceil(log2(batch size)) + 2 requests are all rejected, the remaining records count as
    rejected: those requests lead down to a single record, and to one more. Not thread-safe.
    """

    def __init__(self, batch: Sequence[Record]) -> None:
        self._parts = [batch]
        self._rejections_left = (len(batch) - 1).bit_length() + 2
        self._any_accepted = False

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self) -> Sequence[Record]:
        """Remove and return the next part to send."""
        return self._parts.pop()

    def put_back(self, part: Sequence[Record]) -> None:
        """Make a part the next one again."""
        self._parts.append(part)

    def halve(self, part: Sequence[Record]) -> None:
        """Make the two halves of a part the next ones."""
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]

    def accepted(self) -> None:
        """Note that the collector accepted a part."""
        self._any_accepted = True

    def rejected(self) -> bool:
        """Note that the collector rejected a part; return whether to give up the others."""
        self._rejections_left -= 1
        return self._rejections_left <= 0 and not self._any_accepted

    def rest(self) -> Sequence[Record]:
        """Remove all parts and return their records."""
        parts, self._parts = self._parts, []
        return [record for part in reversed(parts) for record in part]


class Retry(NamedTuple):
    """When to try a batch again, in the time of `native.monotonic`.

    `throttled` is True if the collector set that time: then a flush does not cut the wait short.
    """

    at: float
    throttled: bool


class Sender:
    """Exports one batch at a time, and accounts for it in the queue.

    Args:
        config: the settings under `batch`.
        queue: where the batches come from.
        reporter: reports outages and losses.
        connect: builds the exporter; called before the first batch.
        check: called with each event before it is exported.

    """

    def __init__(
        self,
        config: BatchConfig,
        queue: EventQueue,
        reporter: OutageReporter,
        *,
        connect: Callable[[], Exporter],
        check: Callable[[Event], None],
    ) -> None:
        self.shutting_down = False
        """Whether the process is about to end: backoff is short, and failures are not reported."""
        self.has_no_exporter = False
        """Whether the exporter could not be imported, and that is reported."""
        self._retry_for_s = config.retry_for_ms / 1000
        self._queue = queue
        self._reporter = reporter
        self._connect = connect
        self._check = check
        self._exporter: Exporter | None = None
        self._import_failure: Outcome | None = None
        self._import_at = 0.0
        self._progressed_at: float | None = 0.0
        self._parts: Parts[Event] = Parts(())
        self._failures = 0
        self._give_up_at = 0.0

    @property
    def progressed_at(self) -> float:
        """The monotonic time of the last settlement or connection; now, while connecting.

        Connecting means importing and building the exporter, which takes as long as it takes.
        """
        progressed_at = self._progressed_at
        return monotonic() if progressed_at is None else progressed_at

    @property
    def is_done(self) -> bool:
        """Whether all of the batch is settled."""
        return not self._parts

    def begin(self, batch: Sequence[Event]) -> None:
        """Make a batch, just taken from the queue, the one that `send` exports."""
        for event in batch:
            with suppress(Exception):  # it only reports
                self._check(event)
        self._parts = Parts(batch)
        self._failures = 0

    def send(self, deadline: float | None = None) -> Retry | None:
        """Export the next part of the batch in one request.

        Blocks for about the exporter's timeout, or until `deadline` if that is earlier. Returns
        None when the part is settled, or has been split; or else when to try it again.
        """
        part = self._parts.take()
        outcome = self._export(part, deadline)
        if outcome.verdict != "retry":
            self._failures = 0
            self._apply_outcome(part, outcome)
            return None
        now = monotonic()
        self._failures += 1
        if self._failures == 1:
            self._give_up_at = now + self._retry_for_s
        if now >= self._give_up_at:
            self._reporter.refused(f"given up: {outcome.reason}", len(part))
            self._account(part, dropped=len(part))
            return None
        # The first failure may be a connection that the collector closed while it was idle.
        # At exit, what is left is reported with its reason, all in one line.
        no_exporter = outcome is self._import_failure
        visible = (self._failures > 1 or no_exporter) and not self.shutting_down
        self._reporter.failed(outcome.reason, self._queue.stats(), visible=visible)
        if no_exporter:  # nothing to wait for any more
            self.has_no_exporter = True
            self._queue.notify_waiters()
        self._parts.put_back(part)
        retry_at = min(now + self.delay_s(self._failures, outcome), self._give_up_at)
        return Retry(retry_at, throttled=bool(outcome.retry_after_s))

    def drop_batch(self, reason: str) -> None:
        """Count what is left of the batch as dropped, after an unexpected error."""
        left = self._queue.taken
        self._queue.account(self._queue.settled + left, dropped=left)
        self._reporter.refused(reason, left)

    def release_exporter(self) -> Exporter | None:
        """Return the exporter, if there is one, to be shut down; the next batch builds another."""
        exporter, self._exporter = self._exporter, None
        return exporter

    def _apply_outcome(self, part: Sequence[Event], outcome: Outcome) -> None:
        """Account for a part, or split it in halves to be sent instead.

        Reports come first, so that they are logged when `flush` returns.
        """
        parts = self._parts
        if outcome.verdict == "delivered":
            parts.accepted()
            rejected = min(outcome.rejected, len(part))
            if outcome.web_page:
                self._reporter.web_page(outcome.reason)
            reason = "" if outcome.web_page else outcome.reason
            self._reporter.delivered(rejected, reason, self._queue.stats(), self._queue.overflowed)
            self._account(part, exported=len(part) - rejected, rejected=rejected)
        elif outcome.verdict == "not encodable":
            if len(part) > 1:
                parts.halve(part)
                return
            self._reporter.refused(f"not encodable: {outcome.reason}", len(part))
            self._account(part, dropped=len(part))
        else:
            if parts.rejected():
                part = [*part, *parts.rest()]
            elif outcome.verdict != "refused" and len(part) > 1:
                parts.halve(part)
                return
            self._reporter.refused(outcome.reason, len(part))
            self._account(part, rejected=len(part))

    def _account(
        self, part: Sequence[Event], *, exported: int = 0, rejected: int = 0, dropped: int = 0
    ) -> None:
        """Settle a part, which holds the first events of the batch that are not settled."""
        self._progressed_at = monotonic()
        through = self._queue.settled + len(part)
        self._queue.account(through, exported=exported, rejected=rejected, dropped=dropped)

    def _export(self, events: Sequence[Event], deadline: float | None) -> Outcome:
        with suppress_own_records():
            exporter = self._exporter or self._build_exporter()
            if isinstance(exporter, Outcome):
                return exporter
            timeout_s = None if deadline is None else max(deadline - monotonic(), 0.001)
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
        package, so it is repeated at most once in `IMPORT_INTERVAL_S`.
        """
        if self._import_failure is not None and monotonic() < self._import_at:
            return self._import_failure
        self._progressed_at = None
        try:
            self._exporter = exporter = self._connect()
            self._import_failure = None
            self.has_no_exporter = False
            return exporter
        except ImportError as error:
            self._import_at = monotonic() + IMPORT_INTERVAL_S
            self._import_failure = Outcome("retry", str(error), retry_after_s=IMPORT_INTERVAL_S)
            return self._import_failure
        except Exception as error:
            return Outcome("retry", f"no exporter: {error}")
        finally:
            self._progressed_at = monotonic()
            self._queue.notify_waiters()

    def delay_s(self, failures: int, outcome: Outcome) -> float:
        """Return the backoff before the next attempt; never less than the collector asks for."""
        delay_s = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
        if self.shutting_down:
            delay_s = min(delay_s, _BACKOFF_AT_EXIT_S)
        # The last digits of the finest clock spread the retries of many processes.
        jitter = 0.8 + time.perf_counter_ns() % 1000 / 1000 * 0.4
        return max(delay_s * jitter, outcome.retry_after_s or 0.0)
