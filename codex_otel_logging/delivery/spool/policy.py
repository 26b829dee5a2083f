"""Decides when events on disk are given up: which refusals are final, and which events too old."""

from __future__ import annotations

from collections.abc import Sequence

from ...events.event import Event
from ...native import wall_clock
from ..exporter import REFUSAL_INTERVAL_S, Outcome

_UNPROCESSABLE = 422
"""The only status with the verdict `refused` that is about the events.

The other statuses that are (HTTP 400 and 413, gRPC INVALID_ARGUMENT, and messages that are too
large) have the verdicts `invalid` and `too large`.
"""


def keeping(outcome: Outcome) -> Outcome:
    """Return the outcome that applies to events on disk: most refusals become `retry`.

    OTLP forbids retrying a refusal: https://opentelemetry.io/docs/specs/otlp/#failures-1. But
    nearly all are about credentials, the address, a proxy, a quota, or the collector. An expired
    token must not cost a week of events, so they are kept until the cause is corrected.
    """
    if outcome.verdict == "refused" and outcome.status != _UNPROCESSABLE:
        retry_after_s = max(outcome.retry_after_s or 0.0, REFUSAL_INTERVAL_S)
        return outcome._replace(verdict="retry", retry_after_s=retry_after_s)
    return outcome


def count_expired(events: Sequence[Event], keep_for_s: float) -> int:
    """Return how many events at the beginning are older than `keep_for_s`; 0 means no limit."""
    if not keep_for_s:
        return 0
    oldest_ns = (wall_clock() - keep_for_s) * 1e9
    for count, event in enumerate(events):
        if event.time_ns >= oldest_ns:
            return count
    return len(events)
