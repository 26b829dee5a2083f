"""`Event`, the form in which an event is queued, and the attributes that all events share.

`reader` builds events on the application thread, `delivery` queues them, and `otlp` encodes them on
the worker thread. To keep logging calls cheap, whatever can wait is left to the worker: merging the
conversation's attributes and formatting the timestamp (`Event.attributes_with`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from logging import LogRecord
from typing import TYPE_CHECKING, NamedTuple

from .. import catalog
from ..conversation import Conversation
from ..values import ALLOCATION_SIZE, MAX_INT64, AttributeValue, encoded_excess

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from ..config.otel_config import ResourceValue

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class SharedAttributes(NamedTuple):
    """The attributes that all events of one handler share: the resource's, and the defaults."""

    resource: Mapping[str, ResourceValue]
    defaults: Mapping[str, AttributeValue]


class Event:
    """One event, redacted and independent of the application's objects.

    Only `EventReader.read` assigns attributes. Afterwards an event must not change, because threads
    pass it on without a lock. The application cannot change it: its values are immutable or copies.

    `values` holds the values of the fields in the order of `keys`, a tuple that many events share.
    `size` is the estimated memory in bytes of the queued event.
    """

    # No constructor: calling `__init__` would add about 5 % to the cost of a logging call. Not a
    # NamedTuple: reading its attributes is slower and makes encoding 5 % slower (measured on
    # CPython 3.13).
    __slots__ = (
        "conversation",
        "created",
        "keys",
        "levelname",
        "levelno",
        "lineno",
        "logger_name",
        "observed_ns",
        "pathname",
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
    pathname: str
    lineno: int

    @property
    def fields(self) -> dict[str, AttributeValue]:
        """The event's own attributes, as a new dict."""
        return dict(zip(self.keys, self.values, strict=True))

    @property
    def request_size(self) -> int:
        """Estimated encoded size of the event's own attributes in bytes; never too low."""
        return self.size + sum(map(encoded_excess, self.values))

    @property
    def time_ns(self) -> int:
        """The time at which the event was logged, in nanoseconds since the epoch.

        If an application replaced `record.created` by an invalid time: the time of the call.
        """
        try:
            # A float of seconds resolves microseconds only; further digits would be noise.
            time_ns = round(self.created * 1e6) * 1000
            return time_ns if 0 <= time_ns <= MAX_INT64 else min(max(time_ns, 0), MAX_INT64)
        except (TypeError, ValueError, OverflowError):
            return self.observed_ns

    def attributes_with(self, defaults: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
        """Return all attributes of the event, the common ones first.

        The event's own fields override its conversation's attributes, which override `defaults`.
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


NUMBER_SIZE = sys.getsizeof(1 << 16)
"""Memory of a number in bytes. A float is smaller, but the allocator gives it the same size."""

EVENT_SIZE = 8 + sum(
    sys.getsizeof(part) + ALLOCATION_SIZE for part in (Event(), 1.0, time.time_ns(), 1 << 16)
)
"""Memory of a queued event in bytes, without its keys and values.

That is its place in the queue (8 bytes), the object itself, and the numbers that only this event
has: `created`, `observed_ns` and `size`. (Python caches small ones, as most line numbers are.)
"""


def place_of(logged: Event | LogRecord) -> str:
    """Return the file and line of a logging call, such as "app.py:34"; "" if unknown."""
    pathname: object = getattr(logged, "pathname", None)
    lineno: object = getattr(logged, "lineno", None)
    if type(pathname) is not str or type(lineno) is not int or not pathname:
        return ""
    return f"{pathname.rpartition(os.sep)[2]}:{lineno}"


def timestamp_text(time_ns: int) -> str:
    """Return a time, given in nanoseconds since the epoch, as RFC 3339 in UTC with milliseconds."""
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:  # after the year 9999
        moment = datetime.max.replace(tzinfo=timezone.utc)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
