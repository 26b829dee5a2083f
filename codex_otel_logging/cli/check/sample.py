"""The sample event that `check` exports and traces through logging."""

from __future__ import annotations

import logging

from ...attachment import EVENT_LOGGER
from ...conversation import Conversation
from ...events.event import Event
from ...events.reader import EventReader
from ...events.redaction import Redaction

EVENT = "codex.startup_phase"

READER = EventReader(Redaction())
"""Reads the sample as a handler does. No setting matters: the event has no sensitive field."""


def sample_record(logger: str = EVENT_LOGGER) -> logging.LogRecord:
    """Return the record of the event, as an application would log it."""
    fields = {"startup.phase": "check", "startup.status": "ok", "duration_ms": 0}
    record = logging.LogRecord(logger, logging.INFO, __file__, 0, EVENT, None, None)
    record.__dict__.update(fields)
    return record


def sample_event(conversation_id: str) -> Event:
    """Return the event, with a conversation id by which it can be found in a backend."""
    with Conversation(conversation_id, "none").bind():
        event = READER.read(sample_record())
    assert event is not None
    return event
