"""Reads and writes the messages of OTLP; the one module here that imports protobuf."""

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
"""The answer to a request that was received as a whole, in protobuf."""


def parse(body: bytes, transport: Transport) -> ExportLogsServiceRequest:
    """Return the request that a body holds.

    Raises:
        RefusalError: it holds traces or metrics.
        Exception: it is malformed.

    """
    if transport == "http/json":
        document = json.loads(body)
        for key, signal in _OTHER_SIGNALS.items():
            if key in document:  # other unknown keys are ignored, as OTLP has it
                raise RefusalError(400, *other_signal("the body", signal))
        return request_from_json(document)
    return ExportLogsServiceRequest.FromString(body)


def request_from_json(document: dict[str, Any]) -> ExportLogsServiceRequest:
    """Return an OTLP/JSON request as protobuf, with its ids, which OTLP/JSON has in hexadecimal.

    https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """
    request = ParseDict(_prepared(document), ExportLogsServiceRequest(), ignore_unknown_fields=True)
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


def _prepared(value: Any) -> Any:
    """Return a copy of a JSON document that `ParseDict` reads: without ids and nulls.

    OTLP writes ids in hexadecimal, and ignores nulls. Bytes are in either alphabet of base64, and
    get the URL-safe one here: Python 3.15 warns of the other, which protobuf's reader passes on.
    """
    if isinstance(value, dict):
        return {
            key: item.translate(_URL_SAFE)
            if key == "bytesValue" and isinstance(item, str)
            else _prepared(item)
            for key, item in value.items()
            if key not in ("traceId", "spanId") and item is not None
        }
    if isinstance(value, list):
        return [_prepared(item) for item in value]
    return value
