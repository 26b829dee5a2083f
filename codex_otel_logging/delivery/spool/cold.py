"""Reads events back that are on disk only, in the order of their numbers.

While the memory of the queue is full, events are on disk only: they are cold. The worker reads them
back when it has exported those in memory. Records are almost in order: those written by several
threads at once may be swapped, even across the boundary between two segments.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import copy

from ...events.event import Event
from ...native import monotonic
from .records import RecordDecoder, checked, number_of
from .segment import Segment

_CHUNK = 1 << 16
"""How many bytes are read at once, except for the rest of a record that is longer."""

MAX_AHEAD = 8 << 20
"""The size, in bytes, of the events in memory beyond which only the missing one is looked for.

Twice as much as one call of `Journal.read_back` returns.
"""

MAX_READS = 3
"""How often a chunk is read before it counts as damaged; at most one time in `REREAD_S`."""

REREAD_S = 1.0
"""How long to wait after a failed read, in seconds: a device may be reset meanwhile."""


class _Cursor:
    """A place in the segments of a journal, from which reading goes on."""

    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.consumed = ""
        """The path of the last segment that was read to its end. Paths increase with time."""
        self.offset = 0
        """Where to go on reading `segment`."""
        self.rest = b""
        """The beginning of a line whose end is not read yet."""
        self.failed_reads = 0
        """How often the next chunk could not be read."""


class ColdReader:
    """Reads the segments of one journal. Not thread-safe: only the worker uses it.

    What is read before it is its turn stays in memory, up to `MAX_AHEAD`. Beyond that, the event
    whose turn it is may be damaged. A second cursor then looks for it in the rest of the segments,
    so that only this one event is kept, with those that follow it closely.
    """

    def __init__(self) -> None:
        self._cursor = _Cursor()
        self._search: _Cursor | None = None
        """Where to go on looking for an event that is missing."""
        self._passed = sys.maxsize
        """The lowest number that the search has passed. All below it, it has not found."""
        self.read_again_at = 0.0
        """When to read again, after a failed read."""
        self._ahead: dict[int, Event] = {}
        """Events that were read before it was their turn."""
        self._ahead_bytes = 0
        self._first = 0
        """The number before which events are forgotten."""
        self._decoder = RecordDecoder()

    def take(self, number: int, parked: Mapping[int, Event]) -> Event | None:
        """Return an event that has been read, or is one of `parked`; None if it is neither."""
        return self._ahead.get(number) or parked.get(number)

    def forget(self, first: int) -> None:
        """Forget the events before number `first`."""
        if self._ahead:
            for number in range(self._first, first):
                event = self._ahead.pop(number, None)
                if event is not None:
                    self._ahead_bytes -= event.size
        self._first = first

    def advance(self, segments: Sequence[Segment], current: Segment | None, number: int) -> bool:
        """Read the next chunk in search of event `number`; return False if there is none.

        `segments` are those of the journal, oldest first; `current` is the one that the next event
        goes to. A chunk that cannot be read is skipped after `MAX_READS` attempts.

        Raises:
            OSError: it cannot be read now; see `read_again_at`.

        """
        cursor = self._cursor_for(number)
        segment = cursor.segment
        if segment is None:
            segment = cursor.segment = _next(segments, cursor.consumed, number)
            if segment is None:
                return False
        # Asked before reading. Asked afterwards, a record written in between would be missed.
        is_complete = segment is not current and not segment.writers
        try:
            # More of a long record at once. It would otherwise be searched again for each chunk.
            size = max(_CHUNK, len(cursor.rest))
            data = segment.read(size, cursor.offset) if segment.is_open else b""
        except OSError:
            cursor.failed_reads += 1
            if cursor.failed_reads < MAX_READS:
                self.read_again_at = monotonic() + REREAD_S
                raise
            cursor.failed_reads, cursor.rest = 0, b""
            # Not beyond the end: threads still append to the last segment.
            skipped = max(min(_CHUNK, segment.end() - cursor.offset), 0)
            cursor.offset += skipped
            if skipped:
                return True
            data = b""
        if not data:
            if is_complete:
                cursor.consumed = segment.path
                cursor.segment, cursor.offset, cursor.rest = None, 0, b""
            return is_complete
        *lines, rest = (cursor.rest + data).split(b"\n")
        if b"\0" in rest:
            # No record holds zeros, but a damaged file may hold many, in what looks like one line.
            rest = b"\0"
        offset = cursor.offset + len(data)
        found: dict[int, bytes] = {}
        for line in lines:
            content = checked(line) if line else None
            each = None if content is None else number_of(content)
            if each is not None and each >= number and each not in self._ahead:
                found[each] = line
        passed = self._passed
        if cursor is self._search:
            if number in found:
                found = {each: line for each, line in found.items() if each < passed}
            else:
                passed = min([passed, *found])
                found = {}
        ahead, ahead_bytes = {}, self._ahead_bytes
        for each, line in found.items():
            decoded = self._decoder.decode(line)
            if decoded is not None:
                ahead[each] = decoded[1]
                ahead_bytes += decoded[1].size
        # Assigned without a call in between: a signal handler may raise if the thread that flushes
        # also reads.
        cursor.failed_reads = 0
        cursor.offset = offset
        cursor.rest = rest
        self._passed = passed
        self._ahead_bytes = ahead_bytes
        self._ahead.update(ahead)
        return True

    def _cursor_for(self, number: int) -> _Cursor:
        """Return where to go on reading in search of event `number`."""
        if self._ahead_bytes < MAX_AHEAD:
            self._search = None
            return self._cursor
        if self._search is None or number >= self._passed:
            self._passed = sys.maxsize
            self._search = copy(self._cursor)
        return self._search


def _next(segments: Sequence[Segment], consumed: str, number: int) -> Segment | None:
    """Return the segment after `consumed` that may hold event `number`; None if none can."""
    left = [s for s in segments if s.path > consumed and s.last >= number]
    # If none can, reading would only fill memory with later events.
    if not any(segment.first <= number for segment in left):
        return None
    return min(left, key=lambda segment: segment.path)  # a signal handler may add one earlier
