"""Reports faults of an application's events to its developers, once each.

An event with a faulty field is sent as it is. No report shows a value or a message, as both may
hold what redaction removes: only names from the catalog, and text that resembles one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from .. import attachment, catalog, diagnostics
from ..attachment import EVENT_LOGGER
from ..text import suggestion
from .event import Event
from .reader import is_event_logger, named_event

_MAX_REPORTS = 100
_EVENT_NAME = re.compile(r"\w{1,32}(\.\w{1,32}){1,3}", re.ASCII)

_IN_EXTRA = "log the name alone and pass the values in extra="
_BY_STRUCTLOG = (
    "structlog rendered the event into the message; make "
    "structlog.stdlib.render_to_log_kwargs its last processor"
)
_BY_FORMATTER = (
    "a formatter changed the message; remove it from the QueueHandler in front of this handler"
)
_ELSEWHERE = (
    f"events must be logged under {EVENT_LOGGER!r}; rename the logger to '{EVENT_LOGGER}.<name>'"
)
_NO_EVENTS = f"its records are not events; attach the handler to the logger {EVENT_LOGGER!r} only"


class EventChecks:
    """Remembers what one handler has reported; after 100 reports of a kind it is silent.

    `check` is called on the worker thread only. The other methods may be called on any thread; two
    threads at the same moment may both report.
    """

    def __init__(self) -> None:
        self._loggers: set[str] = set()
        self._fields: set[tuple[str, str]] = set()
        self._ignored: set[str] = set()
        self._without_conversation = False

    def check(self, event: Event) -> None:
        """Report fields that are missing or have another type than the catalog says.

        Also reports, once per logger, that its events reach two handlers with one destination.
        """
        name = event.logger_name
        if name not in self._loggers and len(self._loggers) < _MAX_REPORTS:
            self._loggers.add(name)
            if (fault := attachment.attached_twice(name)) is not None:
                diagnostics.warn("%s", fault)
        for field, fault in catalog.field_faults(event.type, event.fields):
            self.field(event.type.name, field, fault)
        if event.conversation is None and not self._without_conversation:
            if "conversation.id" in event.fields:
                return
            self._without_conversation = True
            diagnostics.warn(
                "event %s has no conversation; "
                "bind one: with codex_otel_logging.Conversation(id, model).bind(): ...",
                event.type.name,
            )

    def field(self, event: str, field: str, fault: str) -> None:
        """Report a fault of an event's field."""
        key = (event, field)
        if key not in self._fields and len(self._fields) < _MAX_REPORTS:
            self._fields.add(key)
            diagnostics.warn("event %s: %s: %s", event, field, fault)

    def ignored(self, record: logging.LogRecord) -> None:
        """Report a record that is not an event: where it was logged, and what to change.

        Records of other loggers are reported once in all, unless they name an event. An event that
        the settings leave out is not reported.
        """
        what = _what(record)
        names_event = named_event(record) is not None
        key = what if names_event or is_event_logger(record.name) else ""
        left_out = names_event and is_event_logger(record.name)
        if left_out or key in self._ignored or len(self._ignored) >= _MAX_REPORTS:
            return
        self._ignored.add(key)
        diagnostics.warn("ignored: %s: %s", what, _why(record))


def ignored_record(record: logging.LogRecord) -> tuple[str, str]:
    """Return where a record was logged that is not an event, and what to change."""
    return _what(record), _why(record)


def _what(record: logging.LogRecord) -> str:
    if not is_event_logger(record.name):
        return f"logger {record.name!r}"
    name = _shown_name(record)
    place = f"{record.filename}:{record.lineno}"
    return f"{place}: {name!r}" if name else f"{place}: message on logger {record.name!r}"


def _why(record: logging.LogRecord) -> str:
    event = named_event(record)
    if not is_event_logger(record.name):
        return _NO_EVENTS if event is None else f"logs {event.name!r}; {_ELSEWHERE}"
    names = [event.name for event in catalog.events()]
    name = _shown_name(record)
    if name:
        return "unknown event" + suggestion(name, names)
    return _about_message(record, names) or "must be the name of an event"


def _shown_name(record: logging.LogRecord) -> str:
    """Return what a record has for an event's name, if it resembles one; otherwise nothing."""
    name = record.__dict__.get("event.name", record.msg)
    if not isinstance(name, str) or _EVENT_NAME.fullmatch(name) is None:
        return ""
    families = {event.name.partition(".")[0] for event in catalog.events()}
    return name if name.partition(".")[0] in families else ""


def _about_message(record: logging.LogRecord, names: Iterable[str]) -> str:
    """Return what to do about a message that holds an event's name and more; may be empty."""
    text = record.msg
    if not isinstance(text, str):
        return ""
    for name in sorted(names, key=len, reverse=True):
        found = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.]*\w)", text)
        if found is None:
            continue
        if found.start() == 0:
            return f"begins with {name!r}; {_IN_EXTRA}"
        if record.args is None and record.__dict__.get("message") == text:
            return f"contains {name!r}; {_BY_FORMATTER}"
        before = text[: found.start()]
        if before.lstrip().startswith("{") or before.endswith(("event=", "event='", 'event="')):
            return f"contains {name!r}; {_BY_STRUCTLOG}"
        return f"contains {name!r}; {_IN_EXTRA}"
    return ""
