"""Splits a batch that a collector rejects, and counts what becomes of its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from .exporter import Outcome

Record = TypeVar("Record")

MAX_REJECTED_BATCHES = 2
"""How many batches in a row may be rejected as a whole, if they are on disk.

The third one is kept: that many are more likely about the address than about the events.
"""


class Settlement(NamedTuple):
    """The outcome of the next events of a batch, as three counts."""

    exported: int = 0
    rejected: int = 0
    dropped: int = 0

    @property
    def events(self) -> int:
        """The number of settled events."""
        return sum(self)


class Parts(Generic[Record]):
    """The unsent parts of a batch, in the order of their records. Not thread-safe.

    A collector may reject a batch because it is too large, or because of a few of its records. Such
    a batch is halved, and so are its halves, down to the records that the collector rejects.

    If the collector rejects every request, halving costs almost two requests per record. Therefore,
    if the first ceil(log2(batch size)) + 2 requests are all rejected, the remaining records count
    as rejected too. That many requests are enough to reach a single record and try one more.
    """

    def __init__(self, batch: Sequence[Record]) -> None:
        self._parts = [batch]
        self._rejections_left = (len(batch) - 1).bit_length() + 2
        self.any_accepted = False
        """Whether the collector has accepted a part."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self) -> Sequence[Record]:
        """Remove and return the next part to send."""
        return self._parts.pop()

    def put_back(self, part: Sequence[Record]) -> None:
        """Make `part` the next part again, after a failed attempt."""
        self._parts.append(part)

    def halve(self, part: Sequence[Record]) -> None:
        """Make the two halves of `part` the next parts, the first half first."""
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]

    def apply(self, part: Sequence[Record], outcome: Outcome) -> Settlement | None:
        """Return what an outcome other than `retry` means for a part; None if it was halved.

        The settlement includes the rest of the batch if its other parts are given up.
        """
        if outcome.verdict == "delivered":
            self.any_accepted = True
            rejected = min(outcome.rejected, len(part))
            return Settlement(exported=len(part) - rejected, rejected=rejected)
        if outcome.verdict == "not encodable":
            if len(part) > 1:
                self.halve(part)
                return None
            return Settlement(dropped=len(part))
        self._rejections_left -= 1
        if self._rejections_left <= 0 and not self.any_accepted:
            return Settlement(rejected=len(part) + len(self.rest()))
        if outcome.verdict != "refused" and len(part) > 1:
            self.halve(part)
            return None
        return Settlement(rejected=len(part))

    def rest(self) -> Sequence[Record]:
        """Remove all parts and return their records."""
        parts, self._parts = self._parts, []
        return [record for part in reversed(parts) for record in part]
