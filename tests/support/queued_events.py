"""Events as the handler queues them, for tests of `delivery`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from codex_otel_logging.events.event import Event
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction

_reader = EventReader(Redaction(log_user_prompt=False))


def turns(count: int, **more: Any) -> list[Event]:
    """Return `count` events, numbered from 0 in `duration_ms`."""
    events = []
    for number in range(count):
        fields = {"duration_ms": number, "conversation.id": "c", **more}
        record = {"name": "codex_otel", "msg": "codex.turn_ttft", **fields}
        event = _reader.read(logging.makeLogRecord(record))
        assert event is not None
        events.append(event)
    return events


def numbers(events: Iterable[Event]) -> list[Any]:
    return [event.fields["duration_ms"] for event in events]
