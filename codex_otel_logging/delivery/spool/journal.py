"""Writes the events of one queue to disk, before the logging call returns.

An event passes through three steps. `admit`, under the lock of the queue, chooses its segment.
`write`, without the lock, encodes the event and appends it. `settle`, on the worker thread, records
which events have their final outcome, and removes segments that hold no others.

An event that cannot be written stays in memory, as without a spool. The first failure is reported.
From then on nothing is written until `restore`, on the worker thread, has written all events that
are in memory only.

A signal handler may raise between any two calls. `EventQueue.put` then calls `abandon`, and what
the worker repeats is safe to repeat.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

from ... import diagnostics
from ...config.files import directory_problem
from ...events.event import Event, SharedAttributes
from ...native import RLock, monotonic
from .. import forks
from ..exporter import Exporter, Outcome
from . import disk
from .cold import ColdReader
from .health import DiskHealth
from .policy import count_expired, keeping
from .records import RecordEncoder, checked, number_of
from .segment import SUFFIX, Header, NotReopenedError, Segment, settled_in

FIRST_LIMIT = 1 << 20
"""The size of the first segment, in bytes.

While others are open, each new one is twice as large as the one before, so that even a long outage
needs few files.
"""

RETRY_S = 5.0
"""How long nothing is written after a failure, in seconds."""

MAX_OPEN = 32
"""Maximum number of open segments. More are needed only if writing fails again and again."""

_SHARE = 16
"""The largest segment takes 1/16 of `max_bytes`, at least 1 MiB: a process has at most about 20."""

_RESTORING = 0
"""The number in `Segment.writers` that stands for `restore`; events are numbered from 1."""


class SpoolSettings(NamedTuple):
    """The spool of one handler.

    `path` is the absolute path of the directory, `max_bytes` the maximum size of all files in it.
    Events older than `keep_for_s` seconds are dropped when an attempt to export them fails; 0 means
    no limit. `destination` names the collector without secrets; the header of each segment holds it
    and the `shared` attributes. `connect` builds an exporter for leftovers with other shared
    attributes. `redact` applies the redaction of this process to an event of another one.
    """

    path: str
    destination: str
    shared: SharedAttributes
    connect: Callable[[SharedAttributes], Exporter]
    redact: Callable[[Event], None]
    max_bytes: int = 512 << 20
    keep_for_s: float = 604_800.0

    # Methods, so that a sender without a spool imports nothing from this package.
    def keeping(self, outcome: Outcome) -> Outcome:
        """Return the outcome that applies to events on disk; see `policy.keeping`."""
        return keeping(outcome)

    def count_expired(self, events: Sequence[Event]) -> int:
        """Return how many events at the beginning are too old to be kept."""
        return count_expired(events, self.keep_for_s)


class _Names:
    """Names for segments, which increase strictly within a process, whatever the clock does.

    Takes no lock: a forked child would wait forever for one that another thread of its parent
    held. Two threads may get the same number, but not for the same owner: its lock excludes that.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, owner: str) -> str:
        number = self._last = max(self._last + 1, time.time_ns())
        return f"{number:020d}-{owner}{SUFFIX}"


_names = _Names()


class _Released(NamedTuple):
    """A segment that others may adopt, and the numbers of its first and last unsettled events."""

    path: str
    first: int
    last: int

    def count_left(self) -> int:
        """Return how many of its events are still there and not settled."""
        settled = settled_in(self.path)
        return 0 if settled is None else max(self.last - max(self.first - 1, settled), 0)


class Journal:
    """The segments of one queue.

    The numbers of events are those of the queue: the first event has number 1, and events are
    settled in this order.

    Args:
        settings: where the segments are, and what their headers say.
        lock: the lock of the queue; reentrant.

    """

    def __init__(self, settings: SpoolSettings, lock: AbstractContextManager[object]) -> None:
        self.path = settings.path
        self._lock = lock
        self._health = DiskHealth(settings.path, lock)
        self._max_bytes = settings.max_bytes
        self.owner = os.urandom(8).hex()
        self._header = Header(self.owner, settings.destination, settings.shared)
        self._encode = RecordEncoder().encode
        # Not the lock of the queue: creating a file may take long, and other threads log meanwhile.
        self._opening = RLock()
        self._segments: list[Segment] = []
        """The segments with unsettled events or writers, oldest first. Changed under the lock."""
        self._current: Segment | None = None
        """The segment that the next event goes to, if there is one. Changed under the lock."""
        self._last_segment: Segment | None = None
        """The segment of the events that are logged during interpreter finalization."""
        self._number = 0
        """The number of the last admitted event."""
        self.settled = 0
        """The number of the last settled event, as in the queue. Changed under the lock."""
        self._unwritten: set[int] = set()
        """The numbers of the events that are in memory only; some may be settled by now. Changed
        under the lock."""
        self._parked: dict[int, Event] = {}
        """Cold events that could not be written: in memory, behind others that are on disk."""
        self.parked_bytes = 0
        """The estimated memory of the parked events, in bytes."""
        self._reader = ColdReader()
        self._released: list[_Released] = []
        """The segments that other processes may export."""
        self._is_disk_known = False
        """Whether the type of the file system has been looked up."""
        self._has_new_names = False
        """Whether files were created since the directory was last synced."""
        self._has_new_directory = True
        """Whether the directory may have been created since its parents were last synced, by this
        process or by another one."""

    def admit(self, number: int) -> Segment | None:
        """Return the segment for an event that is being queued, to be passed to `write`.

        Returns None while the disk fails. `number` is the sequence number of the event. Needs the
        lock of the queue.
        """
        if number > self._number + 1:
            # A signal handler has raised before `admit`. Or it logs this event, and has interrupted
            # the call for the one before.
            self._unwritten.update(range(self._number + 1, number))
        segment = self._current
        if self._health.has_failed:
            segment = None
            self._unwritten.add(number)
        elif segment is None or segment.sealed or segment.size >= segment.limit:
            segment = self._segment_for(number, number)
        else:
            if number > segment.last:
                segment.last = number
            else:  # a signal handler has logged the next event
                segment.include(number)
            segment.writers.add(number)
        # Last: `abandon` notices if a signal handler has raised before.
        if number > self._number:
            self._number = number
        elif segment is not None:  # a signal handler has logged the next event
            self._unwritten.discard(number)
        return segment

    def abandon(self, number: int) -> bool:
        """Repair what an interrupted `put` has left; return whether the event was written.

        A signal handler may have raised before, inside or after `admit` or `write`.
        """
        with self._lock:
            if number > self._number:
                self._unwritten.update(range(self._number + 1, number + 1))
                self._number = number
            for segment in [s for s in self._segments if number in s.writers]:
                self._unwritten.add(number)
                self._leave(segment, number)
            return number not in self._unwritten

    @property
    def is_working(self) -> bool:
        """Whether events are written to disk, as far as is known."""
        return not self._health.has_failed

    def write(
        self, number: int, segment: Segment | None, event: Event, *, is_cold: bool = False
    ) -> None:
        """Append an event to its segment; does nothing without one. Blocks for the disk.

        If that fails, the event is in memory only: a cold one is parked here. (The caller parks one
        that has no segment.) Raises no `Exception`, whatever happens to the disk.
        """
        if segment is None:
            return
        is_written = False
        try:
            self._append(segment, self._encode(number, event), number, number)
            is_written = True
        except OSError as error:
            self._health.fail(error, RETRY_S)
        except Exception:  # RecursionError, MemoryError: says nothing about the disk
            pass
        finally:
            if not is_written:  # also if a signal handler has raised
                with self._lock:
                    # Before `_leave`: an event that no thread writes, and that is neither on disk
                    # nor parked, counts as removed.
                    if is_cold:
                        self.park(number, event)
                    self._unwritten.add(number)
            self._leave(segment, number)

    def park(self, number: int, event: Event) -> None:
        """Keep a cold event in memory, because it could not be written."""
        with self._lock:
            if number not in self._parked:
                self._parked[number] = event
                self.parked_bytes += event.size

    @property
    def parked(self) -> int:
        """The number of parked events."""
        return len(self._parked)

    def read_back(
        self, first: int, max_bytes: int, max_events: int = sys.maxsize
    ) -> list[Event] | None:
        """Return cold events from number `first` on, in order and without gaps.

        Returns at most `max_events`, and as many as take `max_bytes` of memory, or have been
        written so far, or can be read now; None if event `first` is lost. Called on the worker
        thread only; blocks for the disk. The events are returned again until `forget_read` is
        called, so an interrupted call can be repeated.
        """
        self.forget_read(first)
        events: list[Event] = []
        size = 0
        number = first
        while size < max_bytes and number <= min(self._number, first + max_events - 1):
            event = self._reader.take(number, self._parked)
            if event is not None:
                events.append(event)
                size += event.size
                number += 1
                continue
            with self._lock:
                segments, current = tuple(self._segments), self._current
                is_being_written = any(s.writers for s in segments if s.first <= number <= s.last)
            if monotonic() < self._reader.read_again_at:
                return events
            try:
                has_advanced = self._reader.advance(segments, current, number)
            except OSError as error:
                self._health.report_once("cannot read events back; trying again", error)
                return events
            # Without the lock, so it may have been parked meanwhile.
            if not has_advanced and number not in self._parked:
                return events if events or is_being_written else None
        return events

    def forget_read(self, first: int) -> None:
        """Free the memory of the cold events before number `first`, which the queue holds now."""
        self._reader.forget(first)
        if self._parked:
            with self._lock:
                parked = {n: event for n, event in self._parked.items() if n >= first}
                size = sum(event.size for event in parked.values())
                self.parked_bytes = size
                self._parked = parked

    def read_inherited(self, first: int) -> Iterator[Event]:
        """Yield the cold events from number `first` on that can be read, in a forked child.

        Takes no lock: it may be locked forever.
        """
        reader = ColdReader()
        for number in range(first, self._number + 1):
            while (event := reader.take(number, self._parked)) is None:
                with suppress(OSError):  # it is tried again, at most `MAX_READS` times
                    if not reader.advance(self._segments, None, number):
                        break
            else:
                yield event

    def write_last(self, event: Event) -> None:
        """Write an event during interpreter finalization, when no other thread runs any more.

        Takes no lock: a thread that has been stopped may hold it for good.
        """
        number = self._number = self._number + 1
        self._is_disk_known = True  # looking it up needs `open`, which may be gone
        try:
            if self._last_segment is None:
                segment = Segment(self._new_path(), self._header, number, FIRST_LIMIT)
                self._create(segment)
                self._last_segment = segment
            self._last_segment.append(self._encode(number, event))
        except Exception:
            self._unwritten.add(number)

    def settle(self, through: int) -> None:
        """Record that the events up to number `through` are settled.

        Removes the segments that hold no others. Called on the worker thread; blocks for the disk.
        Raises no `OSError`.
        """
        with self._lock:
            self.settled = max(self.settled, through)
        self._remove_settled()
        with self._lock:
            partly = [s for s in self._segments if s.first <= self.settled < s.last and s.is_open]
        for segment in partly:
            try:
                segment.settle(through)
            except OSError as error:
                self._health.report_once("cannot mark events as exported", error)

    def _remove_settled(self) -> None:
        """Remove the segments whose events are all settled, and that no thread appends to.

        Application threads call it, too. Only the worker writes numbers into files that stay:
        others could write an older one, or to a descriptor that the worker has closed meanwhile.
        """
        with self._lock:
            # A segment stays while a thread may append to it: a late write must not reach a
            # descriptor that has been closed and belongs to another file by now.
            current = self._current
            if current is not None and current.last <= self.settled and not current.writers:
                # Before the calls below: a signal handler may log, and must not append to it.
                self._current = None
            before = self._segments
            done = [
                s
                for s in before
                if s is not self._current and s.last <= self.settled and not s.writers
            ]
            left = self._segments = [s for s in before if s not in done]
            # One that a signal handler has added meanwhile.
            left += [s for s in before if s not in done and s not in left]
        for segment in done:
            segment.remove()

    def is_written(self) -> bool:
        """Return whether all events are on disk. Needs the lock of the queue."""
        self._forget_settled()
        return not self._unwritten and not any(segment.writers for segment in self._segments)

    def is_kept(self, through: int) -> bool:
        """Return whether no event up to number `through` is in memory only. Needs the lock.

        Another thread may still be writing one. If that fails, the next attempt finds it in memory.
        """
        self._forget_settled()
        return min(self._unwritten, default=through + 1) > through

    def count_unwritten(self) -> int:
        """Return how many unsettled events are in memory only."""
        with self._lock:
            self._forget_settled()
            return len(self._unwritten)

    def restore(self, unsettled: Callable[[], Sequence[Event]]) -> None:
        """Write the events that are in memory only, if the disk works again.

        Also syncs full segments, and finds segments whose file was removed. Called on the worker
        thread, between two requests; blocks for the disk. `unsettled` returns the unsettled events
        in memory, in order; it is called with the lock of the queue.
        """
        self._health.log_reports()
        # If a signal handler has interrupted the last restoration.
        for segment in tuple(self._segments):
            segment.writers.discard(_RESTORING)
        self._find_removed()
        self._sync(s for s in tuple(self._segments) if s is not self._current)
        if self._segments and (found := directory_problem(self.path)) is not None:
            self._health.fail(OSError(found), RETRY_S)
            return
        if not (self._health.has_failed or self._unwritten) or not self._health.is_retry_due:
            return
        try:
            self._probe()
            while self._restore_unwritten(unsettled):
                pass
            self._close_removed()
        except Exception as error:  # OSError; or whatever else `write` may have failed with
            self._health.fail(error, RETRY_S)
            return
        self._health.report_recovery()

    def _restore_unwritten(self, unsettled: Callable[[], Sequence[Event]]) -> bool:
        """Write the events that are in memory only now; return False if none can be written.

        Raises:
            OSError: the disk still fails.

        """
        with self._lock:
            self._forget_settled()
            in_memory = dict(enumerate(unsettled(), self.settled + 1)) | self._parked
            # A cold event that a thread still appends to a removed file is copied the next time.
            # Copied in one step: threads leave a segment without the lock.
            late = set().union(*(s.writers for s in self._segments if s.is_removed))
            numbers = sorted(n for n in self._unwritten if n in in_memory or n not in late)
            if not numbers:  # under the lock: from now on `admit` returns segments again
                self._health.has_failed = False
                return False
        for number in numbers:
            if number in in_memory:
                self._write_again(number, self._encode(number, in_memory[number]))
        if cold := set(numbers).difference(in_memory):
            self._copy_removed(cold)
        return True

    def _copy_removed(self, numbers: set[int]) -> None:
        """Write cold events again whose file was removed: it can be read as long as it is open."""
        for segment in [each for each in self._segments if each.is_removed]:
            for line in segment.lines():
                content = checked(line)
                number = None if content is None else number_of(content)
                if number is not None and number in numbers:
                    self._write_again(number, b"\n%b\n" % line)
        with self._lock:
            self._unwritten.difference_update(numbers)  # the others cannot be read, now or later

    def _close_removed(self) -> None:
        """Close the segments that were removed, once their events are written again.

        Otherwise they would take disk space and descriptors for as long as an outage lasts.
        """
        with self._lock:
            if self._unwritten:  # perhaps only in there
                return
            removed = [s for s in self._segments if s.is_removed and not s.writers]
            for segment in removed:
                self._segments.remove(segment)
        for segment in removed:
            segment.close()

    def _write_again(self, number: int, record: bytes) -> None:
        with self._lock:
            segment = self._segment_for(number, _RESTORING)
        try:
            self._append(segment, record, number, _RESTORING)
            with self._lock:
                self._unwritten.discard(number)
        finally:
            self._leave(segment, _RESTORING)

    def _probe(self) -> None:
        """Test the disk: create a segment and remove it again.

        Raises:
            OSError: the disk still fails.

        """
        segment = Segment(self._new_path(), self._header, 0, FIRST_LIMIT)
        try:
            self._open(segment)
        finally:
            segment.remove()

    def set_aside(self, first: int, events: Sequence[Event]) -> bool:
        """Write events to a segment of their own, which others may adopt; False if that fails.

        `first` is the number of the first event. Called on the worker thread; blocks for the disk.
        """
        segment = Segment(self._new_path(), self._header, first, FIRST_LIMIT)
        segment.include(first + len(events) - 1)
        try:
            # Even beyond `max_bytes`: the events that fill the spool wait behind these.
            self._open(segment, is_bounded=False)
            for number, event in enumerate(events, first):
                segment.append(self._encode(number, event))
            segment.sync()
            # Before the events are settled where they were: that may reach the device at any time.
            self._sync_names()
        except Exception as error:
            segment.remove()
            self._health.report_once("cannot set events aside", error)
            return False
        left = [each for each in self._released if disk.exists(each.path)]
        self._released = [*left, _Released(segment.path, first, segment.last)]
        segment.close()
        return True

    def sync(self) -> None:
        """Wait until all records have reached the storage device. Not for application threads."""
        self._sync(tuple(self._segments))

    def _sync(self, segments: Iterable[Segment]) -> None:
        unsettled = [
            s for s in segments if s.is_open and not s.is_removed and s.last > self.settled
        ]
        if not unsettled:
            return  # without an outage, not even the directory is synced
        try:
            for segment in unsettled:
                segment.sync()
            self._sync_names()
        except OSError as error:
            self._health.report_once("cannot sync the disk", error)

    def _sync_names(self) -> None:
        """Wait until the names of new files and directories have reached the storage device.

        Raises:
            OSError: some of them perhaps have not.

        """
        if not self._has_new_names:
            return
        has_new_directory = self._has_new_directory
        # Before the sync: a file that another thread creates during it needs another one.
        self._has_new_names = self._has_new_directory = False
        is_synced = False
        try:
            disk.sync_directory(self.path)
            if has_new_directory:
                disk.sync_parents(self.path)
            is_synced = True
        finally:
            if not is_synced:  # also if a signal handler has raised
                self._has_new_names = True
                self._has_new_directory |= has_new_directory

    def release(self) -> None:
        """Free all segments, so that another process or handler may adopt them.

        Every event must be written. Needs the lock of the queue.
        """
        segments, self._segments, self._current = self._segments, [], None
        settled, self.settled = self.settled, self._number
        self._parked.clear()
        self.parked_bytes = 0
        self._reader = ColdReader()
        for segment in segments:
            first = max(segment.first, settled + 1)
            self._released.append(_Released(segment.path, first, segment.last))
            segment.close()

    def count_released(self) -> int:
        """Return how many events of released segments are still on disk.

        Others may have exported or discarded some since. After a disk failure, events that were
        written twice count twice. Blocks for the disk.
        """
        return sum(each.count_left() for each in self._released)

    def leave_to_parent(self, *, inherited: bool) -> None:
        """Give up all segments in a forked child. Takes no lock: it may be locked forever.

        `inherited` says that the child exports the events in place of the parent, and has written
        them to segments of its own. The parent's segments are then removed.
        """
        self._health.stop()
        for segment in self._segments:
            if inherited:
                with suppress(OSError):
                    disk.remove(segment.path)
            segment.leave_to_parent()
        self._segments, self._current = [], None

    def _new_path(self) -> str:
        return f"{self.path}{os.sep}{_names.next(self.owner)}"

    def _segment_for(self, number: int, writer: int) -> Segment:
        """Return the segment for event `number`, with `writer` among its writers; then `_leave` it.

        `writer` is the number of the event that is appended, or `_RESTORING`. Needs the lock.
        """
        segment = self._current
        if segment is None or segment.is_full:
            # `max_bytes` is compared when a file is created, and each process may fill its file
            # afterwards. The share bounds how far the directory exceeds it.
            largest = max(self._max_bytes // _SHARE, FIRST_LIMIT)
            limit = min(FIRST_LIMIT << len(self._segments), largest)
            # Its first writer creates the file, without the lock.
            new = Segment(self._new_path(), self._header, number, limit)
            # Without a call until it is assigned: a signal handler may have added a later one, and
            # the reader expects the next events in the last one.
            segment = self._current
            if segment is None or segment.sealed or segment.size >= segment.limit:
                segment = self._current = new
                self._segments.append(new)
        segment.include(number)
        segment.writers.add(writer)
        return segment

    def _leave(self, segment: Segment, writer: int) -> None:
        """Undo `admit` or `_segment_for`; drop the segment if it is settled or has no file."""
        segment.writers.discard(writer)
        if segment.last <= self.settled:
            self._remove_settled()
        elif segment.sealed and not segment.is_open:
            with self._lock:
                if not segment.writers and segment in self._segments:
                    self._segments.remove(segment)

    def _append(
        self, segment: Segment, record: bytes, number: int, writer: int, *, is_retry: bool = False
    ) -> None:
        """Append a record; if that fails, retry once in another segment.

        The file may have reached a size limit, of the file system or of the process.

        Raises:
            OSError: both failed.

        """
        try:
            if not segment.is_open:
                self._open(segment)
            segment.append(record)
        except OSError as error:
            segment.sealed = True
            # The exception says nothing about the disk, so it does not count as an attempt.
            is_reopened = isinstance(error, NotReopenedError)
            if is_retry and not is_reopened:
                raise
            with self._lock:
                other = self._segment_for(number, writer)
            try:
                self._append(other, record, number, writer, is_retry=not is_reopened)
            finally:
                self._leave(other, writer)

    def _open(self, segment: Segment, *, is_bounded: bool = True) -> None:
        """Create the file of a segment, unless another thread does."""
        with self._opening:
            if not segment.is_open:
                self._create(segment, is_bounded=is_bounded)

    def _create(self, segment: Segment, *, is_bounded: bool = True) -> None:
        """Create the file of a segment, and the directory if it is missing.

        Raises:
            OSError: that failed, others may use the directory, or the spool is full.

        """
        if disk.make_directory(self.path):
            self._has_new_directory = True
        if (found := directory_problem(self.path)) is not None:
            raise OSError(found)
        if not self._is_disk_known:
            self._is_disk_known = True
            if kind := disk.remote_file_system(self.path):
                self._health.report_once("not a local disk; locks are unreliable", OSError(kind))
        # Compared here only, as it lists the directory: the files of other processes count, too.
        if is_bounded and disk.used_bytes(self.path) >= self._max_bytes:
            raise OSError("spool full; see max_bytes")
        if sum(s.is_open and not s.is_removed for s in tuple(self._segments)) >= MAX_OPEN:
            raise OSError("too many unfinished files")
        segment.open()
        self._has_new_names = True

    def report_unreadable(self) -> None:
        """Report, once, that an event cannot be read back."""
        self._health.report_once("cannot read events back", OSError("damaged or removed"))

    def _forget_settled(self) -> None:
        """Remove settled events from `_unwritten`. Needs the lock."""
        if self._unwritten and min(self._unwritten) <= self.settled:
            self._unwritten = {n for n in self._unwritten if n > self.settled}

    def _find_removed(self) -> None:
        """Mark the events of segments that were removed from the directory as unwritten.

        The segments stay open until their events are written again or settled, because the cold
        ones are read back.
        """
        removed = [s for s in self._segments if s.is_open and not (s.is_removed or s.is_linked())]
        with self._lock:
            # Without those that another thread has just removed, because they are settled.
            removed = [s for s in removed if s in self._segments]
            if not removed:
                return
            if self._current in removed:
                self._current = None
            for segment in removed:
                segment.is_removed = segment.sealed = True
                first = max(segment.first, self.settled + 1)
                self._unwritten.update(range(first, segment.last + 1))
        self._health.retry_now()
        diagnostics.warn(
            "spool %s: files of a running process were removed; writing the events again", self.path
        )


# For descriptors that no journal knows: of a leftover, or of a segment being created.
forks.on_child(disk.neutralize_inherited)
