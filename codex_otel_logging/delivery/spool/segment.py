"""One file of the spool, a segment: two lines of header, then records.

The first line holds the version of the format, the number up to which the events are settled, and
the CRC-32 of both. The line has a fixed width, because the number is overwritten in place:

    codex-otel-spool 1 00000000000000000000 9d5f6b4d

The second line is a CRC-32 and JSON: the owner, the destination, and the shared attributes.

The existence of a file is the state: there is no index that could disagree with it. The lock is the
ownership: there is no process id, which another process may have by now. A segment that can be
locked belongs to no living process.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

from ...events.event import Event, SharedAttributes
from . import disk
from .records import (
    MALFORMED,
    RecordDecoder,
    attributes_of,
    checked,
    number_of,
    spelled_json,
)

SUFFIX = ".spool"
UNFINISHED = ".new"
"""Added to the name of a segment until it has a header; so the file holds no record yet."""
DAMAGED = ".damaged"
"""Added to the name of a segment whose header cannot be read."""

VERSION = 1
"""The version of the format. A release leaves files with a higher one alone."""
_MAGIC = b"codex-otel-spool "
_PREFIX = _MAGIC + b"%d " % VERSION
_FIRST_LINE = len(_PREFIX) + len(b"00000000000000000000 00000000\n")
_LARGEST_HEADER = 64 << 20
"""The size in bytes beyond which the second line counts as damaged."""
_HEAD = 64
"""How many bytes of a line hold its checksum and its number."""
_MAX_CREATIONS = 3
"""How often to create a file that another process removes before it is locked."""


class Header(NamedTuple):
    """What applies to all records of a segment.

    `owner` identifies the journal that wrote it; with the number of an event, it identifies the
    event. `destination` names the collector of the events, without secrets.
    """

    owner: str
    destination: str
    shared: SharedAttributes

    def encode(self) -> bytes:
        """Return both lines, with no event settled."""
        text = json.dumps({"owner": self.owner, "destination": self.destination}, ensure_ascii=True)
        attributes = (
            f',"resource":{spelled_json(self.shared.resource)}'
            f',"defaults":{spelled_json(self.shared.defaults)}}}'
        )
        content = (text[:-1] + attributes).encode()
        return _PREFIX + _settled_field(0) + b"\n%08x %b\n" % (crc32(content), content)


class DamagedHeaderError(Exception):
    """The header of a segment cannot be read.

    `records` counts the intact records that are not known to be settled. `is_renamed` is False if
    the file could not be renamed; the next scan then finds it again.
    """

    def __init__(self, records: int) -> None:
        super().__init__(records)
        self.records = records
        self.is_renamed = False


class NewerFormatError(Exception):
    """A newer release has written the segment."""


class NotReopenedError(OSError):
    """A segment was opened before, or its file is being created."""


def _settled_field(number: int, prefix: bytes = _PREFIX) -> bytes:
    """Return the rest of the first line: a number of fixed width, and the checksum."""
    digits = b"%020d" % number
    return b"%b %08x" % (digits, crc32(prefix + digits))


class Segment:
    """A segment that this process appends to, and has locked since it was created.

    Any thread may call `append`, also while others do. `Journal` serializes the calls of `open`.

    Args:
        path: the path that the file will have.
        header: its header.
        first: the number of its first event.
        limit: the size in bytes beyond which another segment follows.

    """

    def __init__(self, path: str, header: Header, first: int, limit: int) -> None:
        self.path = path
        self.first = self.last = first
        self.limit = limit
        self.size = 0
        self._synced_size = 0
        self.writers: set[int] = set()
        """The numbers of the events that threads are about to append. A set: adding and removing
        are atomic, so they need no lock."""
        self.sealed = False
        """Whether it takes no more records, after a failure."""
        self._header = header
        self._was_opened = False
        self.is_open = False
        """Whether the file is open, and exists as far as this process knows."""
        self.is_removed = False
        """Whether the file was removed from the directory."""
        self._descriptor = self._settled_descriptor = -1

    def open(self) -> None:
        """Create, lock and name the file.

        Raises:
            NotReopenedError: that was tried before. Another process may have adopted the file; or a
                signal handler logs an event while this thread creates the file.
            OSError: it cannot be created.

        """
        if self._was_opened:
            raise NotReopenedError
        self._was_opened = True
        unfinished = self.path + UNFINISHED
        descriptor = settled_descriptor = -1
        try:
            descriptor = _create_locked(unfinished)
            header = self._header.encode()
            if disk.append(descriptor, header) != len(header):
                raise OSError("short write")
            # A second descriptor to overwrite the first line: on Linux, O_APPEND appends whatever
            # the offset.
            settled_descriptor = disk.open_existing(unfinished)
            # Others look only for the final name, so they never adopt a file before it is locked.
            disk.rename(unfinished, self.path)
        except BaseException:
            for each in (descriptor, settled_descriptor):
                if each >= 0:
                    disk.close(each)
            if descriptor >= 0:
                with suppress(OSError):
                    disk.remove(unfinished)
            raise
        self._settled_descriptor = settled_descriptor
        self._descriptor = descriptor
        self.size = len(header)
        self.is_open = True

    @property
    def is_full(self) -> bool:
        """Whether the next events go to another segment."""
        return self.sealed or self.size >= self.limit

    def include(self, number: int) -> None:
        """Note that the segment is to hold event `number`. Needs the lock of the queue.

        Without a call between comparing and assigning: a signal handler may include other events.
        """
        if number < self.first:
            self.first = number
        if number > self.last:
            self.last = number

    def append(self, record: bytes) -> None:
        """Write a record, in one system call.

        Raises:
            OSError: it was not written, or not all of it.

        """
        if disk.append(self._descriptor, record) != len(record):
            raise OSError("short write")
        self.size += len(record)

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`; none behind the end.

        Raises:
            OSError: that failed.

        """
        return disk.read(self._descriptor, size, offset)

    def end(self) -> int:
        """Return the size of the file, which counts records that were only partly written."""
        try:
            return disk.status(self._descriptor).st_size
        except OSError:
            return self.size

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the file, up to a place that cannot be read."""
        parts: list[bytes] = []  # of a line, which may be longer than a chunk
        with suppress(OSError):
            for chunk in disk.chunks(self._descriptor, 0):
                end, *lines = chunk.split(b"\n")
                parts.append(end)
                if lines:
                    *whole, rest = lines
                    yield b"".join(parts)
                    yield from whole
                    parts = [rest]

    def settle(self, number: int) -> None:
        """Record in the file that all events up to `number` are settled.

        Raises:
            OSError: that failed; the events may be exported twice.

        """
        disk.overwrite(self._settled_descriptor, _settled_field(number), len(_PREFIX))

    def sync(self) -> None:
        """Wait until all records have reached the storage device, unless they have already.

        Raises:
            OSError: some of them perhaps have not.

        """
        size = self.size
        if self.is_open and size != self._synced_size:
            try:
                disk.sync(self._descriptor)
            except OSError:
                if self.is_open:  # or else another thread has closed it: its events are settled
                    raise
            self._synced_size = size

    def is_linked(self) -> bool:
        """Return whether the file still has a name."""
        try:
            return disk.status(self._descriptor).st_nlink > 0
        except OSError:
            # Unknown. If the events were written again, both files would be exported.
            return True

    def remove(self) -> None:
        """Remove the file and free its lock. Never raises.

        If it cannot be removed, all of its events are marked as settled, so they are not exported.
        """
        if self.is_open:
            try:
                disk.remove(self.path)
            except OSError:
                with suppress(OSError):
                    self.settle(self.last)
            self.close()

    def close(self) -> None:
        """Free the lock, so that others may adopt the segment. Never raises."""
        self.is_open = False
        # Assigned before they are closed: two threads may close the segment at the same time.
        descriptors = self._descriptor, self._settled_descriptor
        self._descriptor = self._settled_descriptor = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                with suppress(OSError):
                    disk.close(descriptor)

    def leave_to_parent(self) -> None:
        """Give up the segment in a forked child, without freeing the parent's lock."""
        if self.writers:
            # The forking thread may be inside `append`, as in a signal handler, and goes on in the
            # child: it must not write to the parent's file, nor to one opened meanwhile.
            for descriptor in (self._descriptor, self._settled_descriptor):
                if descriptor >= 0:
                    with suppress(OSError):
                        disk.neutralize(descriptor)
        else:
            self.close()


def _create_locked(path: str) -> int:
    """Create and lock a file; return its descriptor.

    Repeats that if another process removes the file before it is locked; see `remove_unfinished`.
    """
    for _ in range(_MAX_CREATIONS):
        descriptor = disk.create(path)
        is_locked = False
        try:
            is_locked = disk.lock(descriptor) and disk.is_at(path, descriptor)
        finally:
            if not is_locked:
                disk.close(descriptor)
                with suppress(OSError):
                    disk.remove(path)
        if is_locked:
            return descriptor
    raise OSError("removed by another process")


class Leftover:
    """A segment of a dead process, adopted: locked by this one. Not thread-safe.

    Raises:
        DamagedHeaderError: its header cannot be read.
        NewerFormatError: a newer release has written it.
        OSError: it cannot be read.

    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.settled = self._read_first_line()
        self.header, self._records_at = self._read_header()
        self.damaged = 0
        """How many records are damaged, as far as is known."""
        self._numbers, self._offsets, self._lengths = array("Q"), array("Q"), array("L")
        self._next = 0
        self._is_indexed = False
        self._decoder = RecordDecoder()

    def _read_first_line(self) -> int:
        """Return the number up to which the events are settled."""
        start = disk.read(self._descriptor, 2 * _FIRST_LINE, 0)
        line, separator, _ = start.partition(b"\n")
        version, _, field = line.removeprefix(_MAGIC).partition(b" ")
        digits = field[:20]
        prefix = _MAGIC + version + b" "
        is_intact = (
            bool(separator) and digits.isdigit() and field == _settled_field(int(digits), prefix)
        )
        if not start.startswith(_PREFIX):
            if is_intact and _is_newer(version):
                raise NewerFormatError
            raise DamagedHeaderError(self._count_intact(0))
        # If the number is damaged: exporting events twice is better than never.
        return int(digits) if is_intact else 0

    def _read_header(self) -> tuple[Header, int]:
        """Return the header, and the offset of the records."""
        line = self._read_line(_FIRST_LINE)
        try:
            found = json.loads(checked(line) or b"")
            shared = SharedAttributes(
                attributes_of(found["resource"]), attributes_of(found["defaults"])
            )
            header = Header(str(found["owner"]), str(found["destination"]), shared)
        except MALFORMED as error:
            raise DamagedHeaderError(self._count_intact(self.settled)) from error
        return header, _FIRST_LINE + len(line) + 1

    def _read_line(self, offset: int) -> bytes:
        """Return a line without its line feed; empty if it has none, or is too long."""
        parts: list[bytes] = []
        for chunk in disk.chunks(self._descriptor, offset):
            part, separator, _ = chunk.partition(b"\n")
            parts.append(part)
            if separator:
                return b"".join(parts)
            if sum(map(len, parts)) > _LARGEST_HEADER:
                break
        return b""

    def _count_intact(self, settled: int) -> int:
        """Return the number of intact records after event number `settled`."""
        numbers = (number for number, _, _ in self._scan(0))
        return len({number for number in numbers if number is not None and number > settled})

    def _index(self) -> None:
        """Find the unsettled records, and count the damaged ones, unless that has been done."""
        if self._is_indexed:
            return
        numbers, offsets, lengths = array("Q"), array("Q"), array("L")
        damaged = 0
        for number, offset, length in self._scan(self._records_at):
            if number is None:
                damaged += 1
            elif number > self.settled:
                numbers.append(number)
                offsets.append(offset)
                lengths.append(length)
        # Usually they are in order. There may be a million of them, and sorting takes more memory.
        if any(number >= following for number, following in pairwise(numbers)):
            order = sorted(range(len(numbers)), key=numbers.__getitem__)
            # Of records with the same number, the last one counts.
            order = [
                place
                for place, following in pairwise([*order, -1])
                if following < 0 or numbers[place] != numbers[following]
            ]
            numbers, offsets, lengths = (
                array(each.typecode, map(each.__getitem__, order))
                for each in (numbers, offsets, lengths)
            )
        self._numbers, self._offsets, self._lengths = numbers, offsets, lengths
        self.damaged += damaged
        self._is_indexed = True

    def _scan(self, offset: int) -> Iterator[tuple[int | None, int, int]]:
        """Yield the number, offset and length of each record; a damaged one has None as number.

        Records are separated by an empty line. Damaged lines without one between them count as one
        record: damage may have put a line feed into it.
        """
        was_damaged = False
        for number, length in self._lines(offset):
            if length and (number is not None or not was_damaged):
                yield number, offset, length
            was_damaged = bool(length) and number is None
            offset += length + 1

    def _lines(self, offset: int) -> Iterator[tuple[int | None, int]]:
        """Yield the number and length of each line; the number of a damaged record is None."""
        # Long lines are never held in memory: after a power loss, a file system may show zeros for
        # all data that was not synced, and they would be one line.
        head, length, checksum = b"", 0, 0
        for chunk in disk.chunks(self._descriptor, offset):
            *ends, rest = chunk.split(b"\n")
            for part in ends:
                if not length:  # the usual case: the line is in one chunk
                    yield _number_of(part[:_HEAD], crc32(part[9:])), len(part)
                    continue
                head += part[: _HEAD - len(head)]
                checksum = crc32(part[max(9 - length, 0) :], checksum)
                yield _number_of(head, checksum), length + len(part)
                head, length, checksum = b"", 0, 0
            head += rest[: _HEAD - len(head)]
            checksum = crc32(rest[max(9 - length, 0) :], checksum)
            length += len(rest)
        yield _number_of(head, checksum), length

    def __len__(self) -> int:
        """Return how many records are left to export.

        Raises:
            OSError: the file cannot be read.

        """
        self._index()
        return len(self._numbers) - self._next

    def next_batch(self, max_events: int, max_bytes: int) -> list[tuple[int, Event]]:
        """Return the next events with their numbers, at least one; none at the end.

        Returns the same events until `settle` is called.

        Raises:
            OSError: the file cannot be read.

        """
        self._index()
        found: list[tuple[int, Event]] = []
        size = 0
        position = self._next
        while position < len(self._numbers) and len(found) < max_events:
            length = self._lengths[position]
            if found and size + length > max_bytes:
                break
            decoded = self._decoder.decode(
                disk.read(self._descriptor, length, self._offsets[position])
            )
            if decoded is not None:
                size += length
                found.append(decoded)
            elif found:
                break
            else:  # damaged since it was indexed, or of an unknown form
                self.damaged += 1
                self._next = position + 1
            position += 1
        return found

    def settle(self, number: int) -> None:
        """Record in the file that all events up to `number` are settled, and move on behind them.

        Raises:
            OSError: that failed; the events may be exported twice.

        """
        while self._next < len(self._numbers) and self._numbers[self._next] <= number:
            self._next += 1
        disk.overwrite(self._descriptor, _settled_field(number), len(_PREFIX))

    def remove(self) -> None:
        """Remove the file and free its lock. Never raises.

        If it cannot be removed, all of its events are marked as settled, so the next adopter
        neither exports nor counts them.
        """
        try:
            disk.remove(self.path)
        except OSError:
            if self._numbers:
                with suppress(OSError):
                    self.settle(self._numbers[-1])
        self.close()

    def close(self) -> None:
        """Free the lock. Never raises."""
        with suppress(OSError):
            disk.close(self._descriptor)


def paths_in(directory: str, *endings: str) -> Iterator[str]:
    """Yield the paths of the files in a directory that have one of these endings, oldest first.

    Raises:
        OSError: the directory cannot be read.

    """
    for name in disk.names(directory):
        if name.endswith(endings):
            yield f"{directory}{os.sep}{name}"


def settled_in(path: str) -> int | None:
    """Return the number up to which the events of a segment are settled; None if it is gone.

    Returns 0 if the number is damaged or cannot be read.
    """
    try:
        descriptor = disk.open_to_read(path)
    except FileNotFoundError:
        return None
    except OSError:
        return 0
    try:
        digits = disk.read(descriptor, 20, len(_PREFIX))
        field = disk.read(descriptor, _FIRST_LINE - len(_PREFIX) - 1, len(_PREFIX))
        return int(digits) if digits.isdigit() and field == _settled_field(int(digits)) else 0
    except OSError:
        return 0
    finally:
        disk.close(descriptor)


def _is_newer(version: bytes) -> bool:
    return version.isdigit() and int(version) > VERSION


def _number_of(head: bytes, checksum: int) -> int | None:
    """Return the number of the record with this beginning and checksum; None if it is damaged."""
    return number_of(head[9:]) if head[:9] == b"%08x " % checksum else None


def adopt(path: str) -> Leftover | None:
    """Lock a segment and read its header; None if another process has locked it, or it is gone.

    Raises:
        DamagedHeaderError: its header cannot be read; the file was renamed, if that succeeded.
        NewerFormatError: a newer release has written it; the file stays as it is.
        OSError: it is not a regular file of this user, or cannot be read.

    """
    descriptor = _open_locked(path)
    if descriptor is None:
        return None
    try:
        return Leftover(path, descriptor)
    except BaseException as error:
        if isinstance(error, DamagedHeaderError):
            with suppress(OSError):
                disk.rename(path, path + DAMAGED)
                error.is_renamed = True
        disk.close(descriptor)
        raise


def _open_locked(path: str) -> int | None:
    """Open and lock a file; None if it belongs to a living process, or is gone.

    Raises:
        OSError: it is not a regular file of this user, or cannot be opened.

    """
    try:
        # Before it is opened: that would wake the writer of a FIFO, or start a device.
        if not disk.is_regular_at(path):
            raise OSError("not a regular file of this user")
        descriptor = disk.open_existing(path)
    except FileNotFoundError:
        return None
    is_ours = False
    try:
        if not disk.is_regular(descriptor):  # replaced meanwhile
            raise OSError("not a regular file of this user")
        # Between opening and locking, its owner or another adopter may have removed it.
        is_ours = disk.lock(descriptor) and disk.is_at(path, descriptor)
        return descriptor if is_ours else None
    finally:
        if not is_ours:
            disk.close(descriptor)


def discard(path: str, destination: str | None) -> int | None:
    """Remove a leftover, also a damaged one; return how many events it had left.

    Returns None, and removes nothing, if it belongs to a living process, is gone, or has another
    destination; `destination` None means any. A damaged header has none, so the file is removed.

    Raises:
        NewerFormatError: a newer release has written it; it was left alone.
        OSError: it is not a regular file of this user, or cannot be read or removed.

    """
    descriptor = _open_locked(path)
    if descriptor is None:
        return None
    try:
        try:
            leftover = Leftover(path, descriptor)
            if destination not in (None, leftover.header.destination):
                return None
            events = len(leftover)
        except DamagedHeaderError as error:
            events = error.records
        disk.remove(path)
        return events
    finally:
        # Not before it is removed: an adopter could lock it in between, and export its events.
        disk.close(descriptor)


def remove_all_unfinished(directory: str) -> None:
    """Remove those files of a directory that processes left before they were segments."""
    with suppress(OSError):
        for path in paths_in(directory, SUFFIX + UNFINISHED):
            remove_unfinished(path)


def remove_unfinished(path: str) -> None:
    """Remove a file that a dead process has created and not renamed to a segment. Never raises."""
    with suppress(OSError):
        descriptor = _open_locked(path)
        if descriptor is not None:
            try:
                disk.remove(path)
            finally:
                disk.close(descriptor)
