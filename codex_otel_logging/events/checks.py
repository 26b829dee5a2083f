"""Warns developers about faulty and ignored events, once for each fault.

An event with a faulty field is exported all the same. No warning contains a value or a message,
because both may hold what redaction removes; it contains names only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterable, Sequence
from operator import contains
from typing import NamedTuple

from .. import attachment, catalog, diagnostics
from ..attachment import EVENT_LOGGER
from ..catalog import COMPLETED, EventType
from ..text import suggestion
from ..values import IMMUTABLE_TYPES
from .event import Event, place_of
from .reader import is_event_logger, named_event

_MAX_REPORTS = 100
"""Maximum number of warnings of a kind; applications may compose names at run time without end."""

_MAX_EXPECTATIONS = 1024
"""Maximum number of cached `_Expectation`s; keys may be composed at run time as well."""

_EVENT_NAME_PATTERN = re.compile(r"\w{1,32}(\.\w{1,32}){1,3}", re.ASCII)

_USE_EXTRA = "log the name alone and pass the values in extra="
_RENDERED_BY_STRUCTLOG = (
    "structlog rendered the event into the message; make "
    "structlog.stdlib.render_to_log_kwargs its last processor"
)
_CHANGED_BY_FORMATTER = (
    "a formatter changed the message; remove it from the QueueHandler in front of this handler"
)
_WRONG_LOGGER = (
    f"events must be logged under {EVENT_LOGGER!r}; rename the logger to '{EVENT_LOGGER}.<name>'"
)
_NOT_EVENTS = f"its records are not events; attach the handler to the logger {EVENT_LOGGER!r} only"

_ATTRIBUTE_TYPES: Container[object] = IMMUTABLE_TYPES | {list, dict}


class _Expectation(NamedTuple):
    """What the values of an event must be, so that none of its fields is faulty.

    All events of a type with the same keys share it. Nearly all of them meet it, and testing that
    takes a fraction of the time of looking for faults.

    `types` holds the valid types of each value, in the order of the keys. `choices` holds the valid
    values of some fields, each with its place in that order. `kind` is the place of `event.kind`,
    if a completed response would lack a field.
    """

    types: tuple[Container[object], ...]
    choices: tuple[tuple[int, Container[object]], ...]
    kind: int | None

    @classmethod
    def of(cls, event: EventType, keys: Sequence[str]) -> _Expectation | None:
        """Return the expectation for an event with these keys; None if a field is missing."""
        missing = {f.presence for f in event.fields if f.name not in keys and not f.computed}
        if "always" in missing:
            return None
        declared = {field.name: field for field in event.fields}
        fields = [declared.get(key) for key in keys]
        lacks_counts = "on completion" in missing and "event.kind" in keys
        return cls(
            tuple(catalog.PYTHON_TYPES[f.type] if f else _ATTRIBUTE_TYPES for f in fields),
            tuple((place, f.choices) for place, f in enumerate(fields) if f and f.choices),
            keys.index("event.kind") if lacks_counts else None,
        )

    def is_met(self, values: Sequence[object]) -> bool:
        """Return whether no value is faulty."""
        for place, choices in self.choices:
            if values[place] not in choices:
                return False
        return all(map(contains, self.types, map(type, values))) and (
            self.kind is None or values[self.kind] != COMPLETED
        )


class EventChecks:
    """Reports the faults of one handler's events, at most 100 of a kind.

    `check` is called on the worker thread only. The other methods may be called on any thread. They
    take no lock, so two threads may report the same fault at the same moment.
    """

    def __init__(self) -> None:
        self._loggers: set[str] = set()
        self._fields: set[tuple[str, str]] = set()
        self._ignored: set[str] = set()
        self._expectations: dict[tuple[str, tuple[str, ...]], _Expectation | None] = {}
        self._without_conversation = False

    def check(self, event: Event) -> None:
        """Report missing fields, fields of a wrong type, and an event without a conversation.

        Also reports, once per logger, that two handlers export its events to the same destination.
        """
        name = event.logger_name
        if name not in self._loggers and len(self._loggers) < _MAX_REPORTS:
            self._loggers.add(name)
            if (fault := attachment.why_exported_twice(name)) is not None:
                diagnostics.warn("%s", fault)
        expectation = self._expectation(event)
        if expectation is None or not expectation.is_met(event.values):
            for field, fault in catalog.field_faults(event.type, event.fields):
                self.field(event.type.name, field, fault, event)
        if event.conversation is None and not self._without_conversation:
            if "conversation.id" in event.fields:
                return
            self._without_conversation = True
            diagnostics.warn(
                "%s has no conversation; "
                "bind one: with codex_otel_logging.Conversation(id, model).bind(): ...",
                _describe_event(event.type.name, event),
            )

    def _expectation(self, event: Event) -> _Expectation | None:
        key = (event.type.name, event.keys)
        try:
            return self._expectations[key]
        except KeyError:
            expectation = _Expectation.of(event.type, event.keys)
            if len(self._expectations) < _MAX_EXPECTATIONS:
                self._expectations[key] = expectation
            return expectation

    def field(self, event: str, field: str, fault: str, logged: Event | logging.LogRecord) -> None:
        """Report the fault of a field of `logged`, once per event and field."""
        key = (event, field)
        if key not in self._fields and len(self._fields) < _MAX_REPORTS:
            self._fields.add(key)
            diagnostics.warn("%s: %s: %s", _describe_event(event, logged), field, fault)

    def ignored(self, record: logging.LogRecord) -> None:
        """Report a record that is not an event: where it was logged, and what to change.

        Events that the settings exclude, such as text deltas, are not reported.
        """
        what = _describe_source(record)
        names_event = named_event(record) is not None
        # A handler on the root logger gets the records of every library. One report covers them
        # all, except for those that name an event.
        key = what if names_event or is_event_logger(record.name) else ""
        is_excluded = names_event and is_event_logger(record.name)
        if is_excluded or key in self._ignored or len(self._ignored) >= _MAX_REPORTS:
            return
        self._ignored.add(key)
        diagnostics.warn("ignored: %s: %s", what, _describe_remedy(record))


def _describe_event(name: str, logged: Event | logging.LogRecord) -> str:
    place = place_of(logged)
    return f"{place}: event {name}" if place else f"event {name}"


def describe_ignored(record: logging.LogRecord) -> str:
    """Return where an ignored record was logged, and what to change."""
    return f"{_describe_source(record)}: {_describe_remedy(record)}"


def _describe_source(record: logging.LogRecord) -> str:
    if not is_event_logger(record.name):
        return f"logger {record.name!r}"
    name = _safe_name(record)
    what = repr(name) if name else f"message on logger {record.name!r}"
    place = place_of(record)
    return f"{place}: {what}" if place else what


def _describe_remedy(record: logging.LogRecord) -> str:
    event = named_event(record)
    if not is_event_logger(record.name):
        return _NOT_EVENTS if event is None else f"logs {event.name!r}; {_WRONG_LOGGER}"
    names = [event.name for event in catalog.events()]
    name = _safe_name(record)
    if name:
        return "unknown event" + suggestion(name, names)
    return _message_remedy(record, names) or "must be the name of an event"


def _safe_name(record: logging.LogRecord) -> str:
    """Return the name that a record logs if it looks like an event's name; otherwise "".

    Anything else may be a prompt or a secret.
    """
    name = record.__dict__.get("event.name", record.msg)
    if not isinstance(name, str) or _EVENT_NAME_PATTERN.fullmatch(name) is None:
        return ""
    families = {event.name.partition(".")[0] for event in catalog.events()}
    return name if name.partition(".")[0] in families else ""


def _message_remedy(record: logging.LogRecord, names: Iterable[str]) -> str:
    """Return how to fix a message that contains an event's name and more, or ""."""
    text = record.msg
    if not isinstance(text, str):
        return ""
    for name in sorted(names, key=len, reverse=True):  # a name may begin with another one
        found = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.]*\w)", text)
        if found is None:
            continue
        if found.start() == 0:
            return f"begins with {name!r}; {_USE_EXTRA}"
        # QueueHandler.prepare() stores the formatted text as both, and removes the arguments.
        if record.args is None and record.__dict__.get("message") == text:
            return f"contains {name!r}; {_CHANGED_BY_FORMATTER}"
        before = text[: found.start()]
        if before.lstrip().startswith("{") or before.endswith(("event=", "event='", 'event="')):
            return f"contains {name!r}; {_RENDERED_BY_STRUCTLOG}"
        return f"contains {name!r}; {_USE_EXTRA}"
    return ""
