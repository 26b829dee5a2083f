"""Warnings about outages and losses: one line when an outage begins, one when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from .. import diagnostics
from ..native import RLock, monotonic, start_in_application
from .queue import Stats
from .wakeup import Wakeup

# Without PATH, `check` tests the Codex CLI's file, which may work although the handler's own fails.
DIAGNOSE = "to diagnose, run: codex-otel-logging check --send [PATH]"
"""The end of every warning about an outage or a loss."""

WEB_PAGE = (
    "the answer is a web page (%s), so the endpoint is probably not a collector; events count as "
    "exported"
)
"""The warning about an endpoint that is probably wrong, with the reason of the outcome."""

_LOSS_INTERVAL_S = 300.0
"""Minimum time between two warnings about losses, or about partial success, in seconds."""

_OUTAGE_INTERVAL_S = 60.0
"""Minimum time between the beginnings of two reported outages, in seconds."""

LONGEST_REPORT_S = 1.0
"""How long the worker waits for another thread to log the first line, in seconds."""


class OutageReporter:
    """Reports the outages and losses of one `Worker`: each once, until events are exported again.

    Only the worker uses it, except for `overflow`. `reason` describes why the last request failed;
    it is empty if none has failed since the last success.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self.reason = ""
        self._outage_began_at: float | None = None
        self._stats_before_outage = Stats()
        self._outage_reported_at = -_OUTAGE_INTERVAL_S
        self._losing = False
        self._loss_reported_at = -_LOSS_INTERVAL_S
        self._partial_reported_at = -_LOSS_INTERVAL_S
        self._web_page_reported = False
        self.overflow = Overflow(destination)

    def report_failure(self, reason: str, stats: Stats, *, visible: bool) -> None:
        """Note a failed attempt that will be retried; if `visible`, report that an outage began.

        A collector that fails every few seconds begins a new outage each time, so at most one per
        `_OUTAGE_INTERVAL_S` is reported.
        """
        self.reason = reason
        now = monotonic()
        if (
            self._outage_began_at is None
            and visible
            and now - self._outage_reported_at >= _OUTAGE_INTERVAL_S
        ):
            self._outage_began_at = self._outage_reported_at = now
            self._stats_before_outage = stats
            _warn(
                "%s: export failing (%s); events stay queued and are retried",
                self._destination,
                reason,
            )

    def report_loss(self, outcome: Literal["dropped", "rejected"], count: int, reason: str) -> None:
        """Report dropped or rejected events: only the first loss since a success.

        Also at most once per `_LOSS_INTERVAL_S`, for a collector that accepts every other batch.
        """
        self.reason = reason
        now = monotonic()
        if not self._losing and now - self._loss_reported_at >= _LOSS_INTERVAL_S:
            self._loss_reported_at = now
            _warn(
                "%s: %s %s (%s); further ones are only counted",
                self._destination,
                _events(count),
                outcome,
                reason,
            )
        self._losing = True

    def report_success(self, rejected: int, reason: str, stats: Stats, overflowed: int) -> None:
        """Report the end of an outage, and what the collector rejected of an accepted request."""
        now = monotonic()
        self.reason = ""
        self._losing = False
        if self._outage_began_at is not None:
            before = self._stats_before_outage
            lost = stats.dropped + stats.rejected - before.dropped - before.rejected
            diagnostics.warn(
                "%s: export recovered after %.0f s; %s dropped or rejected meanwhile",
                self._destination,
                now - self._outage_began_at,
                _events(lost),
            )
            self._outage_began_at = None
            self.overflow.reported = overflowed  # included in the count above
        # OTLP, "Partial Success": `rejected` 0 with a message is a warning about accepted events.
        if (rejected or reason) and now - self._partial_reported_at >= _LOSS_INTERVAL_S:
            self._partial_reported_at = now
            if rejected:
                _warn(
                    "%s: collector rejected %s (%s)",
                    self._destination,
                    _events(rejected),
                    reason or "no reason given",
                )
            else:
                _warn(
                    "%s: collector accepted the events, but warns (%s)", self._destination, reason
                )

    def report_web_page(self, reason: str) -> None:
        """Report, once, that the endpoint answers with a web page."""
        if not self._web_page_reported:
            self._web_page_reported = True
            _warn(f"%s: {WEB_PAGE}", self._destination, reason)


class Overflow:
    """Reports a full queue: one line when it begins to drop events, one when it has room again.

    A separate thread logs the first line, for two reasons. The worker cannot: it may be blocked in
    a request for as long as the outage that fills the queue lasts. The application thread whose
    event is dropped must not: it is inside a logging call and may hold a lock that one of the
    application's handlers needs, which would deadlock. The first dropped event starts the thread;
    later ones only check `begun`.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._lock = RLock()
        self._reporting = False
        self._reported = Wakeup()
        self.begun = False
        """Whether an overflow has begun; set under the lock of the queue."""
        self.reported = 0
        """The number of events dropped so far that a report includes."""

    def report_begin(self) -> None:
        """Start a thread that logs the first line. Called by the thread that drops an event."""
        with suppress(RuntimeError):  # no threads during finalization; the worker logs it later
            start_in_application(self._report, "codex_otel_logging overflow")

    def report_end(self, count_dropped: Callable[[], int]) -> None:
        """Log the second line, after the first if that is still missing. Called by the worker.

        `count_dropped` returns the number of events that the full queue has dropped so far. Blocks
        for at most `LONGEST_REPORT_S` seconds, so that an application handler that hangs cannot
        stop exports.
        """
        if not self._report():
            self._reported.wait(LONGEST_REPORT_S)
        with self._lock:
            self._reporting = False
            # A new one: a thread that is late sets the old one, not that of the next overflow.
            self._reported = Wakeup()
            self.begun = False
        # Only now: an event that was dropped before `begun` was reset begins no overflow.
        dropped = count_dropped()
        count, self.reported = dropped - self.reported, dropped
        if count:
            diagnostics.warn(
                "%s: queue has room again; %s dropped while it was full",
                self._destination,
                _events(count),
            )

    def _report(self) -> bool:
        """Log the first line; return False if another thread does or the overflow has ended."""
        with self._lock:
            if not self.begun or self._reporting:
                return False
            self._reporting = True
            reported = self._reported
        _warn("%s: queue full; new events are dropped", self._destination)
        reported.set()
        return True


class Undelivered(NamedTuple):
    """The events of one worker that are still queued at the end of a shutdown.

    `lost` of them are in memory only; the `kept` ones are on disk in the directory `path`. `reason`
    names the collector, and says why the last request failed.
    """

    lost: int
    kept: int
    reason: str
    path: str


def report_undelivered(found: Sequence[Undelivered]) -> None:
    """Report the events of all workers: one line for those lost, one for those kept on disk."""
    if lost := sum(each.lost for each in found):
        reasons = sorted({each.reason for each in found if each.lost})
        _warn("%s not exported at exit (%s)", _events(lost), "; ".join(reasons))
    if kept := [each for each in found if each.kept]:
        # Not `_warn`: nothing is lost, so there is nothing to diagnose.
        diagnostics.warn(
            "%s kept in %s (%s); the next process that logs exports them, "
            "or run: codex-otel-logging drain [PATH]",
            _events(sum(each.kept for each in kept)),
            ", ".join(sorted({each.path for each in kept})),
            "; ".join(sorted({each.reason for each in kept})),
        )


def _warn(message: str, *args: object) -> None:
    diagnostics.warn(f"{message}; {DIAGNOSE}", *args)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
