"""Reports about delivery: one line when an outage begins, one when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from .. import diagnostics
from ..native import RLock, monotonic, start_in_application
from .queue import Stats
from .wakeup import Wakeup

DIAGNOSE = "to diagnose, run: codex-otel-logging check --send"
"""The end of every warning about an outage or a loss."""

_REPORT_AGAIN_S = 300.0
"""How long after a report of events lost, or left out, the next one may follow."""

_OUTAGE_AGAIN_S = 60.0
"""How long after an outage began that was reported the next one may be."""

LONGEST_REPORT_S = 1.0
"""How long the worker waits until the other thread has logged the first line."""


class OutageReporter:
    """Reports the outages and losses of one `Worker`, each once until it is over.

    Used by the worker alone, but for `overflow`. `reason` is why the last request failed, or empty.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self.reason = ""
        self._since: float | None = None
        self._before = Stats()
        self._outage_at = -_REPORT_AGAIN_S
        self._refusing = False
        self._refused_at = -_REPORT_AGAIN_S
        self._partial_at = -_REPORT_AGAIN_S
        self._web_page_reported = False
        self.overflow = Overflow(destination)

    def failed(self, reason: str, stats: Stats, *, visible: bool) -> None:
        """Tell that nothing gets through, the first time it is visible.

        A collector that comes and goes all the time is told of once in a while.
        """
        self.reason = reason
        now = monotonic()
        if self._since is None and visible and now - self._outage_at >= _OUTAGE_AGAIN_S:
            self._since = self._outage_at = now
            self._before = stats
            _warn(
                "%s: events are not delivered (%s); they are kept and tried again",
                self._destination,
                reason,
            )

    def refused(self, reason: str, count: int) -> None:
        """Tell that events are lost for good, the first time since events got through."""
        self.reason = reason
        now = monotonic()
        if not self._refusing and now - self._refused_at >= _REPORT_AGAIN_S:
            self._refused_at = now
            _warn(
                "%s: %s lost (%s); more losses of this kind are counted, not reported",
                self._destination,
                _events(count),
                reason,
            )
        self._refusing = True

    def delivered(self, rejected: int, reason: str, stats: Stats, overflowed: int) -> None:
        """Tell that events get through again, or that a collector left some out."""
        now = monotonic()
        self.reason = ""
        self._refusing = False
        if self._since is not None:
            diagnostics.warn(
                "%s: events are delivered again, after %.0f s; %d lost meanwhile",
                self._destination,
                now - self._since,
                stats.dropped + stats.rejected - self._before.dropped - self._before.rejected,
            )
            self._since = None
            self.overflow.reported = overflowed  # included in the count above
        if (rejected or reason) and now - self._partial_at >= _REPORT_AGAIN_S:
            self._partial_at = now
            _warn(
                "%s: the collector left out %s (%s)",
                self._destination,
                _events(rejected),
                reason or "it did not say why",
            )

    def web_page(self, reason: str) -> None:
        """Report, once, that the endpoint answers with a web page."""
        if not self._web_page_reported:
            self._web_page_reported = True
            _warn(
                "%s: the answer is a web page (%s), so the endpoint is probably not a collector's; "
                "the events count as exported",
                self._destination,
                reason,
            )


class Overflow:
    """Reports a full queue: one line when it begins to drop events, one when it has room again.

    A thread of its own logs the first line. The worker cannot: it may be blocked in a request for
    as long as the outage lasts that fills the queue. The thread whose event is dropped must not: it
    is inside a logging call, possibly holding a lock that one of the application's handlers needs,
    and an application thread never waits for a handler of these reports. The thread is started by
    the first dropped event; later ones only check `begun`.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._lock = RLock()
        self._reporting = False
        self._reported = Wakeup()
        self.begun = False
        """Whether an overflow has begun; set under the lock of the queue."""
        self.reported = 0
        """How many of the events dropped so far are included in a report."""

    def report_begin(self) -> None:
        """Start a thread that logs the first line. Called by the thread that drops an event."""
        with suppress(RuntimeError):  # no threads at exit; the worker logs it later
            start_in_application(self._report, "codex_otel_logging overflow")

    def report_end(self, dropped: int) -> None:
        """Log both lines, the first unless it is logged already. Called by the worker."""
        if not self._report():
            self._reported.wait(LONGEST_REPORT_S)
        with self._lock:
            self._reporting = False
            self._reported = Wakeup()
            self.begun = False
        count, self.reported = dropped - self.reported, dropped
        if count:
            diagnostics.warn(
                "%s: the queue has room again; while it was full, %s dropped",
                self._destination,
                _events(count),
            )

    def _report(self) -> bool:
        """Log the first line; False when another thread does or the overflow has ended."""
        with self._lock:
            if not self.begun or self._reporting:
                return False
            self._reporting = True
            reported = self._reported
        _warn("%s: the queue is full; the newest events are dropped", self._destination)
        reported.set()
        return True


def report_left(count: int, reasons: Sequence[str]) -> None:
    """Tell, in one line, what the process takes with it when it ends."""
    _warn("%s not delivered before the end (%s)", _events(count), "; ".join(reasons))


def _warn(message: str, *args: object) -> None:
    diagnostics.warn(f"{message}; {DIAGNOSE}", *args)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
