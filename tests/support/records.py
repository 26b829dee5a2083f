"""Log records as a handler receives them."""

from __future__ import annotations

import logging
from typing import Any

from codex_otel_logging.events.event import Event
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction


def record(msg: Any = "codex.tool_decision", *args: object, **options: Any) -> logging.LogRecord:
    """Return a record as `logger.info(msg, *args, extra=...)` creates it."""
    extra = options.pop("extra", {})
    exc_info = options.pop("exc_info", None)
    name = options.pop("name", "codex_otel.x")
    logger = logging.Logger("codex_otel.x")
    made = logger.makeRecord(name, logging.INFO, "app.py", 1, msg, args, exc_info, None, extra)
    assert not options
    return made


def read(*args: Any, **options: Any) -> Event:
    """Return the event read from such a record with default settings."""
    event = EventReader(Redaction(), max_attribute_length=65_536).read(record(*args, **options))
    assert event is not None
    return event
