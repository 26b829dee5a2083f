"""Reports about delivery: one line when an outage begins, one when it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from . import reports
from .stats import Stats

DIAGNOSE = "to diagnose, run: codex-otel-logging check --send"
"""The end of every warning about an outage or a loss."""

_REPORT_AGAIN_S = 300.0
"""How long after a report of events lost, or left out, the next one may follow."""

_OUTAGE_AGAIN_S = 60.0
"""How long after an outage began that was reported the next one may be."""


class Troubles:
    """The troubles of one `BatchProcessor`, each reported once until it is over.

    Used by the worker alone. `reason` is why the last request failed, or empty.
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
        self._overflow_reported = 0
        self._overflowing = False

    def failed(self, reason: str, stats: Stats, *, visible: bool) -> None:
        """Tell that nothing gets through, the first time it is visible.

        A collector that comes and goes all the time is told of once in a while.
        """
        self.reason = reason
        now = time.monotonic()
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
        now = time.monotonic()
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
        now = time.monotonic()
        self.reason = ""
        self._refusing = False
        if self._since is not None:
            reports.warn(
                "%s: events are delivered again, after %.0f s; %d lost meanwhile",
                self._destination,
                now - self._since,
                stats.dropped + stats.rejected - self._before.dropped - self._before.rejected,
            )
            self._since = None
            self._overflow_reported = overflowed  # it is among those lost
        if (rejected or reason) and now - self._partial_at >= _REPORT_AGAIN_S:
            self._partial_at = now
            _warn(
                "%s: the collector left out %s (%s)",
                self._destination,
                _events(rejected),
                reason or "it did not say why",
            )

    def overflowed(self, dropped: int, *, over: bool) -> None:
        """Tell that the queue was full, and how much was dropped once it is empty."""
        if self._overflowing and over:
            reports.warn(
                "%s: the queue has room again; while it was full, %s dropped",
                self._destination,
                _events(dropped - self._overflow_reported),
            )
            self._overflowing = False
            self._overflow_reported = dropped
        elif not self._overflowing and dropped > self._overflow_reported:
            self._overflowing = True
            _warn(
                "%s: the queue is full; the newest events are dropped",
                self._destination,
            )


def report_left(count: int, reasons: Sequence[str]) -> None:
    """Tell, in one line, what the process takes with it when it ends."""
    _warn("%s not delivered before the end (%s)", _events(count), "; ".join(reasons))


def _warn(message: str, *args: object) -> None:
    reports.warn(f"{message}; {DIAGNOSE}", *args)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
