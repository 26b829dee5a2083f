"""Facts about a single received record: its time, whether it is an event, whether it failed.

Senders differ: the Codex CLI sends most numbers as text, and no time but in an attribute.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from ... import catalog

if TYPE_CHECKING:
    from ...receiver import ReceivedEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_LATEST_NS = (1 << 64) - 1
_LARGEST = float(1 << 63)
_FIRST_HTTP_ERROR = 400
_SEVERITY_ERROR = 17


def time_of(event: ReceivedEvent) -> int:
    """Return when an event was, in nanoseconds since the epoch.

    That is its own time; where it has none, `event.timestamp`, or when it was observed, or now.
    """
    return (
        event.time_unix_nano
        or _nanoseconds(event.attributes.get("event.timestamp"))
        or event.observed_time_unix_nano
        or time.time_ns()
    )


def _nanoseconds(timestamp: object) -> int:
    """Return a time in RFC 3339 as nanoseconds since the epoch; 0 for anything else."""
    text = str(timestamp)
    if text.endswith("Z"):  # not understood before Python 3.11
        text = f"{text[:-1]}+00:00"
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return 0
    nanoseconds = (moment - _EPOCH) // _MICROSECOND * 1000
    return nanoseconds if 0 < nanoseconds <= _LATEST_NS else 0


def is_event(event: ReceivedEvent) -> bool:
    """Return whether a log record is an event: it says so, or is named like one of the catalog."""
    return bool(event.attributes.get("event.name")) or catalog.find(event.name) is not None


def number(value: object) -> float | None:
    """Return a number, also one that came as text; None for anything else, and below 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < _LARGEST else None


def failure_of(event: ReceivedEvent) -> str | None:
    """Return what a failed event says of its failure, or None for one that did not fail."""
    attributes = event.attributes
    message = attributes.get("error.message")
    if has_succeeded(event) is False:
        tool = attributes.get("tool_name", "")
        return f"{tool}: {message or attributes.get('output', '')}"
    if message:
        return str(message)
    status = number(attributes.get("http.response.status_code"))
    if status is not None and status >= _FIRST_HTTP_ERROR:
        return f"http {status:g}"
    return "" if event.severity_number >= _SEVERITY_ERROR else None


def is_denied(event: ReceivedEvent) -> bool:
    """Return whether an event is a decision against a tool call."""
    decision = str(event.attributes.get("decision")).lower()
    return event.name == "codex.tool_decision" and decision in ("denied", "abort")


def has_succeeded(event: ReceivedEvent) -> bool | None:
    """Return whether a tool call succeeded, or None for an event that does not say."""
    return {"true": True, "false": False}.get(str(event.attributes.get("success")).lower())
