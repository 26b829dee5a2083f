"""`EventReader` converts a `logging.LogRecord` into a redacted, self-contained `Event`.

It runs on the application thread and is most of the cost of a logging call. `layouts` explains the
fast path and the conditions for it. The record itself is never changed, because other handlers get
the same one.
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

_EVENT_LOGGER_PREFIX = EVENT_LOGGER + "."

_STRUCTLOG_NON_FIELD_KEYS = frozenset({"event", "event.name", "exc_info", "_record"})
"""Keys of a structlog event dict that are not fields of the event."""

_IN_MESSAGE = object()
"""Part of the key of a plan for event dicts."""

_MAX_LOGGERS = 64
"""Maximum number of logger names that are cached; applications may create names without end."""


class EventReader:
    """Converts log records into events, for one handler. Thread-safe without a lock.

    Args:
        redaction: decides which fields are redacted.
        max_attribute_length: maximum characters of a text attribute and elements of an array or
            map; 0 means no limit.
        max_output_bytes: maximum UTF-8 bytes of a tool's `output`; None means no limit.
        log_sse_deltas: whether streamed text deltas are events.
        report: called on the application thread with an event's name, a redacted field's name, the
            fault of its value, which cannot be found later, and the record.

    """

    def __init__(
        self,
        redaction: Redaction,
        *,
        max_attribute_length: int = 0,
        max_output_bytes: int | None = None,
        log_sse_deltas: bool = True,
        report: Callable[[str, str, str, logging.LogRecord], None] = lambda *_: None,
    ) -> None:
        self._redaction = redaction
        self._max_length = max_attribute_length or sys.maxsize
        self._max_output_bytes = max_output_bytes
        self._log_sse_deltas = log_sse_deltas
        self._report = report
        self._plans: dict[str | tuple[object, str], EventPlan] = {}
        self._loggers: set[str] = set()

    def read(self, record: logging.LogRecord) -> Event | None:
        """Return the event that `record` logs, or None if it logs no event.

        That is the case if its logger is not `codex_otel` or below it, if its name is not in the
        catalog, or if the settings exclude it.
        """
        # Long on purpose: each call of a Python function would add 2 to 5 % to the cost of a
        # logging call.
        contents = record.__dict__
        try:
            name = record.msg
            if "event.name" in contents:
                name = contents["event.name"]
            plan = self._plans[name]
        except Exception:  # the first record with this name, or a name that is not a string
            found = self._plan_of(record)
            if found is None:
                return None
            plan = found
        logger_name = record.name
        # The exact type first: a subclass of str could hash and compare as it likes.
        is_known = type(logger_name) is str and logger_name in self._loggers
        if not is_known and not self._is_event_logger(logger_name):
            return None

        # `values_in` is a C function (itemgetter) that gets all fields in one call.
        layout: FieldLayout | None = None
        try:
            cached = plan.layouts[len(contents)]
            if cached.record_keys == [*contents]:
                values: Any = cached.values_in(contents)
                layout = cached
        except Exception:  # no layout for this number of keys, or an odd key (condition 4)
            layout = None
        if layout is None and (layout := plan.layout_for(contents)) is not None:
            values = layout.values_in(contents)
        # The loop checks the types and adds up the sizes. A `break` leads to the slow path.
        is_fast = False
        if layout is not None and record.exc_info is None:
            keys, own_size = layout.field_keys, 0
            for value in values:
                kind = type(value)
                if kind is str:
                    # Faster than len() with isascii(), which do not tell 1, 2 and 4 bytes per
                    # character apart.
                    own_size += value.__sizeof__()
                elif kind is float or (kind is int and MIN_INT64 <= value <= MAX_INT64):
                    own_size += NUMBER_SIZE
                else:
                    break
            else:
                is_fast = own_size <= self._max_length  # then no single text is too long
                size = layout.size + own_size
        if not is_fast:
            fields = self._read_slowly(record, plan)
            if plan.omits_text_deltas and fields.get("event.kind") == catalog.TEXT_DELTA:
                return None
            keys, values = (*fields,), (*fields.values(),)
            # These keys are not shared with other events. The tuple of values has the same size.
            size = EVENT_SIZE + 2 * (sys.getsizeof(keys) + ALLOCATION_SIZE)
            size += sum(map(size_of, values))

        # The logger's conversation overrides the bound one. Not isinstance(), which asks the object
        # for its `__class__` and so may run the application's code.
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
        # Only an application that has imported the API can have a span; this never imports it.
        event.span_context = _span_context() if "opentelemetry.trace" in sys.modules else None
        event.size = size
        try:
            event.pathname, event.lineno = record.pathname, record.lineno
        except AttributeError:  # a filter has removed them
            event.pathname, event.lineno = "", 0
        return event

    def _is_event_logger(self, name: str) -> bool:
        """Return whether the records of a logger are events, and cache the name if they are."""
        known = is_event_logger(name)
        if known and type(name) is str and len(self._loggers) < _MAX_LOGGERS:
            self._loggers.add(name)
        return known

    def _plan_of(self, record: logging.LogRecord) -> EventPlan | None:
        """Return the plan for the event that `record` names, or None if it names no event."""
        event = named_event(record)
        if event is None:
            return None
        in_message = is_event_dict(record.msg)
        plan = EventPlan(
            event,
            self._redaction,
            omits_text_deltas=not self._log_sse_deltas and event.name == "codex.sse_event",
            always_slow=in_message or self._max_output_bytes is not None,
        )
        # An event dict has a key of its own: as a message, the same name may take the fast path.
        # No message can equal that key.
        return self._plans.setdefault((_IN_MESSAGE, event.name) if in_message else event.name, plan)

    def _read_slowly(self, record: logging.LogRecord, plan: EventPlan) -> dict[str, AttributeValue]:
        """Return the fields of any record as attributes: converted, redacted and shortened."""
        fields = _fields_of(record)
        for field in plan.redacted_fields:
            value = fields.get(field.name)
            if value is not None and type(value) is not str:
                taken = attribute_value(field.name, value, max_elements=self._max_length)
                fault = field.problem(taken)
                if fault is not None:  # reported here: the worker sees "[REDACTED]", a valid string
                    self._report(plan.type.name, field.name, fault, record)
        attributes: dict[str, AttributeValue] = {}
        for key, value in redacted(fields, plan.redacted_names, plan.length_fields).items():
            if value is None:
                continue
            attribute = attribute_value(
                key,
                value,
                boolean_string=key in plan.boolean_strings,
                max_elements=self._max_length,
            )
            if plan.redacted_names:  # maps are redacted after they were copied, never in place
                attribute = redacted_inside(attribute, plan.redacted_names)
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
    # Not isinstance(), which asks the object for its `__class__`.
    return issubclass(type(name), str) and (
        name.startswith(_EVENT_LOGGER_PREFIX) or name == EVENT_LOGGER
    )


def is_event_dict(message: object) -> bool:
    """Return whether a message is a structlog event dict.

    `structlog.stdlib.ProcessorFormatter.wrap_for_formatter` logs a dict that has the event's name
    under `event`, and the fields under their own keys.
    """
    return type(message) is dict and "event" in message


def named_event(record: logging.LogRecord) -> catalog.EventType | None:
    """Return the event that `record` names, whatever its logger is, or None.

    The name is `extra={"event.name": ...}`, else the message, else the formatted message.
    """
    message: Any = record.msg
    if is_event_dict(message):
        message = message.get("event.name", message["event"])
    candidates = [record.__dict__.get("event.name", message)]
    if record.args:
        with suppress(Exception):  # arguments that do not match the message
            candidates.append(record.getMessage())
    for candidate in candidates:
        name = attribute_value("event.name", candidate, max_elements=1)
        if isinstance(name, str):
            # QueueHandler.prepare() appends the formatted exception to the message.
            event = catalog.find(name.partition("\n")[0])
            if event is not None:
                return event
    return None


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields as they were logged, and the attributes of the record's exception."""
    fields: dict[str, object] = {
        text: value
        for key, value in record.__dict__.items()
        # The second test finds a subclass of str with a hash of its own.
        if key not in NON_FIELD_KEYS and (text := key_text(key)) not in NON_FIELD_KEYS
    }
    error: object = record.exc_info
    if is_event_dict(record.msg):
        logged: Any = record.msg
        # structlog puts its logger and method name into the record, for its formatter.
        fields = {key: value for key, value in fields.items() if key not in ("_logger", "_name")}
        fields |= {
            key_text(key): value
            for key, value in logged.items()
            if key not in _STRUCTLOG_NON_FIELD_KEYS
        }
        error = logged.get("exc_info") or error
        if error is True:  # structlog resolves it only in its formatter
            error = sys.exc_info()
    return _exception_fields(error) | fields


def _span_context() -> SpanContext | None:
    """Return the context of the current OpenTelemetry span, or None.

    Called only if the application has imported `opentelemetry.trace`. Another thread may still be
    importing it, so anything may be missing.
    """
    try:
        if not sys.modules["opentelemetry.context"].get_current():
            return None  # an empty context has no span; cheaper than asking for it
        trace = sys.modules["opentelemetry.trace"]
        context = cast("SpanContext", trace.get_current_span().get_span_context())
    except Exception:
        return None
    return context if context.is_valid else None


def _exception_fields(exc_info: object) -> dict[str, object]:
    """Return OpenTelemetry's attributes of an exception, and the Codex CLI's `error.message`.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-logs/
    """
    error: Any = exc_info[1] if type(exc_info) is tuple and len(exc_info) == 3 else exc_info
    kind = type(error)
    if not issubclass(kind, BaseException):
        return {}
    message = attribute_value("exception.message", error)
    try:
        stacktrace = "".join(traceback.format_exception(kind, error, error.__traceback__))
    except Exception:  # `__str__` or `__notes__` of the application's exception raised
        stacktrace = None
    return {
        "error.message": message,
        "exception.type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "exception.message": message,
        "exception.stacktrace": stacktrace,
    }
