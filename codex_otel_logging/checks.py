"""Tells the developers of an application, once each, what is wrong with its events.

Nothing is held back for it: an event with a faulty field is sent as it is. Neither a value nor a
message that is no event name is ever shown, as it could be what redaction is there for.
"""

from __future__ import annotations

import logging
import re

from . import catalog, reports
from .records import LOGGER, Event, is_event_logger
from .tables import nearest

_MAX_REPORTS = 100
_EVENT_NAME = re.compile(r"\w{1,32}(\.\w{1,32}){1,3}", re.ASCII)


class Checks:
    """Remembers what one handler has reported; after 100 reports of a kind it is silent.

    `inspect` is called by the worker alone. `ignored` may be called by any thread; two threads at
    the same moment may both report.
    """

    def __init__(self) -> None:
        self._fields: set[tuple[str, str]] = set()
        self._ignored: set[str] = set()
        self._without_conversation = False

    def inspect(self, event: Event) -> None:
        """Report fields that are missing or of another type than the catalog says."""
        for field, fault in catalog.field_faults(event.type, event.fields):
            key = (event.type.name, field)
            if key not in self._fields and len(self._fields) < _MAX_REPORTS:
                self._fields.add(key)
                reports.warn("event %s: %s: %s", event.type.name, field, fault)
        if event.conversation is None and not self._without_conversation:
            if "conversation.id" in event.fields:
                return
            self._without_conversation = True
            reports.warn(
                "event %s was logged with no conversation; "
                "bind one: with codex_otel_logging.Conversation(id, model).bind(): ...",
                event.type.name,
            )

    def ignored(self, record: logging.LogRecord) -> None:
        """Report a record that is no event: what was ignored, and where it was logged."""
        what, why = ignored_record(record)
        if what not in self._ignored and len(self._ignored) < _MAX_REPORTS:
            self._ignored.add(what)
            reports.warn("ignored: %s: %s", what, why)


def ignored_record(record: logging.LogRecord) -> tuple[str, str]:
    """Return what was ignored, with the place where it was logged, and why."""
    if not is_event_logger(record.name):
        return (
            f"logger {record.name!r}",
            f"its records are no events; attach the handler to the logger {LOGGER!r} only",
        )
    name = record.__dict__.get("event.name", record.msg)
    names = [event.name for event in catalog.events()]
    families = {known.partition(".")[0] for known in names}
    shown = (
        isinstance(name, str)
        and _EVENT_NAME.fullmatch(name) is not None
        and name.partition(".")[0] in families
    )
    what = f"{record.filename}:{record.lineno}: "
    what += repr(name) if shown else f"a message on logger {record.name!r}"
    hint = nearest(name, names) if shown else ""
    return what, "not an event of the catalog" + (hint if "did you mean" in hint else "")
