"""`Event`: one event as it waits to be exported, and what all events of a handler share.

`reader` builds events on the application thread, `delivery` queues them, `otlp` encodes them on the
worker thread. Work that gives the same result later is left to the worker: merging in the
conversation's attributes and formatting the timestamp (`Event.attributes_with`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from .. import catalog
from ..conversation import Conversation
from ..values import ALLOCATION_SIZE, MAX_INT64, AttributeValue, encoded_excess

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from ..config.otel_config import ResourceValue

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class SharedAttributes(NamedTuple):
    """What all events of one handler share: resource attributes and default attributes."""

    resource: Mapping[str, ResourceValue]
    defaults: Mapping[str, AttributeValue]


class Event:
    """One event as it waits to be exported.

    `EventReader.read` builds events, and nothing assigns to one afterwards, although Python would
    not prevent it: threads hand them on without a lock. The application cannot change one, as its
    values are immutable or copies.

    `values` are the fields' values in the order of `keys`, a tuple that many events share. `size`
    estimates the bytes of memory that the event takes in a queue.
    """

    # No constructor: a call of `__init__` would add about 5 % to the cost of a logging call. And no
    # NamedTuple: its attributes are slower to read, which makes encoding 5 % slower (measured on
    # CPython 3.13).
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
        """The event's own attributes, as a new dict."""
        return dict(zip(self.keys, self.values, strict=True))

    @property
    def request_size(self) -> int:
        """Estimated bytes of the event's own attributes in a request."""
        return self.size + sum(map(encoded_excess, self.values))

    @property
    def time_ns(self) -> int:
        """When the event was logged, in nanoseconds since the epoch.

        `created` is a float of seconds, which resolves whole microseconds. If it is not a valid
        time, the time at which the event was read.
        """
        try:
            return min(max(round(self.created * 1e6) * 1000, 0), MAX_INT64)
        except (TypeError, ValueError, OverflowError):
            return self.observed_ns

    def attributes_with(self, defaults: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
        """Return all attributes: the common ones first, then the event's own.

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
"""The bytes of memory of a number; a float is smaller, but its allocation has the same size."""

EVENT_SIZE = 8 + sum(
    sys.getsizeof(part) + ALLOCATION_SIZE for part in (Event(), 1.0, time.time_ns(), 1 << 16)
)
"""The bytes of memory of a queued event without its keys and values.

They are its place in the queue, the object itself, and its own `created`, `observed_ns` and `size`.
"""


def timestamp_text(time_ns: int) -> str:
    """Return a time in nanoseconds since the epoch as RFC 3339, UTC, with milliseconds."""
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=timezone.utc)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
