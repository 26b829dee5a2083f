"""Exports leftovers: the segments that dead processes have left in the directory of a spool.

The worker exports them between two batches of its own, and the command `drain` on request. Any
number of processes may do so at once, because the one that adopts a segment locks it. If it is
killed, the next one continues: the segment holds the number up to which its events are settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from ... import diagnostics
from ...config.settings import BatchConfig
from ...events.event import Event, SharedAttributes
from ...native import wall_clock
from ..exporter import Outcome
from ..parts import MAX_REJECTED_BATCHES, Parts, Settlement
from . import disk
from .journal import SpoolSettings
from .segment import (
    DAMAGED,
    SUFFIX,
    UNFINISHED,
    DamagedHeaderError,
    Leftover,
    NewerFormatError,
    adopt,
    paths_in,
    remove_unfinished,
)

Export = Callable[[SharedAttributes, Sequence[Event]], Outcome]
"""Exports events in one request, with the shared attributes of the process that logged them."""

Report = Callable[[str, str], None]
"""Reports a text about a path: the second argument about the first; "" means the directory.

Called once for each pair.
"""


class Leftovers:
    """The leftovers in one directory. Not thread-safe.

    Args:
        settings: the directory, and the destination whose leftovers are exported.
        batch: the settings under `batch`, which limit the size of a request.
        export: exports events in one request. After the outcome `retry`, the segment is unlocked.
        account: called with the owner of a segment and the outcome of its next events; those that
            have expired or are damaged count as dropped.
        redirect: export the leftovers of any destination, instead of only those of this one.
        report: reports what was not exported, and why; None logs warnings.

    """

    def __init__(
        self,
        settings: SpoolSettings,
        batch: BatchConfig,
        *,
        export: Export,
        account: Callable[[str, Settlement], None],
        redirect: bool = False,
        report: Report | None = None,
    ) -> None:
        self._settings = settings
        self._batch = batch
        self._export = export
        self._account = account
        self._redirect = redirect
        self._report = report or self._log
        self._paths: deque[str] = deque()
        self._current: Leftover | None = None
        self._failed: set[str] = set()
        """The paths of segments whose export has failed; they are tried after the others."""
        self._rejected_batches = 0
        """How many batches in a row were rejected as a whole."""
        self._reported: set[tuple[str, str]] = set()
        self.failure = ""
        """Why the collector failed in the last step; empty if it did not."""

    def scan(self) -> None:
        """Look for leftovers, for the following steps to adopt and export.

        Removes files with damaged headers that are older than `keep_for_s`: no attempt to export
        them can come first.
        """
        self._paths.clear()
        with suppress(OSError):  # the directory is created at the first event
            paths = [*segment_paths(self._settings.path)]
            self._failed.intersection_update(paths)
            # Last: a segment that keeps failing, as one set aside may, must not stop the others.
            self._paths.extend(sorted(paths, key=self._failed.__contains__))
            if self._settings.keep_for_s:
                remove_damaged(self._settings.path, wall_clock() - self._settings.keep_for_s)

    def expire(self) -> None:
        """Remove the files that are older than `keep_for_s`, after an attempt to export has failed.

        Unlocks the adopted segment: another process may reach its collector. Events are never newer
        than their file. `scan` finds the others again. Blocks for the disk.
        """
        self.release()
        self._paths.clear()
        if not self._settings.keep_for_s:
            return
        before = wall_clock() - self._settings.keep_for_s
        with suppress(OSError):
            remove_damaged(self._settings.path, before)
            self._paths.extend(
                path for path in segment_paths(self._settings.path) if _is_older(path, before)
            )
        while self._adopt_next():
            assert self._current is not None
            try:
                events = len(self._current)
            except OSError as error:
                self._warn_unreadable(self._current.path, error)
                self.release()
                continue
            if events:
                self._account(self._current.header.owner, Settlement(dropped=events))
                self._warn("", "leftover events expired while exports fail")
            self._finish(self._current)

    def step(self, *, is_proven: bool = False) -> bool:
        """Export one batch; return False if there was none, or if it failed (see `failure`).

        Blocks for one request, or for several if the collector rejects some events.

        Args:
            is_proven: the collector has accepted events just now. Otherwise a rejection is final
                only if the collector accepts a part of the batch, or an empty request.

        """
        self.failure = ""
        while True:
            if self._current is None and not self._adopt_next():
                return False
            assert self._current is not None
            try:
                batch = self._current.next_batch(
                    self._batch.max_batch_size, self._batch.max_request_bytes
                )
            except OSError as error:
                self._warn_unreadable(self._current.path, error)
                self.release()
                continue
            if batch:
                return self._export_batch(self._current, batch, is_proven=is_proven)
            self._finish(self._current)

    def release(self) -> None:
        """Unlock the adopted segment, if any, so that others may export the rest of it."""
        if self._current is not None:
            self._current.close()
            self._current = None

    def _adopt_next(self) -> bool:
        """Adopt the next segment that can be exported; return False if there is none."""
        while self._paths:
            path = self._paths.popleft()
            try:
                leftover = adopt(path)
            except DamagedHeaderError as error:
                what = "renamed" if error.is_renamed else "ignored"
                events = _counted(error.records, "event")
                # Counted once: every scan finds a file that could not be renamed.
                if self._warn(path, f"damaged header; {what}, {events} not exported"):
                    self._account("", Settlement(dropped=error.records))
                continue
            except NewerFormatError:
                self._warn(path, "written by a newer release; ignored")
                continue
            except OSError as error:
                self._warn_unreadable(path, error)
                continue
            if leftover is None:
                continue
            destination = leftover.header.destination
            if destination != self._settings.destination and not self._redirect:
                # Only on request: the events may hold what another collector must not receive.
                leftover.close()
                self._warn(
                    "",
                    f"events for {destination} are ignored; to export them to "
                    f"{self._settings.destination}, "
                    "run: codex-otel-logging drain --redirect [PATH]",
                )
                continue
            self._current = leftover
            return True
        return False

    def _export_batch(
        self, leftover: Leftover, batch: Sequence[tuple[int, Event]], *, is_proven: bool
    ) -> bool:
        """Export a batch, settle what has an outcome, and return False if that is not all of it."""
        events = [event for _, event in batch]
        for event in events:
            # Again: the process that logged it may have had less strict settings than this one.
            self._settings.redact(event)
        parts = Parts(events)
        settled = Settlement()
        while parts:
            part = parts.take()
            outcome = self._settings.keeping(self._export(leftover.header.shared, part))
            settlement = None if outcome.verdict == "retry" else parts.apply(part, outcome)
            is_doubtful = (
                settlement is not None
                and settlement.rejected > 0
                and not (is_proven or self._prove_collector(leftover, parts))
            )
            if outcome.verdict == "retry" or is_doubtful:
                self.failure = outcome.reason
                self._failed.add(leftover.path)
                # Only now: no event expires that the collector would have accepted.
                if expired := self._settings.count_expired(events[settled.events :]):
                    settled = settled._replace(dropped=settled.dropped + expired)
                    self._warn("", f"leftover events expired: {outcome.reason}")
                self._settle(leftover, batch, settled)
                self.release()
                return False
            if settlement is not None:
                settled = Settlement(*map(sum, zip(settled, settlement, strict=True)))
                if settlement.exported < settlement.events:
                    reason = outcome.reason or "no reason given"
                    self._warn("", f"leftover events rejected: {reason}")
        self._rejected_batches = 0 if parts.any_accepted else self._rejected_batches + 1
        self._settle(leftover, batch, settled)
        return True

    def _prove_collector(self, leftover: Leftover, parts: Parts[Event]) -> bool:
        """Return whether a rejection is final, as `Sender._prove_collector` does."""
        return parts.any_accepted or (
            self._rejected_batches < MAX_REJECTED_BATCHES
            and self._export(leftover.header.shared, ()).verdict == "delivered"
        )

    def _settle(
        self, leftover: Leftover, batch: Sequence[tuple[int, Event]], settled: Settlement
    ) -> None:
        """Settle the first events of a batch, on disk and in the counts."""
        if settled.events:
            number, _ = batch[settled.events - 1]
            try:
                leftover.settle(number)
            except OSError as error:
                self._warn(leftover.path, f"cannot mark events as exported ({error.strerror})")
            self._account(leftover.header.owner, settled)

    def _finish(self, leftover: Leftover) -> None:
        """Remove a segment whose events are all settled; count and report its damaged records."""
        # Counted once: every scan finds a file that could not be removed.
        if leftover.damaged and self._warn(
            leftover.path, _counted(leftover.damaged, "damaged record")
        ):
            self._account(leftover.header.owner, Settlement(dropped=leftover.damaged))
        leftover.remove()
        self._current = None

    def _warn_unreadable(self, path: str, error: OSError) -> None:
        self._warn(path, f"cannot be read ({error.strerror or error}); ignored")

    def _warn(self, path: str, text: str) -> bool:
        """Report a text about a path, "" for the directory; return False if it was reported."""
        if (path, text) in self._reported:
            return False
        self._reported.add((path, text))
        self._report(path, text)
        return True

    def _log(self, path: str, text: str) -> None:
        diagnostics.warn("spool %s: %s", path or self._settings.path, text)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def segment_paths(directory: str) -> Iterator[str]:
    """Yield the paths of all segments in a directory, oldest first, locked ones included.

    Removes unfinished files of dead processes.

    Raises:
        OSError: the directory cannot be read.

    """
    for path in paths_in(directory, SUFFIX, SUFFIX + UNFINISHED):
        if path.endswith(UNFINISHED):
            remove_unfinished(path)
        else:
            yield path


def remove_damaged(directory: str, oldest_s: float) -> None:
    """Remove files with damaged headers that were last written to before `oldest_s`.

    Raises:
        OSError: the directory cannot be read.

    """
    for path in paths_in(directory, SUFFIX + DAMAGED):
        if _is_older(path, oldest_s):
            with suppress(OSError):
                disk.remove(path)


def _is_older(path: str, time_s: float) -> bool:
    """Return whether a file was last written to before `time_s`; False if it is gone."""
    try:
        return disk.modified_s(path) < time_s
    except OSError:
        return False
