"""Protocol "json": the same records as with "binary", in the OTLP/JSON encoding.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import math
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.version import __version__ as sdk_version

from codex_otel_logging import Receiver, Stats
from codex_otel_logging.cli.demo import recorded_session
from codex_otel_logging.delivery.outages import DIAGNOSE
from support import samples
from support.collectors import JSON, Answer, HttpCollector
from support.events import log
from support.fixtures import HandlerFactory

pytest.importorskip("opentelemetry.exporter.otlp.json.http")

LOGGER = logging.getLogger("codex_otel")

ODD = {**samples.ODD, **samples.ODD_AS_JSON, "traceId": "00ff", "map of ids": {"spanId": "zz"}}


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_json_and_protobuf_carry_the_same_records(
    attach: HandlerFactory, receiver: Receiver, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "from.outside=é%20☕,host.name=a")
    settings = {"endpoint": receiver.http_endpoint, "compression": compression}
    otel = {"resource_attributes": {"\ud800": "\udfff", "list": [1, 2], "no": False, "pi": 3.14}}
    handlers = [
        attach({**otel, "exporter": {"otlp-http": {**settings, "protocol": protocol}}})
        for protocol in ("binary", "json")
    ]
    session = recorded_session()
    with session.conversation.bind():
        for event in session.events:
            logging.getLogger(event.logger).info(event.event, extra=dict(event.fields))
        with TracerProvider().get_tracer("app").start_as_current_span("turn"):
            LOGGER.error("codex.turn_ttft", extra=ODD)
        for level in (15, 21, 50, 99):
            logging.getLogger("codex_otel.\ud800").log(level, "codex.turn_ttft")
    logged = len(session.events) + 5
    for handler in handlers:
        assert handler.flush(10)
        assert handler.stats() == Stats(accepted=logged, exported=logged)
    binary, as_json = (
        samples.records(receiver, "http/protobuf"),
        samples.records(receiver, "http/json"),
    )
    assert len(as_json) == logged
    assert as_json == binary
    for request in receiver.requests:
        assert request.headers.get("content-encoding", "none") == compression


class RawCollector(HttpCollector):
    """A collector that keeps the bodies of requests."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__((200, JSON, b"{}"))

    def answer(self, headers: dict[str, str], body: bytes) -> Answer | None:
        self.bodies.append(body)
        return super().answer(headers, body)


@pytest.fixture
def raw_collector() -> Iterator[RawCollector]:
    collector = RawCollector()
    yield collector
    collector.stop()


FIELDS = {
    "text": "é\ud800☕",
    "int": (1 << 63) - 1,
    "double": 2.5,
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "bool": False,
    "bytes": b"\x00\xff\xfb\xef",
    "list": [0, None, []],
    "map": {"k": {"": ""}},
}
FIELDS_AS_JSON = {
    "text": {"stringValue": "é\ufffd☕"},
    "int": {"intValue": "9223372036854775807"},
    "double": {"doubleValue": 2.5},
    "NaN": {"doubleValue": "NaN"},
    "infinity": {"doubleValue": "Infinity"},
    "minus infinity": {"doubleValue": "-Infinity"},
    "bool": {"boolValue": False},
    "bytes": {"bytesValue": base64.b64encode(b"\x00\xff\xfb\xef").decode()},
    "list": {"arrayValue": {"values": [{"intValue": "0"}, {}, {"arrayValue": {}}]}},
    "map": {
        "kvlistValue": {
            "values": [
                {
                    "key": "k",
                    "value": {"kvlistValue": {"values": [{"value": {"stringValue": ""}}]}},
                }
            ]
        }
    },
}
RESOURCE_AS_JSON = [
    {"key": "telemetry.sdk.language", "value": {"stringValue": "python"}},
    {"key": "telemetry.sdk.name", "value": {"stringValue": "opentelemetry"}},
    {"key": "telemetry.sdk.version", "value": {"stringValue": sdk_version}},
    {"key": "service.name", "value": {"stringValue": "codex-cli"}},
    {"key": "service.version", "value": {"stringValue": "1.2.3"}},
    {"key": "env", "value": {"stringValue": "dev"}},
]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_json_encoding_follows_the_specification(
    attach: HandlerFactory, raw_collector: RawCollector, compression: str
) -> None:
    """64-bit numbers and times are strings, ids hexadecimal, bytes base64, enums numbers."""
    settings = {"protocol": "json", "compression": compression, "endpoint": raw_collector.endpoint}
    handler = attach({"exporter": {"otlp-http": settings}}, app_version="1.2.3")
    record = LOGGER.makeRecord(
        "codex_otel.agent", logging.WARNING, "app.py", 1, "codex.turn_ttft", (), None, None, FIELDS
    )
    record.created = 1_795_459_487.409
    with TracerProvider().get_tracer("app").start_as_current_span("turn") as span:
        LOGGER.handle(record)
    assert handler.flush(10)

    (headers,), (body,) = raw_collector.requests, raw_collector.bodies
    assert headers["content-type"] == "application/json"
    assert headers.get("content-encoding", "none") == compression
    document = json.loads(gzip.decompress(body) if compression == "gzip" else body)
    (resource_logs,) = document.pop("resourceLogs")
    assert document == {}
    (scope_logs,) = resource_logs.pop("scopeLogs")
    assert resource_logs == {"resource": {"attributes": RESOURCE_AS_JSON}}
    (log_record,) = scope_logs.pop("logRecords")
    assert scope_logs == {"scope": {"name": "codex_otel.agent"}}
    attributes = {pair["key"]: pair["value"] for pair in log_record.pop("attributes")}
    assert {key: attributes[key] for key in FIELDS} == FIELDS_AS_JSON
    assert int(log_record["observedTimeUnixNano"]) > 1_700_000_000_000_000_000
    assert isinstance(log_record.pop("observedTimeUnixNano"), str)
    context = span.get_span_context()
    assert log_record == {
        "timeUnixNano": "1795459487409000000",
        "severityNumber": 13,
        "severityText": "WARN",
        "body": {"stringValue": "codex.turn_ttft"},
        "flags": int(context.trace_flags),
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "eventName": "codex.turn_ttft",
    }


def test_partial_success_in_json_is_counted(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    answer = b'{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "too old"}}'
    collector = HttpCollector((200, JSON, answer))
    try:
        settings = {"endpoint": collector.endpoint, "protocol": "json"}
        handler = attach({"exporter": {"otlp-http": settings}})
        log(3)
        assert handler.flush(10)
    finally:
        collector.stop()
    assert handler.stats() == Stats(accepted=3, exported=2, rejected=1)
    (message,) = caplog.messages
    assert message.endswith(f"collector rejected 1 event (too old); {DIAGNOSE}")
