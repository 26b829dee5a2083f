"""Decodes and encodes OTLP messages. The only module here that imports protobuf."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from .received import Transport
from .refusals import RefusalError, other_signal

_OTHER_SIGNALS = {"resourceSpans": "traces", "resourceMetrics": "metrics"}

EMPTY_RESPONSE = ExportLogsServiceResponse().SerializeToString()
"""The protobuf answer to a request that was received completely."""


def parse(body: bytes, transport: Transport) -> ExportLogsServiceRequest:
    """Return the request in a body.

    Raises:
        RefusalError: the body contains traces or metrics.
        Exception: the body is malformed.

    """
    if transport == "http/json":
        document = json.loads(body)
        for key, signal in _OTHER_SIGNALS.items():
            if key in document:  # other unknown keys must be ignored
                raise RefusalError(400, *other_signal("the body", signal))
        return request_from_json(document)
    return ExportLogsServiceRequest.FromString(body)


def request_from_json(document: dict[str, Any]) -> ExportLogsServiceRequest:
    """Return an OTLP/JSON request as protobuf.

    https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """
    # OTLP writes trace and span ids in hexadecimal, but protobuf's JSON reader expects base64. So
    # they are removed before it reads the document, and set afterwards.
    request = ParseDict(
        _for_protobuf(document), ExportLogsServiceRequest(), ignore_unknown_fields=True
    )
    documents = (
        record
        for resource in document.get("resourceLogs", ())
        for scope in resource.get("scopeLogs", ())
        for record in scope.get("logRecords", ())
    )
    records = (
        record
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    )
    for source, record in zip(documents, records, strict=True):
        record.trace_id = bytes.fromhex(source.get("traceId") or "")
        record.span_id = bytes.fromhex(source.get("spanId") or "")
    return request


_URL_SAFE = str.maketrans("+/", "-_")


def _for_protobuf(value: Any) -> Any:
    """Return a copy of a JSON document that `ParseDict` accepts: without ids and nulls."""
    if isinstance(value, dict):
        # Bytes may be in either alphabet of base64. `ParseDict` decodes with the URL-safe one, for
        # which Python 3.15 warns if it meets the other.
        return {
            key: item.translate(_URL_SAFE)
            if key == "bytesValue" and isinstance(item, str)
            else _for_protobuf(item)
            for key, item in value.items()
            if key not in ("traceId", "spanId") and item is not None
        }
    if isinstance(value, list):
        return [_for_protobuf(item) for item in value]
    return value
