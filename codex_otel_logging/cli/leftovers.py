"""Shows the files of a spool, for `drain` and `check`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..text import printable

if TYPE_CHECKING:
    from ..delivery.spool.survey import FileGroup

HEADER = ("state", "destination", "files", "events", "bytes", "oldest")

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def row(group: FileGroup) -> Sequence[str]:
    """Return the row of a table with `HEADER`."""
    return (
        group.state,
        printable(group.destination) or "unknown",
        f"{group.files:,}",
        f"{group.events:,}",
        f"{group.size:,}",
        age(group.oldest_ns),
    )


def as_json(group: FileGroup) -> dict[str, Any]:
    """Return an object with the same facts; null stands for what is unknown."""
    return {
        "state": group.state,
        "destination": group.destination or None,
        "files": group.files,
        "events": group.events,
        "bytes": group.size,
        "oldest": _timestamp(group.oldest_ns),
    }


def age(time_ns: int) -> str:
    """Return how long ago a time was, in the largest unit, such as `3 h`; 0 means unknown."""
    if not time_ns:
        return "unknown"
    seconds = max(time.time_ns() - time_ns, 0) // 1_000_000_000
    unit, size = next(each for each in _UNITS if seconds >= each[1] or each[1] == 1)
    return f"{seconds // size} {unit}"


def _timestamp(time_ns: int) -> str | None:
    """Return a time as RFC 3339 in UTC; None if it is unknown or beyond the year 9999."""
    if not time_ns:
        return None
    try:
        moment = datetime.fromtimestamp(time_ns / 1e9, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
