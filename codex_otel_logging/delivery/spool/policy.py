"""What a spool changes about giving up: refusals that are kept, and the age of events."""

from __future__ import annotations

from collections.abc import Sequence

from ...events.event import Event
from ...native import wall_clock
from ..exporter import REFUSAL_INTERVAL_S, Outcome

_ABOUT_EVENTS = frozenset({400, 413, 422, "INVALID_ARGUMENT", "OUT_OF_RANGE"})
"""Statuses that say that the events themselves cannot be accepted.

All others are about credentials, the address, a proxy, a quota, or the collector. OTLP forbids to
retry them. But an expired token must not cost a week of events, so events on disk are kept until
somebody has mended the cause: https://opentelemetry.io/docs/specs/otlp/#failures-1
"""


def keeping(outcome: Outcome) -> Outcome:
    """Return an outcome as it counts for events on disk: most refusals are retried."""
    if outcome.verdict == "refused" and outcome.status not in _ABOUT_EVENTS:
        retry_after_s = max(outcome.retry_after_s or 0.0, REFUSAL_INTERVAL_S)
        return outcome._replace(verdict="retry", retry_after_s=retry_after_s)
    return outcome


def count_expired(events: Sequence[Event], keep_for_s: float) -> int:
    """Return how many of the first events are older than `keep_for_s`; 0 means no limit."""
    if not keep_for_s:
        return 0
    oldest_ns = (wall_clock() - keep_for_s) * 1e9
    for count, event in enumerate(events):
        if event.time_ns >= oldest_ns:
            return count
    return len(events)
