"""Captures the events that an application logs, for its tests, and keeps them from being exported.

`capture_events` wraps `logging.Logger.callHandlers`, which is called with every record that passes
its logger's level and filters. A handler would not see all of them: `dictConfig` and `fileConfig`
remove handlers, and a logger may not propagate. A record factory would be too early: it runs before
`extra=` is added.

Records still reach the handlers. A `CodexOtelHandler` filters and reports as usual, but passes its
events to a function that discards them, so no worker starts. OpenTelemetry is never imported.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import catalog
from .attachment import EVENT_LOGGER
from .config.otel_config import OtelConfig
from .events.checks import describe_ignored
from .events.event import Event
from .events.reader import EventReader, is_event_logger
from .events.redaction import Redaction, redacted_again_inside, sensitive_names
from .handler import divert_events, shared_attributes_of
from .values import encodable_keys

_MAX_REPR_LENGTH = 160

_abbreviate = reprlib.Repr()
_abbreviate.maxstring = _abbreviate.maxother = 32


@dataclass(frozen=True, slots=True, repr=False)
class CapturedEvent:
    """One event: its name, all its attributes, and its logger's name and level."""

    name: str
    attributes: Mapping[str, Any]
    logger: str
    level: int

    def __repr__(self) -> str:
        """Return the name and the event's own attributes, shortened and redacted."""
        sensitive = sensitive_names(self.name)
        own = (
            f" {key}={'...' if key in sensitive else _abbreviated(value, sensitive)}"
            for key, value in self.attributes.items()
            if key not in catalog.COMMON_FIELD_NAMES
        )
        text = self.name + "".join(own)
        return f"<{text if len(text) <= _MAX_REPR_LENGTH else text[:_MAX_REPR_LENGTH] + '...'}>"


def _abbreviated(value: Any, sensitive: frozenset[str]) -> str:
    return _abbreviate.repr(redacted_again_inside(value, sensitive))


class CapturedEvents(list[CapturedEvent]):
    """The captured events in the order in which they were logged; grows with each event.

    `ignored` has a line for each record on an event logger that is not an event: where it was
    logged and what is wrong, such as a misspelt name. A handler would ignore these records, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ignored: list[str] = []

    def __repr__(self) -> str:
        ignored = f" ignored: {self.ignored}" if self.ignored else ""
        return super().__repr__() + ignored

    @property
    def names(self) -> list[str]:
        """The names of the events, in order."""
        return [event.name for event in self]

    def named(self, name: str) -> list[CapturedEvent]:
        """Return the events of that name, in order."""
        return [event for event in self if event.name == name]

    @property
    def problems(self) -> list[str]:
        """The faults that `catalog.problems` finds in the events, followed by `ignored`."""
        found = [line for event in self for line in catalog.problems(event.name, event.attributes)]
        return found + self.ignored


@contextmanager
def capture_events() -> Iterator[CapturedEvents]:
    """Capture the events that are logged inside the `with` block, in any thread or task.

    Events have the attributes that a handler with default settings would send, but nothing is
    redacted. `app.version` is the conversation's or `"unknown"`, because the handler's is not known
    here. Loggers that an earlier configuration disabled are enabled, and `codex_otel` gets the
    level INFO inside the block if it has none, so the result does not depend on other tests. Never
    blocks.
    """
    recorder = _Recorder()
    ended = False
    errors = logging.NullHandler()
    call_handlers = logging.Logger.callHandlers

    def capture(logger: logging.Logger, record: logging.LogRecord) -> None:
        if not ended:  # a wrapper around `capture` calls it after the block, too
            try:
                recorder.add(record)
            except Exception:
                errors.handleError(record)  # prints it, unless logging.raiseExceptions is false
        call_handlers(logger, record)

    logging.Logger.callHandlers = capture  # type: ignore[assignment,method-assign]
    try:
        with divert_events(_discard), _enabled_loggers():
            yield recorder.events
    finally:
        ended = True
        # Another library may have wrapped `capture` meanwhile, as error trackers do once in a
        # process. Restoring the old function would remove that wrapper for good.
        if logging.Logger.callHandlers is capture:
            logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


class _Recorder:
    """Reads records as a handler with default settings does, without redaction."""

    def __init__(self) -> None:
        settings = OtelConfig()
        self.events = CapturedEvents()
        self._defaults = shared_attributes_of(settings, None).defaults
        self._reader = EventReader(
            Redaction(
                log_user_prompt=True, log_agent_responses=True, log_guardian_assessments=True
            ),
            max_attribute_length=settings.max_attribute_length,
        )

    def add(self, record: logging.LogRecord) -> None:
        """Add the record's event to the list, or the reason why it is ignored."""
        event = self._reader.read(record)
        if event is not None:
            attributes = encodable_keys(event.attributes_with(self._defaults))
            self.events.append(
                CapturedEvent(event.type.name, attributes, event.logger_name, event.levelno)
            )
        elif is_event_logger(record.name):
            self.events.ignored.append(describe_ignored(record))


def _discard(event: Event) -> None:
    """Discard a handler's redacted copy of an event; `capture` has read the record before."""


class _TemporaryLevel(int):
    """A level that is distinguishable from the same level set by the application."""


@contextmanager
def _enabled_loggers() -> Iterator[None]:
    """Enable all event loggers, and let INFO through inside the block if no level is set."""
    logger = logging.getLogger(EVENT_LOGGER)
    for existing in list(logger.manager.loggerDict.values()):
        if isinstance(existing, logging.Logger) and is_event_logger(existing.name):
            existing.disabled = False
    # The test may set a level inside the block, even INFO; only this one is removed afterwards.
    level = _TemporaryLevel(logging.INFO)
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() > level:
        logger.setLevel(level)
    try:
        yield
    finally:
        if logger.level is level:
            logger.setLevel(logging.NOTSET)
