"""The counts that account for every event."""

from __future__ import annotations

from typing import NamedTuple


class Stats(NamedTuple):
    """What became of a handler's events, counted since it was built (in a fork: since the fork).

    `accepted == exported + rejected + dropped + queued` at every moment. `rejected` events were
    refused by the collector, `dropped` ones found the queue full, could not be sent for too long or
    could not be encoded. `ignored` records were no events.
    """

    accepted: int = 0
    exported: int = 0
    rejected: int = 0
    dropped: int = 0
    queued: int = 0
    ignored: int = 0


Stats.__module__ = "codex_otel_logging"
