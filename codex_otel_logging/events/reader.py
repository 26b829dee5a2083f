"""`EventReader` converts a `logging.LogRecord` into a redacted, self-contained `Event`.

It runs on the application thread and is most of what a logging call costs. `layouts` explains how
it avoids most of that, and when it must not. The record itself is never changed.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from .. import catalog
from ..attachment import EVENT_LOGGER
from ..conversation import RECORD_KEY, Conversation, bound_conversation, current_bindings
from ..values import (
    ALLOCATION_SIZE,
    MAX_INT64,
    MIN_INT64,
    AttributeValue,
    attribute_value,
    key_text,
    shorten,
    shorten_to_bytes,
    size_of,
)
from .event import EVENT_SIZE, NUMBER_SIZE, Event
from .layouts import NON_FIELD_KEYS, EventPlan, FieldLayout
from .redaction import Redaction, redacted, redacted_inside

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_BELOW = EVENT_LOGGER + "."

_NON_FIELD_KEYS_OF_STRUCTLOG = frozenset({"event", "event.name", "exc_info", "_record"})
"""Keys of a structlog event dict that are not fields of the event."""

_MAX_LOGGERS = 64
"""The maximum number of logger names that are remembered."""


class EventReader:
    """Converts log records into events, for one handler. Thread-safe; holds no lock.

    Args:
        redaction: which sensitive fields are sent.
        max_attribute_length: characters per text attribute, and elements per array or map; 0 means
            any number.
        max_output_bytes: UTF-8 bytes of a tool's `output`; None means any number.
        log_sse_deltas: whether streamed text deltas are events.
        report: called on the application thread with the event's name, a redacted field's name, and
            what is wrong with the value that was redacted.

    """

    def __init__(
        self,
        redaction: Redaction,
        *,
        max_attribute_length: int = 0,
        max_output_bytes: int | None = None,
        log_sse_deltas: bool = True,
        report: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._redaction = redaction
        self._max_length = max_attribute_length or sys.maxsize
        self._max_output_bytes = max_output_bytes
        self._log_sse_deltas = log_sse_deltas
        self._report = report
        self._plans: dict[str | tuple[str], EventPlan] = {}
        self._loggers: set[str] = set()

    def read(self, record: logging.LogRecord) -> Event | None:
        """Return the event that `record` logs.

        None when it logs none: its logger is not below `codex_otel`, its name is not in the
        catalog, or the settings leave it out.
        """
        # One function, and few calls in it: each call of a Python function here would add 2 to 5 %
        # to the cost of a logging call.
        contents = record.__dict__
        try:
            name = record.msg
            if "event.name" in contents:
                name = contents["event.name"]
            plan = self._plans[name]
        except Exception:  # a name that is not known yet, or not text
            found = self._plan_of(record)
            if found is None:
                return None
            plan = found
        logger_name = record.name
        is_known = type(logger_name) is str and logger_name in self._loggers
        if not is_known and not self._is_event_logger(logger_name):
            return None

        layout: FieldLayout | None = None
        try:
            cached = plan.layouts[len(contents)]
            if cached.record_keys == [*contents]:
                values: Any = cached.values_in(contents)
                layout = cached
        except Exception:  # no record had as many keys, or a key cannot be compared or found
            layout = None
        if layout is None and (layout := plan.layout_for(contents)) is not None:
            values = layout.values_in(contents)
        is_plain = False
        if layout is not None and record.exc_info is None:
            keys, own_size = layout.field_keys, 0
            for value in values:
                kind = type(value)
                if kind is str:
                    # len() and isascii() take longer and do not tell 1, 2 and 4 bytes a character.
                    own_size += value.__sizeof__()
                elif kind is float or (kind is int and MIN_INT64 <= value <= MAX_INT64):
                    own_size += NUMBER_SIZE
                else:
                    break
            else:
                is_plain = own_size <= self._max_length  # no text can be too long
                size = layout.size + own_size
        if not is_plain:
            fields = self._read_slowly(record, plan)
            if plan.omits_text_deltas and fields.get("event.kind") == catalog.TEXT_DELTA:
                return None
            keys, values = (*fields,), (*fields.values(),)
            # Its keys are its own, and as large as the tuple of its values.
            size = EVENT_SIZE + 2 * (sys.getsizeof(keys) + ALLOCATION_SIZE)
            size += sum(map(size_of, values))

        conversation: Conversation | None = None
        if RECORD_KEY in contents and issubclass(type(contents[RECORD_KEY]), Conversation):
            conversation = contents[RECORD_KEY]
        elif bindings := current_bindings():
            binding = bindings[-1]
            conversation = bound_conversation() if binding.is_over else binding.conversation
        event = Event()
        event.type = plan.type
        event.keys = keys
        event.values = values
        event.conversation = conversation
        event.logger_name = logger_name
        event.levelno = record.levelno
        event.levelname = record.levelname
        event.created = record.created
        event.observed_ns = time.time_ns()
        event.span_context = _span_context() if "opentelemetry.trace" in sys.modules else None
        event.size = size
        return event

    def _is_event_logger(self, name: str) -> bool:
        """Return whether the records of a logger are events, and remember it if they are."""
        known = is_event_logger(name)
        if known and type(name) is str and len(self._loggers) < _MAX_LOGGERS:
            self._loggers.add(name)
        return known

    def _plan_of(self, record: logging.LogRecord) -> EventPlan | None:
        """Return the plan for the event that `record` names, or None when it names none."""
        event = named_event(record)
        if event is None:
            return None
        in_message = is_event_dict(record.msg)
        plan = EventPlan(
            event,
            self._redaction,
            omits_text_deltas=not self._log_sse_deltas and event.name == "codex.sse_event",
            all_slow=in_message or self._max_output_bytes is not None,
        )
        return self._plans.setdefault((event.name,) if in_message else event.name, plan)

    def _read_slowly(self, record: logging.LogRecord, plan: EventPlan) -> dict[str, AttributeValue]:
        """Return the fields of any record as attributes."""
        fields = _fields_of(record)
        for field in plan.redacted_fields:
            value = fields.get(field.name)
            if value is not None and type(value) is not str:
                taken = attribute_value(field.name, value, max_elements=self._max_length)
                fault = field.problem(taken)
                if fault is not None:  # the worker's checks see only that it is redacted
                    self._report(plan.type.name, field.name, fault)
        attributes: dict[str, AttributeValue] = {}
        for key, value in redacted(fields, plan.removed, plan.length_fields).items():
            if value is None:
                continue
            attribute = attribute_value(
                key,
                value,
                boolean_string=key in plan.boolean_strings,
                max_elements=self._max_length,
            )
            if plan.removed:
                attribute = redacted_inside(attribute, plan.removed)
            original_length = 0
            if key == "output" and self._max_output_bytes is not None:
                attribute, original_length = shorten_to_bytes(attribute, self._max_output_bytes)
            attribute, longest = shorten(attribute, self._max_length)
            attributes[key] = attribute
            if original_length or longest:
                attributes[f"{key}.truncated_length"] = original_length or longest
        return attributes


def is_event_logger(name: str) -> bool:
    """Return whether the records of the logger `name` are events."""
    # Not isinstance, which asks the object itself what it is.
    return issubclass(type(name), str) and (name.startswith(_BELOW) or name == EVENT_LOGGER)


def is_event_dict(message: object) -> bool:
    """Return whether a message is a structlog event dict.

    `structlog.stdlib.ProcessorFormatter.wrap_for_formatter` logs one, with the event's name under
    `event` and the fields beside it.
    """
    return type(message) is dict and "event" in message


def named_event(record: logging.LogRecord) -> catalog.EventType | None:
    """Return the event that `record` names, on whatever logger; None when it names none."""
    message: Any = record.msg
    if is_event_dict(message):
        message = message.get("event.name", message["event"])
    candidates = [record.__dict__.get("event.name", message)]
    if record.args:
        with suppress(Exception):  # wrong arguments for the message: then it is no name
            candidates.append(record.getMessage())
    for candidate in candidates:
        name = attribute_value("event.name", candidate, max_elements=1)
        if isinstance(name, str):
            # A QueueHandler puts the formatted exception behind the message.
            event = catalog.find(name.partition("\n")[0])
            if event is not None:
                return event
    return None


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the event's fields with the attributes of its exception, as they were logged."""
    fields: dict[str, object] = {
        text: value
        for key, value in record.__dict__.items()
        # The second test is for a str subclass with a hash of its own.
        if key not in NON_FIELD_KEYS and (text := key_text(key)) not in NON_FIELD_KEYS
    }
    error: object = record.exc_info
    if is_event_dict(record.msg):
        logged: Any = record.msg
        # structlog passes its own logger on to its formatter.
        fields = {key: value for key, value in fields.items() if key not in ("_logger", "_name")}
        fields |= {
            key_text(key): value
            for key, value in logged.items()
            if key not in _NON_FIELD_KEYS_OF_STRUCTLOG
        }
        error = logged.get("exc_info") or error
        if error is True:
            error = sys.exc_info()
    return _exception_fields(error) | fields


def _span_context() -> SpanContext | None:
    """Return the context of the current OpenTelemetry span, if the application has one.

    Called only when somebody else has imported `opentelemetry.trace`; it may still be importing.
    """
    try:
        if not sys.modules["opentelemetry.context"].get_current():
            return None  # nothing is set in this context, so no span either
        trace = sys.modules["opentelemetry.trace"]
        context = cast("SpanContext", trace.get_current_span().get_span_context())
    except Exception:
        return None
    return context if context.is_valid else None


def _exception_fields(exc_info: object) -> dict[str, object]:
    """Return the attributes OpenTelemetry has for an exception, and Codex's `error.message`.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-logs/
    """
    error: Any = exc_info[1] if type(exc_info) is tuple and len(exc_info) == 3 else exc_info
    kind = type(error)
    if not issubclass(kind, BaseException):
        return {}
    message = attribute_value("exception.message", error)
    try:
        stacktrace = "".join(traceback.format_exception(kind, error, error.__traceback__))
    except Exception:
        stacktrace = None
    return {
        "error.message": message,
        "exception.type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "exception.message": message,
        "exception.stacktrace": stacktrace,
    }
