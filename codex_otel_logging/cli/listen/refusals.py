"""Counts refused requests by reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ...receiver import RefusedRequest

MAX_REASONS = 50
"""Maximum number of distinct reasons. Requests with further reasons are only counted.

A reason can hold text of the request, such as its path.
"""


class Refusals:
    """Counts the refused requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[RefusedRequest, int] = {}
        self.others = 0

    def add(self, refused: RefusedRequest) -> bool:
        """Count a request and return whether it is the first with its reason."""
        with self._lock:
            count = self._counts.get(refused, 0)
            # Known reasons are still counted when the maximum is reached.
            if not count and len(self._counts) >= MAX_REASONS:
                self.others += 1
                return False
            self._counts[refused] = count + 1
            return not count

    @property
    def total(self) -> int:
        """The total number of refused requests."""
        with self._lock:
            return sum(self._counts.values()) + self.others

    def __iter__(self) -> Iterator[tuple[RefusedRequest, int]]:
        """Iterate over one request for each reason, with the number of its requests."""
        with self._lock:
            return iter(list(self._counts.items()))
