"""Keeps the events that an application logs, instead of sending them, for its tests.

It wraps `logging.Logger.callHandlers`, through which every record passes that its logger's level
and filters let through, whichever handlers there are: `dictConfig` and `fileConfig` take handlers
away, a logger that does not propagate keeps its records to itself, and a record factory does not
see `extra=` yet. Each record is read where it is logged, in the application's thread, and goes on
to the handlers. A `CodexOtelHandler` among them does all that it always does, filters and reports
included, but for queueing: its events end there, so no worker is started and nothing is sent.
Nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import catalog
from .config.otel_config import OtelConfig
from .delivery.queue import EventQueue
from .events.checks import ignored_record
from .events.records import LOGGER, Event, EventReader, is_event_logger
from .events.redaction import Redaction
from .handler import shared_attributes_of
from .values import encodable_keys

_COMMON = frozenset(field.name for field in catalog.COMMON_FIELDS)
_SENSITIVE = Redaction(log_user_prompt=False, log_tool_payloads=False)
_MAX_SHOWN = 160

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 32


@dataclass(frozen=True, slots=True, repr=False)
class CapturedEvent:
    """One event: its name, all its attributes, and the logger and level it was logged with."""

    name: str
    attributes: Mapping[str, Any]
    logger: str
    level: int

    def __repr__(self) -> str:
        """Return the name and the event's own attributes, shortened, without what is sensitive."""
        event = catalog.find(self.name)
        sensitive = _SENSITIVE.removed_fields(event) if event else ()
        own = (
            f" {key}={'...' if key in sensitive else _short.repr(value)}"
            for key, value in self.attributes.items()
            if key not in _COMMON
        )
        text = self.name + "".join(own)
        return f"<{text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'}>"


class CapturedEvents(list[CapturedEvent]):
    """The events so far, in the order in which they were logged; grows as more are logged.

    `ignored` says of each record that is no event where it was logged and what is wrong: a misspelt
    name, or a message that is none. No handler would send these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ignored: list[str] = []

    def __repr__(self) -> str:
        ignored = f" ignored: {self.ignored}" if self.ignored else ""
        return super().__repr__() + ignored

    @property
    def names(self) -> list[str]:
        """The names of the events, in their order."""
        return [event.name for event in self]

    def named(self, name: str) -> list[CapturedEvent]:
        """Return the events of that name, in their order."""
        return [event for event in self if event.name == name]

    @property
    def problems(self) -> list[str]:
        """What `catalog.problems` says of them all, and of the ignored ones."""
        found = [line for event in self for line in catalog.problems(event.name, event.attributes)]
        return found + self.ignored


@contextmanager
def capture_events() -> Iterator[CapturedEvents]:
    """Capture what is logged inside the `with` block; the fixture `codex_otel_events` is this.

    An event has the attributes that a handler with default settings would send, but prompts are
    not redacted. `app.version` is the conversation's or `"unknown"`: a handler's is not known here.
    Takes events from any thread or task of this process, and never blocks. While nobody has given
    the logger `codex_otel` a level, it is INFO; loggers that an earlier configuration disabled are
    enabled, so that it does not matter which tests ran before.
    """
    events = CapturedEvents()
    ended = False
    settings = OtelConfig()
    defaults = shared_attributes_of(settings, None).defaults
    reader = EventReader(
        Redaction(log_user_prompt=True, log_agent_responses=True, log_guardian_assessments=True),
        max_attribute_length=settings.max_attribute_length,
    )
    errors = logging.NullHandler()
    call_handlers = logging.Logger.callHandlers
    put = EventQueue.put

    def keep(record: logging.LogRecord) -> None:
        event = reader.read(record)
        if event is not None:
            attributes = encodable_keys(event.attributes_with(defaults))
            events.append(
                CapturedEvent(event.type.name, attributes, event.logger_name, event.levelno)
            )
        elif is_event_logger(record.name):
            events.ignored.append(": ".join(ignored_record(record)))

    def capture(logger: logging.Logger, record: logging.LogRecord) -> None:
        if not ended:
            try:
                keep(record)
            except Exception:
                errors.handleError(record)
        call_handlers(logger, record)

    logging.Logger.callHandlers = capture  # type: ignore[assignment,method-assign]
    EventQueue.put = _discard  # type: ignore[assignment,method-assign]
    try:
        with _listening():
            yield events
    finally:
        ended = True
        EventQueue.put = put  # type: ignore[method-assign]
        # Whoever has wrapped it since, as an error tracker does once in a process, stays.
        if logging.Logger.callHandlers is capture:
            logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


def _discard(queue: EventQueue, event: Event) -> None:
    """Take the place of `EventQueue.put`."""


class _Level(int):
    """A level that can be told from the same one set by the application."""


@contextmanager
def _listening() -> Iterator[None]:
    """Let events through their loggers: enabled, and with a level in a block where none is set."""
    logger = logging.getLogger(LOGGER)
    for existing in list(logger.manager.loggerDict.values()):
        if isinstance(existing, logging.Logger) and is_event_logger(existing.name):
            existing.disabled = False
    level = _Level(logging.INFO)
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() > level:
        logger.setLevel(level)
    try:
        yield
    finally:
        if logger.level is level:
            logger.setLevel(logging.NOTSET)
