"""Reports about delivery: one line when an outage begins, one when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from . import reports
from .stats import Stats

DIAGNOSE = "to diagnose, run: codex-otel-logging check --send"
"""The end of every warning about an outage or a loss."""

_REPORT_AGAIN_S = 300.0
"""How long after a report of events lost, or left out, the next one may follow."""

_OUTAGE_AGAIN_S = 60.0
"""How long after an outage began that was reported the next one may be."""

_LONGEST_REPORT_S = 1.0
"""How long the worker waits for the application's handlers to take a line of another thread."""


class Troubles:
    """The troubles of one `BatchProcessor`, each reported once until it is over.

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
            self.overflow.reported = overflowed  # they are among those lost
        if (rejected or reason) and now - self._partial_at >= _REPORT_AGAIN_S:
            self._partial_at = now
            _warn(
                "%s: the collector left out %s (%s)",
                self._destination,
                _events(rejected),
                reason or "it did not say why",
            )

    def web_page(self, reason: str) -> None:
        """Tell, once, that events went to a web page that seemed to accept them."""
        if not self._web_page_reported:
            self._web_page_reported = True
            _warn(
                "%s: the answer is a web page (%s), so the endpoint is probably not a collector's; "
                "the events count as exported",
                self._destination,
                reason,
            )


class Overflow:
    """Tells that the queue is full, and that it has room again; each once, and in this order.

    The worker cannot tell the first: it may be in a request, or in the pause after one, for as long
    as the trouble lasts that fills the queue. Nor can the thread whose event is dropped: it is in
    the middle of a logging call, perhaps with a lock that a handler of the application needs, and
    it must not wait for that handler. So the first dropped event starts a thread for that line.
    All others that are dropped until there is room again only look at `begun`.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._lock = threading.RLock()
        self._reporter: threading.Thread | None = None
        self.begun = False
        """Whether events are dropped; set by the thread that drops the first one."""
        self.reported = 0
        """How many of the events dropped so far have been told of."""

    def report_begin(self) -> None:
        """Have it told that the queue is full. Does not log, and waits for nobody who does."""
        with suppress(RuntimeError):  # Python starts no threads any more; the worker tells later
            threading.Thread(
                target=self._tell, name="codex_otel_logging overflow", daemon=True
            ).start()

    def report_end(self, dropped: int) -> None:
        """Tell how many events were dropped, now that the queue is empty. Called by the worker."""
        self._tell()
        reporter = self._reporter
        if reporter is not None and reporter is not threading.current_thread():
            reporter.join(_LONGEST_REPORT_S)
        with self._lock:
            self._reporter = None
            self.begun = False
        count, self.reported = dropped - self.reported, dropped
        if count:
            reports.warn(
                "%s: the queue has room again; while it was full, %s dropped",
                self._destination,
                _events(count),
            )

    def _tell(self) -> None:
        """Tell that the queue is full, unless another thread does or it is over already."""
        with self._lock:
            if not self.begun or self._reporter is not None:
                return
            self._reporter = threading.current_thread()
        _warn("%s: the queue is full; the newest events are dropped", self._destination)


def report_left(count: int, reasons: Sequence[str]) -> None:
    """Tell, in one line, what the process takes with it when it ends."""
    _warn("%s not delivered before the end (%s)", _events(count), "; ".join(reasons))


def _warn(message: str, *args: object) -> None:
    reports.warn(f"{message}; {DIAGNOSE}", *args)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
