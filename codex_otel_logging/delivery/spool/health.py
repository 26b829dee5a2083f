"""Keeps track of whether the disk of a spool works, and reports when that changes."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, suppress

from ... import diagnostics
from ...native import monotonic, start_in_application

_REPORT_INTERVAL_S = 60.0
"""Minimum time between two reports that the disk has begun to fail, in seconds."""


class DiskHealth:
    """Records whether writing fails, and reports when that begins and ends.

    All methods may be called by any thread.

    Args:
        path: the directory of the spool.
        lock: the lock of the queue; reentrant.

    """

    def __init__(self, path: str, lock: AbstractContextManager[object]) -> None:
        self.has_failed = False
        """Whether events are kept in memory only. Changed under the lock of the queue."""
        self._path = path
        self._lock = lock
        self._retry_at = 0.0
        self._reported_at = -_REPORT_INTERVAL_S
        self._is_reported = False
        self._reported_once: set[str] = set()
        self._reports: deque[str] = deque()

    @property
    def is_retry_due(self) -> bool:
        """Whether the disk may be tried again."""
        return monotonic() >= self._retry_at

    def retry_now(self) -> None:
        """Make the next retry due immediately."""
        self._retry_at = 0.0

    def stop(self) -> None:
        """Never write again: a forked child leaves everything to its parent. Takes no lock."""
        self.has_failed = True
        self._retry_at = float("inf")

    def fail(self, error: Exception, retry_s: float) -> None:
        """Note a failure, and make a retry due in `retry_s` seconds.

        Reports the first failure since the disk worked, at most once per `_REPORT_INTERVAL_S`.
        """
        # Many threads may fail at the same time, and one of them reports.
        with self._lock:
            now = monotonic()
            self._retry_at = now + retry_s
            self.has_failed = True
            if self._is_reported or now - self._reported_at < _REPORT_INTERVAL_S:
                return
            self._reported_at = now
            self._is_reported = True
        self._report(f"cannot write events ({_reason(error)}); they are kept in memory only")

    def report_recovery(self) -> None:
        """Report that events are written again, if the failure was reported. For the worker."""
        if self._is_reported:
            self._is_reported = False
            diagnostics.warn("spool %s: events are written to disk again", self._path)

    def report_once(self, text: str, error: Exception) -> None:
        """Report the consequence of an error, the first time that it occurs."""
        if text not in self._reported_once:
            self._reported_once.add(text)
            self._report(f"{text} ({_reason(error)})")

    def log_reports(self) -> None:
        """Log the reports that no other thread has logged yet."""
        with suppress(IndexError):  # another thread may take the last one
            while self._reports:
                diagnostics.warn("spool %s: %s", self._path, self._reports.popleft())

    def _report(self, text: str) -> None:
        """Log a line in another thread: this one may be inside a logging call, and hold a lock."""
        self._reports.append(text)
        with suppress(RuntimeError):  # no thread can be started; the worker logs it later
            start_in_application(self.log_reports, "codex_otel_logging spool")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
