"""Reads events back that are on disk only, in the order of their numbers.

While the memory of the queue is full, events are on disk only: they are cold. The worker reads them
back when it has exported those in memory. Records are almost in order: those written by several
threads at once may be swapped, even across the boundary between two segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...events.event import Event
from ...native import monotonic
from .records import RecordDecoder, checked, number_of
from .segment import Segment

_CHUNK = 1 << 16
"""How many bytes are read at once, except for the rest of a record that is longer."""

MAX_READS = 3
"""How often a chunk is read before it counts as damaged; at most one time in `REREAD_S`."""

REREAD_S = 1.0
"""How long to wait after a failed read, in seconds: a device may be reset meanwhile."""


class ColdReader:
    """Reads the segments of one journal. Not thread-safe: only the worker uses it."""

    def __init__(self) -> None:
        self._segment: Segment | None = None
        self._consumed = ""
        """The path of the last segment that was read to its end. Paths increase with time."""
        self._offset = 0
        """Where to go on reading `_segment`."""
        self._rest = b""
        """The beginning of a line whose end is not read yet."""
        self._failed_reads = 0
        """How often the next chunk could not be read."""
        self.read_again_at = 0.0
        """When to read again, after a failed read."""
        self._ahead: dict[int, Event] = {}
        """Events that were read before it was their turn."""
        self._decoder = RecordDecoder()

    def take(self, number: int, parked: Mapping[int, Event]) -> Event | None:
        """Return an event that has been read, or is one of `parked`; None if it is neither."""
        return self._ahead.get(number) or parked.get(number)

    def forget(self, first: int) -> None:
        """Forget the events before number `first`."""
        self._ahead = {n: event for n, event in self._ahead.items() if n >= first}

    def advance(self, segments: Sequence[Segment], current: Segment | None, number: int) -> bool:
        """Read the next chunk in search of event `number`; return False if there is none.

        `segments` are those of the journal, oldest first; `current` is the one that the next event
        goes to. A chunk that cannot be read is skipped after `MAX_READS` attempts.

        Raises:
            OSError: it cannot be read now; see `read_again_at`.

        """
        segment = self._segment
        if segment is None:
            segment = self._segment = self._next(segments, number)
            if segment is None:
                return False
        # Asked before reading. Asked afterwards, a record written in between would be missed.
        is_complete = segment is not current and not segment.writers
        try:
            # More of a long record at once. It would otherwise be searched again for each chunk.
            size = max(_CHUNK, len(self._rest))
            data = segment.read(size, self._offset) if segment.is_open else b""
        except OSError:
            self._failed_reads += 1
            if self._failed_reads < MAX_READS:
                self.read_again_at = monotonic() + REREAD_S
                raise
            self._failed_reads, self._rest = 0, b""
            # Not beyond the end: threads still append to the last segment.
            skipped = max(min(_CHUNK, segment.end() - self._offset), 0)
            self._offset += skipped
            if skipped:
                return True
            data = b""
        if not data:
            if is_complete:
                self._consumed = segment.path
                self._segment, self._offset, self._rest = None, 0, b""
            return is_complete
        *lines, rest = (self._rest + data).split(b"\n")
        offset = self._offset + len(data)
        ahead: dict[int, Event] = {}
        for line in lines:
            content = checked(line) if line else None
            found = None if content is None else number_of(content)
            if found is not None and found >= number:
                decoded = self._decoder.decode(line)
                if decoded is not None:
                    ahead[found] = decoded[1]
        # Assigned without a call in between: a signal handler may raise if the thread that flushes
        # also reads.
        self._failed_reads = 0
        self._offset = offset
        self._rest = rest
        self._ahead.update(ahead)
        return True

    def _next(self, segments: Sequence[Segment], number: int) -> Segment | None:
        """Return the segment to read next, in search of an event; None if none can hold it."""
        left = [s for s in segments if s.path > self._consumed and s.last >= number]
        # If none can, reading would only fill memory with later events.
        if not any(segment.first <= number for segment in left):
            return None
        return min(left, key=lambda segment: segment.path)  # a signal handler may add one earlier
