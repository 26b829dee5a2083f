"""Derives facts from one received record: its time, whether it is an event, whether it failed.

Senders differ: the Codex CLI sends most numbers as text, and the time only as an attribute.
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
_LATEST_NS = (1 << 64) - 1  # OTLP's times are fixed64
_MAX_NUMBER = float(1 << 63)  # numbers are added up as integers, and printed as such
_FIRST_HTTP_ERROR = 400
_SEVERITY_ERROR = 17
"""ERROR: https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber"""


def time_of(event: ReceivedEvent) -> int:
    """Return the time of an event in nanoseconds since the epoch.

    Falls back from the record's time to `event.timestamp`, the observed time, and the current time.
    """
    return (
        event.time_unix_nano
        or _nanoseconds(event.attributes.get("event.timestamp"))
        or event.observed_time_unix_nano
        or time.time_ns()
    )


def _nanoseconds(timestamp: object) -> int:
    """Return an RFC 3339 time as nanoseconds since the epoch; 0 for anything else."""
    text = str(timestamp)
    if text.endswith("Z"):  # `fromisoformat` accepts it since Python 3.11
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
    """Return whether a record is an event: it has `event.name`, or a name from the catalog."""
    return bool(event.attributes.get("event.name")) or catalog.find(event.name) is not None


def number(value: object) -> float | None:
    """Return a number, or a number sent as text. None for anything else, or if it is negative."""
    # True is an int in Python, but not a number here.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < _MAX_NUMBER else None


def failure_of(event: ReceivedEvent) -> str | None:
    """Return the failure that an event reports, which may be empty; None if it did not fail."""
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
    """Return whether an event is a decision that denies or aborts a tool call."""
    decision = str(event.attributes.get("decision")).lower()
    # The Codex CLI also sends "denied_with_network_policy_deny".
    is_denial = decision.startswith("denied") or decision == "abort"
    return event.name == "codex.tool_decision" and is_denial


def has_succeeded(event: ReceivedEvent) -> bool | None:
    """Return whether a tool call succeeded, or None if the event has no valid `success`."""
    return {"true": True, "false": False}.get(str(event.attributes.get("success")).lower())
