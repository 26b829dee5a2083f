"""Covers `EventReader`: which records are events, and what their attributes become."""

import logging
import sys
from typing import Any

import pytest

from codex_otel_logging import catalog
from codex_otel_logging.conversation import RECORD_KEY
from codex_otel_logging.events.reader import EventReader, is_event_logger
from codex_otel_logging.events.redaction import Redaction
from support.odd_keys import OddKey
from support.odd_values import Hostile
from support.records import read, record


def test_tuple_with_the_name_of_an_event_is_no_event() -> None:
    """Not even after a structlog event dict of that name."""
    reader = EventReader(Redaction())
    for message, is_event in (({"event": "codex.turn_ttft"}, True), (("codex.turn_ttft",), False)):
        record = logging.makeLogRecord({"name": "codex_otel", "msg": message})
        assert (reader.read(record) is not None) is is_event


def test_event_dict_keeps_its_fields_after_a_message_of_the_same_name() -> None:
    reader = EventReader(Redaction())
    found = []
    for message in ("codex.turn_ttft", {"event": "codex.turn_ttft", "duration_ms": 7}):
        event = reader.read(logging.makeLogRecord({"name": "codex_otel", "msg": message}))
        assert event is not None
        found.append(event.fields)
    assert found == [{}, {"duration_ms": 7}]


def test_only_keys_of_extra_become_fields() -> None:
    fields = {"tool_name": "shell", "duration_ms": 1.5, "attempt": 2, "anything": "else"}
    assert read(extra=fields).fields == fields


def test_reading_does_not_change_the_record() -> None:
    """Other handlers get the same record."""
    original = record("codex.user_prompt", extra={"prompt": "secret", "l": [1], "n": None})
    before = dict(original.__dict__)
    EventReader(Redaction()).read(original)
    assert original.__dict__ == before


def test_attributes_added_by_a_formatter_are_not_fields() -> None:
    made = record(extra={"tool_name": "shell"})
    logging.Formatter("%(asctime)s %(message)s").format(made)
    event = EventReader(Redaction()).read(made)
    assert event is not None
    assert event.fields == {"tool_name": "shell"}


@pytest.mark.parametrize(
    ("msg", "args", "extra"),
    [
        ("codex.turn_ttft", (), {}),
        ("anything", (), {"event.name": "codex.turn_ttft"}),
        ("codex.%s", ("turn_ttft",), {}),
        ("codex.turn_ttft", (1, 2, 3), {}),
        (type("Name", (str,), {})("codex.turn_ttft"), (), {}),
    ],
    ids=["message", "extra", "arguments", "wrong arguments", "subclass"],
)
def test_event_is_named_by_message_extra_or_arguments(
    msg: str, args: tuple[object, ...], extra: dict[str, str]
) -> None:
    event = read(msg, *args, extra=extra)
    assert event.type is catalog.find("codex.turn_ttft")
    assert "event.name" not in event.fields


@pytest.mark.parametrize(
    "options",
    [
        {"msg": "codex.unknown"},
        {"msg": "hello %s", "args": ("world",)},
        {"msg": ["codex.turn_ttft"]},
        {"msg": None},
        {"extra": {"event.name": {"odd": 1}}},
        {"name": "codex"},
        {"name": "codex_otelx"},
        {"name": "codex_otel_logging"},
        {"name": "root"},
    ],
)
def test_unknown_name_or_other_logger_is_not_an_event(options: dict[str, Any]) -> None:
    args = options.pop("args", ())
    msg = options.pop("msg", "codex.turn_ttft")
    assert EventReader(Redaction()).read(record(msg, *args, **options)) is None


@pytest.mark.parametrize("name", ["codex_otel", "codex_otel.x", "codex_otel.x.y"])
def test_codex_otel_and_its_children_are_event_loggers(name: str) -> None:
    assert is_event_logger(name)


@pytest.mark.parametrize("key", [b"prompt", OddKey("prompt")], ids=["bytes", "subclass"])
def test_prompt_under_an_odd_key_is_redacted(key: Any) -> None:
    made = record("codex.tool_decision")
    made.__dict__[key] = "secret"
    event = EventReader(Redaction()).read(made)
    assert event is not None
    assert event.fields == {"prompt": "[REDACTED]", "prompt_length": 6}


@pytest.mark.parametrize("key", [None, 5, 2.5, ("a", 1), b"\xff"], ids=repr)
def test_keys_of_other_types_become_text(key: Any) -> None:
    made = record()
    made.__dict__[key] = 1
    event = EventReader(Redaction()).read(made)
    assert event is not None
    ((name, value),) = event.fields.items()
    assert type(name) is str
    assert name
    assert value == 1


@pytest.mark.parametrize("field", ["success", "prompt", "other"])
def test_hostile_field_value_is_replaced(field: str) -> None:
    fields = read("codex.tool_result", extra={field: Hostile()}).fields
    assert fields[field] == ("[REDACTED]" if field == "prompt" else "<unprintable>")


@pytest.mark.parametrize("attribute", ["exc_info", "event.name", RECORD_KEY, "levelname", "name"])
def test_hostile_record_attribute_does_not_raise(attribute: str) -> None:
    made = record("codex.turn_ttft", extra={"duration_ms": 1})
    made.__dict__[attribute] = Hostile()
    event = EventReader(Redaction()).read(made)
    if attribute in ("event.name", "name"):
        assert event is None
    else:
        assert event is not None
        assert event.fields == {"duration_ms": 1}


def test_field_that_is_none_is_omitted() -> None:
    assert read(extra={"call_id": None, "tool_name": "shell"}).fields == {"tool_name": "shell"}


def test_boolean_becomes_text_in_a_boolean_string_field_only() -> None:
    fields = read("codex.tool_result", extra={"success": False, "other": True}).fields
    assert fields == {"success": "false", "other": True}


def test_prompt_is_redacted_and_its_length_sent() -> None:
    fields = read("codex.user_prompt", extra={"prompt": "Say hello, naïve café ☕"}).fields
    assert fields == {"prompt": "[REDACTED]", "prompt_length": 23}


def test_length_of_an_unredacted_prompt_is_sent_too() -> None:
    reader = EventReader(Redaction(log_user_prompt=True))
    event = reader.read(record("codex.user_prompt", extra={"prompt": "abc"}))
    assert event is not None
    assert event.fields == {"prompt": "abc", "prompt_length": 3}


def test_tool_payloads_are_redacted_if_log_tool_payloads_is_false() -> None:
    reader = EventReader(Redaction(log_tool_payloads=False))
    extra = {"tool_name": "shell", "arguments": '{"a": 1}', "output": "secret"}
    event = reader.read(record("codex.tool_result", extra=extra))
    assert event is not None
    assert event.fields == {
        "tool_name": "shell",
        "arguments": "[REDACTED]",
        "arguments_length": 8,
        "output": "[REDACTED]",
        "output_length": 6,
    }


def test_long_text_is_cut_and_its_length_sent() -> None:
    reader = EventReader(Redaction(), max_attribute_length=5)
    event = reader.read(record(extra={"a": "123456789", "b": "12345", "c": ["123456"]}))
    assert event is not None
    assert event.fields == {
        "a": "12345",
        "a.truncated_length": 9,
        "b": "12345",
        "c": ["12345"],
        "c.truncated_length": 6,
    }


def test_output_is_cut_to_max_output_bytes() -> None:
    reader = EventReader(Redaction(), max_attribute_length=100, max_output_bytes=5)
    event = reader.read(record("codex.tool_result", extra={"output": "äöü", "arguments": "äöü"}))
    assert event is not None
    assert event.fields == {"output": "äö", "output.truncated_length": 3, "arguments": "äöü"}


def test_exception_becomes_attributes() -> None:
    try:
        raise TimeoutError("too slow")
    except TimeoutError:
        fields = read("codex.api_request", extra={"attempt": 1}, exc_info=sys.exc_info()).fields
    stacktrace = fields.pop("exception.stacktrace")
    assert isinstance(stacktrace, str)
    assert stacktrace.startswith("Traceback")
    assert stacktrace.endswith("TimeoutError: too slow\n")
    assert fields == {
        "attempt": 1,
        "error.message": "too slow",
        "exception.type": "TimeoutError",
        "exception.message": "too slow",
    }


def test_logged_error_message_overrides_the_exceptions() -> None:
    error = ValueError("theirs")
    fields = read(
        "codex.api_request",
        extra={"error.message": "ours"},
        exc_info=(ValueError, error, None),
    ).fields
    assert fields["error.message"] == "ours"
    assert fields["exception.message"] == "theirs"


@pytest.mark.parametrize("exc_info", [(None, None, None), True, "odd"])
def test_exc_info_without_an_exception_adds_no_attributes(exc_info: Any) -> None:
    assert read(extra={"a": 1}, exc_info=exc_info).fields == {"a": 1}


def test_event_has_the_context_of_the_current_span_if_any() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("app")
    with tracer.start_as_current_span("turn") as span:
        event = read()
    assert event.span_context == span.get_span_context()
    assert read().span_context is None


def test_text_deltas_are_excluded_if_log_sse_deltas_is_false() -> None:
    reader = EventReader(Redaction(), log_sse_deltas=False)
    delta = {"event.kind": "response.output_text.delta"}
    assert reader.read(record("codex.sse_event", extra=delta)) is None
    assert reader.read(record({"event": "codex.sse_event", **delta})) is None
    assert reader.read(record("codex.turn_ttft", extra=delta)) is not None
    assert reader.read(record("codex.sse_event")) is not None
    completed = {"event.kind": "response.completed"}
    assert reader.read(record("codex.sse_event", extra=completed)) is not None
    assert EventReader(Redaction()).read(record("codex.sse_event", extra=delta)) is not None


def test_prompt_inside_a_map_is_redacted_in_a_copy() -> None:
    meta = {"x": [{"prompt": "s3cr3t", "n": 1}]}
    assert read("codex.turn_ttft", extra={"meta": meta}).fields == {
        "meta": {"x": [{"prompt": "[REDACTED]", "prompt_length": 6, "n": 1}]}
    }
    assert meta == {"x": [{"prompt": "s3cr3t", "n": 1}]}


@pytest.mark.parametrize("max_length", [0, 1, 65_536, sys.maxsize])
def test_array_within_the_limit_is_complete(max_length: int) -> None:
    reader = EventReader(Redaction(), max_attribute_length=max_length)
    event = reader.read(record("codex.turn_ttft", extra={"a": [1], "b": {"c": 2}, "d": range(1)}))
    assert event is not None
    assert event.fields == {"a": [1], "b": {"c": 2}, "d": [0]}
