"""Counts the requests that `listen` refused, by what was wrong with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ...receiver import RefusedRequest

MAX_REASONS = 50
"""How many different reasons are kept; requests refused for others are only counted."""


class Refusals:
    """The refused requests so far. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[RefusedRequest, int] = {}
        self.others = 0

    def add(self, refused: RefusedRequest) -> bool:
        """Count a request; return whether it is the first that was refused for its reason."""
        with self._lock:
            count = self._counts.get(refused, 0)
            if not count and len(self._counts) >= MAX_REASONS:
                self.others += 1
                return False
            self._counts[refused] = count + 1
            return not count

    @property
    def total(self) -> int:
        """The number of all refused requests."""
        with self._lock:
            return sum(self._counts.values()) + self.others

    def __iter__(self) -> Iterator[tuple[RefusedRequest, int]]:
        """Iterate over a request for each reason, and how many were refused for it."""
        with self._lock:
            return iter(list(self._counts.items()))
