"""Converts events to the SDK's log records, which the official JSON exporter requires.

The mapping follows the logs data model: https://opentelemetry.io/docs/specs/otel/logs/data-model/

Body and event name are both the event's name, never the formatted message: consumers of Codex
telemetry look for it there, and a message could contain a prompt that redaction removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ..events.event import Event, SharedAttributes
from ..values import encodable_keys, encodable_text
from .resource import SDK_ATTRIBUTES
from .severities import severity_number, severity_text

_NO_CONTEXT = Context({"codex_otel_logging": "none"})
"""A context without a span. `LogRecord` replaces an empty one, which is falsy, with the current."""


class OtlpRecords:
    """Converts the events of one handler: one resource, and one scope for each logger."""

    def __init__(self, shared: SharedAttributes) -> None:
        self._defaults = shared.defaults
        attributes: dict[str, Any] = {**SDK_ATTRIBUTES, **shared.resource}
        self._resource = Resource(encodable_keys(attributes))
        self._scopes: dict[str, InstrumentationScope] = {}

    def batch(self, events: Sequence[Event]) -> list[ReadableLogRecord]:
        """Return the log records of the events, in the same order."""
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
        # The span of the application thread that logged, not of the worker that exports.
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
