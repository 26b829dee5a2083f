"""An `Event` becomes the log record that OpenTelemetry's exporters take.

The mapping follows the logs data model:
https://opentelemetry.io/docs/specs/otel/logs/data-model/
Body and event name are the event's name, never the formatted message: consumers of Codex telemetry
look for it there, and a message could carry a redacted prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version

from .exporters import Origin
from .records import Event
from .values import encodable_keys, encodable_text, key_text

SDK_ATTRIBUTES = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
"""https://opentelemetry.io/docs/specs/semconv/resource/#telemetry-sdk"""

_NO_CONTEXT = Context({"codex_otel_logging": "none"})
"""Stands for no context at all: an empty one would be replaced by the worker's own."""


class OtlpRecords:
    """Maps events to log records, for one handler: one resource, one scope for each logger."""

    def __init__(self, origin: Origin) -> None:
        self._defaults = origin.defaults
        attributes: dict[str, Any] = {**SDK_ATTRIBUTES, **origin.resource}
        self._resource = Resource(encodable_keys(attributes))
        self._scopes: dict[str, InstrumentationScope] = {}

    def batch(self, events: Sequence[Event]) -> list[ReadableLogRecord]:
        """Return the log records of the events, in their order."""
        return [self._record(event) for event in events]

    def _record(self, event: Event) -> ReadableLogRecord:
        name = encodable_text(event.type.name)
        record = LogRecord(
            timestamp=event.time_ns,
            observed_timestamp=event.observed_ns,
            context=_NO_CONTEXT,
            severity_number=severity_number(event.levelno),
            severity_text=severity_text(event.levelname),
            body=name,
            event_name=name,
            attributes=encodable_keys(event.attributes_with(self._defaults)),
        )
        if event.span_context is not None:
            record.trace_id = event.span_context.trace_id
            record.span_id = event.span_context.span_id
            record.trace_flags = event.span_context.trace_flags
        return ReadableLogRecord(record, self._resource, self._scope(event.logger_name))

    def _scope(self, logger_name: str) -> InstrumentationScope:
        scope = self._scopes.get(logger_name)
        if scope is None:
            scope = InstrumentationScope(encodable_text(logger_name))
            self._scopes[logger_name] = scope
        return scope


_SEVERITIES = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5))
"""The standard levels from the top, and the severity number each one begins at."""


def severity_number(levelno: int) -> SeverityNumber:
    """Return the severity of a level; levels between the standard ones get the numbers between.

    https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
    """
    if not isinstance(levelno, int) or levelno <= 0:
        return SeverityNumber.UNSPECIFIED
    for level, number in _SEVERITIES:
        if levelno >= level:
            return SeverityNumber(number + min(levelno - level, 3))
    return SeverityNumber.TRACE


def severity_text(levelname: str) -> str:
    """Return a level's name as OpenTelemetry and Codex spell it."""
    return "WARN" if levelname == "WARNING" else encodable_text(key_text(levelname))
