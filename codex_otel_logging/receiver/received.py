"""The values that a receiver returns: requests, the events in them, and refused requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .. import catalog
from ..events.redaction import REDACTED, redacted_again_inside, sensitive_names
from ..text import brief

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Transport = Literal["http/protobuf", "http/json", "grpc"]

_MAX_NAMES = 20
"""Maximum number of names in a message."""


@dataclass(frozen=True, slots=True, repr=False)
class ReceivedEvent:
    """One log record as received.

    `attributes` and `resource` hold plain Python values. Times are in nanoseconds since 1970. The
    ids are hexadecimal strings, empty if absent.
    """

    event_name: str
    body: Any
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: str
    time_unix_nano: int
    observed_time_unix_nano: int
    severity_number: int
    severity_text: str
    trace_id: str
    span_id: str
    transport: Transport

    @property
    def name(self) -> str:
        """The event's name: the attribute `event.name`, the record's event name, or its body."""
        return str(self.attributes.get("event.name") or self.event_name or self.body or "")

    def __repr__(self) -> str:
        """Return one line: the name, and attributes with long values cut and sensitive ones hidden.

        Attributes that all events have in common are omitted.
        """
        # A failed assertion prints this into a CI log, so prompts and outputs are hidden even if
        # the sender did not redact them.
        name = self.name
        sensitive = sensitive_names(name)
        fields = (
            f" {key}={_hidden(value) if key in sensitive else _brief(value, sensitive)}"
            for key, value in self.attributes.items()
            if key not in catalog.COMMON_FIELD_NAMES
        )
        return f"<{brief(name)}{''.join(fields)}>"


def _brief(value: Any, sensitive: frozenset[str]) -> str:
    return brief(redacted_again_inside(value, sensitive))


def _hidden(value: Any) -> str:
    text = str(value)
    return text if text == REDACTED else f"({len(text)} characters)"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One export request: its transport, headers (names in lower case), and protobuf message."""

    transport: Transport
    headers: Mapping[str, str] = field(repr=False)
    message: ExportLogsServiceRequest = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that was refused.

    `transport` is the protocol of the port it was sent to. `reason` says what is wrong, `advice`
    what to change at the sender; both are single lines of printable text.
    """

    transport: Literal["http", "grpc"]
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


def events_of(request: ReceivedRequest) -> Iterator[ReceivedEvent]:
    """Yield the events of a request, in the order they have there."""
    for resource_logs in request.message.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield ReceivedEvent(
                    event_name=record.event_name,
                    body=_value(record.body),
                    attributes=_attributes(record.attributes),
                    resource=resource,
                    scope=scope_logs.scope.name,
                    time_unix_nano=record.time_unix_nano,
                    observed_time_unix_nano=record.observed_time_unix_nano,
                    severity_number=int(record.severity_number),
                    severity_text=record.severity_text,
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    transport=request.transport,
                )


def names_of(events: Iterable[ReceivedEvent]) -> str:
    """Return the distinct names of events for a message, most frequent first; at most 20."""
    counts = Counter(event.name for event in events)
    names = [
        brief(name) + (f" ({count} times)" if count > 1 else "")
        for name, count in counts.most_common(_MAX_NAMES)
    ]
    if len(counts) > _MAX_NAMES:
        names.append(f"and {len(counts) - _MAX_NAMES} more")
    return ", ".join(names)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    """Return an OTLP value as a plain Python value."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
