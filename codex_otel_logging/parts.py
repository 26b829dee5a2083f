"""What is left of a batch to send: in parts, once a collector has refused it as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from .records import Event


class Parts:
    """The parts of a batch that are still to be sent, in the order of their events.

    A collector may refuse a batch because it is too large or because of a few of its records. Such
    a batch is halved, and so are its halves, down to the records that the collector really refuses.
    A collector that refuses everything would cost nearly two requests for each record. So after
    ceil(log2(batch size)) + 2 refusals in a row, the rest of the batch counts as refused: by then
    all requests down to a single record have been refused, and one more. Not thread-safe.
    """

    def __init__(self, batch: Sequence[Event]) -> None:
        self._parts = [batch]
        self._refusals = 0
        self._most_refusals = (len(batch) - 1).bit_length() + 2

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self) -> Sequence[Event]:
        """Return the next part to send."""
        return self._parts.pop()

    def put_back(self, part: Sequence[Event]) -> None:
        """Make a part the next one again."""
        self._parts.append(part)

    def halve(self, part: Sequence[Event]) -> None:
        """Make the halves of a part the next ones."""
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]

    def accepted(self) -> None:
        """Count an accepted part."""
        self._refusals = 0

    def refused(self) -> bool:
        """Count a refused part; return whether the collector refuses everything."""
        self._refusals += 1
        return self._refusals >= self._most_refusals

    def rest(self) -> Sequence[Event]:
        """Return the events of all parts, and forget them."""
        parts, self._parts = self._parts, []
        return [event for part in reversed(parts) for event in part]
