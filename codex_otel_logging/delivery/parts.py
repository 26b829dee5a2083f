"""The parts into which a batch is split if the collector rejects it as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Record = TypeVar("Record")


class Parts(Generic[Record]):
    """The parts of a batch that are still to be sent, in the order of their records.

    A collector may reject a batch because it is too large or because of a few of its records. Such
    a batch is halved, and so are its halves, down to the records that the collector rejects. A
    collector that rejects everything would cost nearly two requests per record. Therefore, if the
    first ceil(log2(batch size)) + 2 requests are all rejected, the remaining records count as
    rejected: those requests lead down to a single record, and to one more. Not thread-safe.
    """

    def __init__(self, batch: Sequence[Record]) -> None:
        self._parts = [batch]
        self._rejections_left = (len(batch) - 1).bit_length() + 2
        self._any_accepted = False

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self) -> Sequence[Record]:
        """Remove and return the next part to send."""
        return self._parts.pop()

    def put_back(self, part: Sequence[Record]) -> None:
        """Make a part the next one again."""
        self._parts.append(part)

    def halve(self, part: Sequence[Record]) -> None:
        """Make the two halves of a part the next ones."""
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]

    def accepted(self) -> None:
        """Note that the collector accepted a part."""
        self._any_accepted = True

    def rejected(self) -> bool:
        """Note that the collector rejected a part; return whether to give up the others."""
        self._rejections_left -= 1
        return self._rejections_left <= 0 and not self._any_accepted

    def rest(self) -> Sequence[Record]:
        """Remove all parts and return their records."""
        parts, self._parts = self._parts, []
        return [record for part in reversed(parts) for record in part]
