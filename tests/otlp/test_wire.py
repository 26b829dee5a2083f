"""The OTLP requests of events, as a real receiver decodes them.

Expected attributes are OTLP values in protobuf's JSON form: the key of a value names its type, and
an `intValue` is a string.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.sdk.version import __version__ as sdk_version

from codex_otel_logging import Conversation, Receiver
from support.fixtures import HandlerFactory

CONVERSATION = Conversation(
    "01a209b9-96b0-7250-b5e0-28ffaf47cc56",
    "gpt-5-codex",
    auth_mode="ApiKey",
    account_id="acct-1",
    terminal_type="iTerm.app/3.5",
)

COMMON = {
    "event.timestamp": {"stringValue": "2026-11-23T18:44:47.409Z"},
    "conversation.id": {"stringValue": "01a209b9-96b0-7250-b5e0-28ffaf47cc56"},
    "app.version": {"stringValue": "1.2.3"},
    "auth_mode": {"stringValue": "ApiKey"},
    "user.account_id": {"stringValue": "acct-1"},
    "terminal.type": {"stringValue": "iTerm.app/3.5"},
    "model": {"stringValue": "gpt-5-codex"},
    "slug": {"stringValue": "gpt-5-codex"},
}

RESOURCE = {
    "telemetry.sdk.language": {"stringValue": "python"},
    "telemetry.sdk.name": {"stringValue": "opentelemetry"},
    "telemetry.sdk.version": {"stringValue": sdk_version},
    "host.name": {"stringValue": "laptop"},
    "service.name": {"stringValue": "codex-cli"},
    "service.version": {"stringValue": "1.2.3"},
    "env": {"stringValue": "staging"},
}

CREATED = 1_795_459_487.409
CREATED_NS = "1795459487409000000"

EVENTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "codex.api_request",
        {
            "cf_ray": "8f1-AMS",
            "attempt": 1,
            "duration_ms": 12.5,
            "http.response.status_code": 503,
            "error.message": "http 503",
        },
        {
            "cf_ray": {"stringValue": "8f1-AMS"},
            "attempt": {"intValue": "1"},
            "duration_ms": {"doubleValue": 12.5},
            "http.response.status_code": {"intValue": "503"},
            "error.message": {"stringValue": "http 503"},
        },
    ),
    (
        "codex.sse_event",
        {
            "event.kind": "response.completed",
            "duration_ms": 3,
            "input_token_count": 101,
            "output_token_count": 11,
            "cached_token_count": 3,
            "reasoning_token_count": 7,
            "tool_token_count": 112,
        },
        {
            "event.kind": {"stringValue": "response.completed"},
            "duration_ms": {"intValue": "3"},
            "input_token_count": {"intValue": "101"},
            "output_token_count": {"intValue": "11"},
            "cached_token_count": {"intValue": "3"},
            "reasoning_token_count": {"intValue": "7"},
            "tool_token_count": {"intValue": "112"},
        },
    ),
    (
        "codex.user_prompt",
        {"prompt": "Say hello, naïve café ☕"},
        {"prompt_length": {"intValue": "23"}, "prompt": {"stringValue": "[REDACTED]"}},
    ),
    (
        "codex.tool_decision",
        {"tool_name": "shell", "call_id": "call_1", "decision": "approved", "source": "config"},
        {
            "tool_name": {"stringValue": "shell"},
            "call_id": {"stringValue": "call_1"},
            "decision": {"stringValue": "approved"},
            "source": {"stringValue": "config"},
        },
    ),
    (
        "codex.tool_result",
        {
            "tool_name": "shell",
            "call_id": "call_1",
            "arguments": '{"command": ["ls"]}',
            "duration_ms": 177,
            "success": True,
            "output": "naïve ☕\n",
        },
        {
            "tool_name": {"stringValue": "shell"},
            "call_id": {"stringValue": "call_1"},
            "arguments": {"stringValue": '{"command": ["ls"]}'},
            "duration_ms": {"intValue": "177"},
            "success": {"stringValue": "true"},
            "output": {"stringValue": "naïve ☕\n"},
        },
    ),
]


def log_at(created: float, event: str, fields: dict[str, Any], level: int = logging.INFO) -> None:
    """Log an event as `logger.log` does, but with a given creation time."""
    logger = logging.getLogger("codex_otel.agent")
    record = logger.makeRecord(logger.name, level, "app.py", 1, event, (), None, None, fields)
    record.created = created
    logger.handle(record)


def only_request(receiver: Receiver) -> dict[str, Any]:
    (request,) = receiver.requests
    return MessageToDict(request.message)


def attributes_of(holder: dict[str, Any]) -> dict[str, Any]:
    """Remove and return the attributes of a record or resource; assert that no key is repeated."""
    pairs = [(pair["key"], pair["value"]) for pair in holder.pop("attributes")]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(("event", "fields", "expected"), EVENTS, ids=[e[0] for e in EVENTS])
def test_request_of_a_source_event_contains_nothing_else(
    attach: HandlerFactory,
    receiver: Receiver,
    exporter: dict[str, Any],
    event: str,
    fields: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    resource_attributes = {"host.name": "laptop"}
    otel = {"environment": "staging", "resource_attributes": resource_attributes}
    handler = attach({**otel, "exporter": exporter}, app_version="1.2.3")
    with CONVERSATION.bind():
        log_at(CREATED, event, fields)
    assert handler.flush()

    request = only_request(receiver)
    (resource_logs,) = request.pop("resourceLogs")
    assert request == {}
    assert attributes_of(resource_logs["resource"]) == RESOURCE
    assert resource_logs.pop("resource") == {}
    (scope_logs,) = resource_logs.pop("scopeLogs")
    assert resource_logs == {}
    assert scope_logs.pop("scope") == {"name": "codex_otel.agent"}
    (record,) = scope_logs.pop("logRecords")
    assert scope_logs == {}
    assert attributes_of(record) == {"event.name": {"stringValue": event}, **COMMON, **expected}
    assert int(record.pop("observedTimeUnixNano")) > 1_700_000_000_000_000_000
    assert record == {
        "timeUnixNano": CREATED_NS,
        "severityNumber": "SEVERITY_NUMBER_INFO",
        "severityText": "INFO",
        "body": {"stringValue": event},
        "eventName": event,
    }


def test_common_fields_are_absent_when_not_available(
    attach: HandlerFactory, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    handler = attach({"exporter": exporter})
    with Conversation("c-1", "m").bind():
        log_at(CREATED, "codex.turn_ttft", {"duration_ms": 1})
    assert handler.flush()
    (event,) = receiver.events
    assert event.attributes == {
        "event.name": "codex.turn_ttft",
        "event.timestamp": "2026-11-23T18:44:47.409Z",
        "conversation.id": "c-1",
        "app.version": "unknown",
        "terminal.type": "xterm",
        "model": "m",
        "slug": "m",
        "duration_ms": 1,
    }


def test_values_of_every_kind_arrive(
    attach: HandlerFactory, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """Including values that OTLP has no type for or protobuf rejects; neighbors arrive as well."""
    handler = attach({"exporter": exporter})
    fields = {
        "text": "a\ud800b",
        "bytes": b"\x00\xff",
        "array": [1, 2.5, "x", None, [True]],
        "map": {"k": {"n": 1 << 64}, 5: "five"},
        "float": float("inf"),
        "set": {1},
        "\udfff": "odd key",
        "": "no key",
    }
    log_at(CREATED, "codex.turn_ttft", {"duration_ms": 0})
    log_at(CREATED, "codex.turn_ttft", {"duration_ms": 1, **fields})
    log_at(CREATED, "codex.turn_ttft", {"duration_ms": 2})
    assert handler.flush()
    before, event, after = receiver.events
    assert (before.attributes["duration_ms"], after.attributes["duration_ms"]) == (0, 2)
    assert event.attributes["duration_ms"] == 1
    expected = {
        "text": "a\ufffdb",
        "bytes": b"\x00\xff",
        "array": [1, 2.5, "x", None, [True]],
        "map": {"k": {"n": str(1 << 64)}, "5": "five"},
        "float": float("inf"),
        "set": [1],
        "\ufffd": "odd key",
        "<empty>": "no key",
    }
    assert {key: event.attributes[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("level", "number", "text"),
    [
        (5, 1, "Level 5"),
        (logging.DEBUG, 5, "DEBUG"),
        (15, 8, "Level 15"),
        (logging.INFO, 9, "INFO"),
        (21, 10, "Level 21"),
        (logging.WARNING, 13, "WARN"),
        (logging.ERROR, 17, "ERROR"),
        (logging.CRITICAL, 21, "CRITICAL"),
        (99, 24, "Level 99"),
    ],
)
def test_level_becomes_a_severity(
    attach_to: HandlerFactory, receiver: Receiver, level: int, number: int, text: str
) -> None:
    handler = attach_to(receiver)
    log_at(CREATED, "codex.turn_ttft", {"duration_ms": 1}, level)
    assert handler.flush()
    (event,) = receiver.events
    assert (event.severity_number, event.severity_text) == (number, text)


def test_record_has_the_ids_of_the_current_span(
    attach: HandlerFactory, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    handler = attach({"exporter": exporter})
    with TracerProvider().get_tracer("app").start_as_current_span("turn") as span:
        log_at(CREATED, "codex.turn_ttft", {"duration_ms": 1})
    log_at(CREATED, "codex.turn_ttft", {"duration_ms": 2})
    assert handler.flush()
    inside, outside = receiver.events
    context = span.get_span_context()
    assert inside.trace_id == f"{context.trace_id:032x}"
    assert inside.span_id == f"{context.span_id:016x}"
    assert (outside.trace_id, outside.span_id) == ("", "")


def test_formatted_message_is_not_exported(
    attach: HandlerFactory, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """A message may contain what redaction removes from fields."""
    handler = attach({"exporter": exporter})
    extra = {"event.name": "codex.user_prompt", "prompt": "the s3cr3t plan"}
    logging.getLogger("codex_otel").info("the user said: %s", "the s3cr3t plan", extra=extra)
    assert handler.flush()
    (request,) = receiver.requests
    assert b"s3cr3t" not in request.message.SerializeToString()
    (event,) = receiver.events
    assert event.body == event.event_name == "codex.user_prompt"
