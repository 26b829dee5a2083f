"""A `logging.LogRecord` becomes an `Event`: named, redacted, safe, and nobody else's any more.

`EventReader` runs on the application's thread and is most of what a logging call costs. Records
that log the same event mostly hold the same keys, so which of them are fields is found out once
(`_Plan.learn`); then one pass over the values is enough, and a second one is only for events
that hold more than short text and numbers. What does not change meanwhile is left for the worker's
thread (`Event.attributes_with`): the conversation's attributes, the timestamp's text. The record
itself is never changed.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from .. import catalog
from ..attachment import EVENT_LOGGER
from ..conversation import RECORD_KEY, Conversation, bound_conversation, current_bindings
from ..values import (
    ALLOCATION_SIZE,
    AttributeValue,
    attribute_value,
    encoded_excess,
    key_text,
    shorten,
    shorten_to_bytes,
    size_of,
)
from .redaction import Redaction, redacted, redacted_inside

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

LOGGER = EVENT_LOGGER

_BELOW = LOGGER + "."

_STANDARD = logging.makeLogRecord({}).__dict__
_NOT_FIELDS = frozenset({*_STANDARD, "message", "asctime", "event.name", RECORD_KEY})
"""Attributes that are not fields of the event; a formatter adds `message` and `asctime`."""

_NOT_FIELDS_OF_STRUCTLOG = frozenset({"event", "event.name", "exc_info", "_record"})
"""Keys of a structlog event dict that are not fields of the event."""

_DELTA = "response.output_text.delta"
"""The `event.kind` that `log_sse_deltas` decides about."""

_LEAST_INTEGER, _GREATEST_INTEGER = -(1 << 63), (1 << 63) - 1

_MAX_REMEMBERED = 64
"""How many loggers are remembered, and for each event how many sets of keys."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Event:
    """One event, as it waits to be sent; nothing outside can change it.

    `values` are the fields' values in the order of `keys`, a tuple that many events share. `size`
    estimates the bytes it takes in memory.
    """

    __slots__ = (
        "conversation",
        "created",
        "keys",
        "levelname",
        "levelno",
        "logger_name",
        "observed_ns",
        "size",
        "span_context",
        "type",
        "values",
    )

    type: catalog.EventType
    keys: tuple[str, ...]
    values: tuple[AttributeValue, ...]
    conversation: Conversation | None
    logger_name: str
    levelno: int
    levelname: str
    created: float
    observed_ns: int
    span_context: SpanContext | None
    size: int

    @property
    def fields(self) -> dict[str, AttributeValue]:
        """The event's own attributes, a copy."""
        return dict(zip(self.keys, self.values, strict=True))

    @property
    def request_size(self) -> int:
        """Estimate of the bytes that the event's own attributes take in a request."""
        return self.size + sum(map(encoded_excess, self.values))

    @property
    def time_ns(self) -> int:
        """When it was logged, in nanoseconds since the epoch; a float holds whole microseconds."""
        try:
            return min(max(round(self.created * 1e6) * 1000, 0), (1 << 63) - 1)
        except (TypeError, ValueError, OverflowError):
            return self.observed_ns

    def attributes_with(self, defaults: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
        """Return all attributes: the common ones first, then the event's own.

        The event's own fields win over its conversation's, those over `defaults`.
        """
        attributes: dict[str, AttributeValue] = {
            "event.name": self.type.name,
            "event.timestamp": timestamp_text(self.time_ns),
        }
        if self.conversation is not None:
            attributes.update(self.conversation.attributes)
        for key, value in defaults.items():
            attributes.setdefault(key, value)
        attributes.update(zip(self.keys, self.values, strict=True))
        return attributes


_NUMBER_SIZE = sys.getsizeof(1 << 16)
"""The bytes of memory that a number takes; a float is smaller, but allocated as much."""

_EVENT_SIZE = 8 + sum(
    sys.getsizeof(part) + ALLOCATION_SIZE for part in (Event(), 1.0, time.time_ns(), 1 << 16)
)
"""The bytes of memory that a queued event takes beside its values.

That is, its place in the queue, itself, and its own `created`, `observed_ns` and `size`.
"""


class EventReader:
    """Turns log records into events, for one handler. Thread-safe; holds no lock.

    Args:
        redaction: which sensitive fields leave.
        max_attribute_length: characters per text attribute, and elements per array or map; 0 means
            any number.
        max_output_bytes: UTF-8 bytes of a tool's `output`; None means any number.
        log_sse_deltas: whether streamed text deltas are events.
        report: called on the application's thread with the event's name, a redacted field's name,
            and what is wrong with the value that was redacted.

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
        self._plans: dict[str | tuple[str], _Plan] = {}
        self._loggers: set[str] = set()

    def read(self, record: logging.LogRecord) -> Event | None:
        """Return the event that `record` logs.

        None when it logs none: its logger is not below `codex_otel`, its name is not in the
        catalog, or the settings leave it out.
        """
        contents = record.__dict__
        try:
            plan = self._plans[contents.get("event.name", record.msg)]
        except Exception:  # a name that is not known yet, or not text
            found = self._plan_of(record)
            if found is None:
                return None
            plan = found
        logger_name = record.name
        known = type(logger_name) is str and logger_name in self._loggers
        if not known and not self._is_event_logger(logger_name):
            return None

        try:
            shape = plan.shapes[len(contents)]
            is_known = shape.names == [*contents]
        except Exception:  # so many were not seen before, or one cannot be compared
            is_known = False
        if not is_known:
            shape = plan.learn(contents)
        values: Any = shape.values_in(contents)
        keys = shape.keys
        plain = shape.is_plain and record.exc_info is None
        if plain:
            own = 0
            for value in values:
                kind = type(value)
                if kind is str:
                    # len() and isascii() take longer and do not tell 1, 2 and 4 bytes a character.
                    own += value.__sizeof__()
                elif kind is int:
                    if not _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
                        plain = False
                        break
                    own += _NUMBER_SIZE
                elif kind is float:
                    own += _NUMBER_SIZE
                else:
                    plain = False
                    break
            if own > self._max_length:
                plain = False  # one of the texts may be too long
            size = shape.size + own
        if not plain:
            fields = self._mended(record, plan)
            if plan.deltas_are_left_out and fields.get("event.kind") == _DELTA:
                return None
            keys, values = (*fields,), (*fields.values(),)
            # Its keys are its own, and as large as the tuple of its values.
            size = _EVENT_SIZE + 2 * (sys.getsizeof(keys) + ALLOCATION_SIZE)
            size += sum(map(size_of, values))

        event = Event()
        event.type = plan.type
        event.keys = keys
        event.values = values
        conversation = contents.get(RECORD_KEY)
        if conversation is None or not issubclass(type(conversation), Conversation):
            conversation = None
            if bindings := current_bindings():
                binding = bindings[-1]
                conversation = bound_conversation() if binding.is_over else binding.conversation
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
        if known and type(name) is str and len(self._loggers) < _MAX_REMEMBERED:
            self._loggers.add(name)
        return known

    def _plan_of(self, record: logging.LogRecord) -> _Plan | None:
        """Return the plan for the event that `record` names, or None when it names none."""
        event = named_event(record)
        if event is None:
            return None
        left_out = not self._log_sse_deltas and event.name == "codex.sse_event"
        has_limit = self._max_output_bytes is not None
        in_message = is_event_dict(record.msg)
        may_be_plain = not (event.measured or has_limit or left_out or in_message)
        plan = _Plan(event, self._redaction, may_be_plain, deltas_are_left_out=left_out)
        return self._plans.setdefault((event.name,) if in_message else event.name, plan)

    def _mended(self, record: logging.LogRecord, plan: _Plan) -> dict[str, AttributeValue]:
        """Return the fields as attributes, whatever they were."""
        fields = _fields_of(record)
        for field in plan.redacted_fields:
            value = fields.get(field.name)
            if value is not None and type(value) is not str:
                taken = attribute_value(field.name, value, max_elements=self._max_length)
                fault = field.problem(taken)
                if fault is not None:  # the worker's checks see only that it is redacted
                    self._report(plan.type.name, field.name, fault)
        attributes: dict[str, AttributeValue] = {}
        for key, value in redacted(fields, plan.removed, plan.measured).items():
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


class _Shape:
    """Which of a record's attributes are fields of its event, for records with the same `names`.

    The fast path does not apply (`is_plain`) when a field must be redacted or computed, or when a
    name is not a string.
    """

    __slots__ = ("is_plain", "keys", "names", "size", "values_in")

    def __init__(self, names: list[Any], keys: Sequence[str] = (), *, is_plain: bool) -> None:
        self.names = names
        self.is_plain = is_plain
        self.keys = tuple(keys)
        self.size = _EVENT_SIZE + sys.getsizeof(self.keys) + ALLOCATION_SIZE * (1 + len(keys))
        self.values_in = _getter(self.keys)


def _getter(keys: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return a function that gets the values of `keys`, always as a tuple."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda contents: tuple([contents[key] for key in keys])


_NO_SHAPE = _Shape([], is_plain=False)


class _Plan:
    """What an event's type and the settings decide once for all its events.

    `shapes` holds the last plain shape seen of records with that many attributes. A record has a
    shape if the names of its attributes are the same in the same order: comparing two lists of
    interned names costs less than finding out anything about them.
    """

    __slots__ = (
        "_known",
        "_may_be_plain",
        "boolean_strings",
        "deltas_are_left_out",
        "measured",
        "redacted_fields",
        "removed",
        "shapes",
        "type",
    )

    def __init__(
        self,
        event: catalog.EventType,
        redaction: Redaction,
        may_be_plain: bool,
        *,
        deltas_are_left_out: bool,
    ) -> None:
        self.type = event
        self.deltas_are_left_out = deltas_are_left_out
        self.removed = redaction.removed_fields(event)
        self.redacted_fields = tuple(f for f in event.fields if f.name in self.removed)
        self.boolean_strings = event.boolean_strings
        self.measured = event.measured
        self.shapes: dict[int, _Shape] = {}
        self._known: dict[tuple[Any, ...], _Shape] = {}
        self._may_be_plain = may_be_plain

    def learn(self, contents: Mapping[Any, Any]) -> _Shape:
        """Find out the shape of a record with these attributes, and expect it from now on."""
        if not self._may_be_plain:
            return _NO_SHAPE
        names = tuple(contents)
        shape = self._known.get(names)
        if shape is None:
            shape = self._shape_of(list(names))
            if len(self._known) < _MAX_REMEMBERED:
                self._known[names] = shape
        if shape.is_plain:
            self.shapes[len(contents)] = shape
        return shape

    def _shape_of(self, names: list[Any]) -> _Shape:
        """Return which attributes are fields in a record with these ones."""
        if not all(type(name) is str for name in names):
            return _NO_SHAPE
        keys = [sys.intern(name) for name in names if name not in _NOT_FIELDS]
        if not self.removed.isdisjoint(keys):
            return _NO_SHAPE
        return _Shape(names, keys, is_plain=True)


def is_event_logger(name: str) -> bool:
    """Return whether the records of the logger `name` are events."""
    # Not isinstance, which asks the object itself what it is.
    return issubclass(type(name), str) and (name.startswith(_BELOW) or name == LOGGER)


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
        key_text(key): value for key, value in record.__dict__.items() if key not in _NOT_FIELDS
    }
    error: object = record.exc_info
    if is_event_dict(record.msg):
        logged: Any = record.msg
        # structlog passes its own logger on to its formatter.
        fields = {key: value for key, value in fields.items() if key not in ("_logger", "_name")}
        fields |= {
            key_text(key): value
            for key, value in logged.items()
            if key not in _NOT_FIELDS_OF_STRUCTLOG
        }
        error = logged.get("exc_info") or error
        if error is True:
            error = sys.exc_info()
    return _exception_fields(error) | fields


def timestamp_text(time_ns: int) -> str:
    """Return a time in nanoseconds since the epoch as RFC 3339, UTC, with milliseconds."""
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=timezone.utc)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


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
