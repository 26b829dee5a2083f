"""`otlp.encoder` produces the same bytes as the official encoder, for any events."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.trace import SpanContext, TraceFlags

from codex_otel_logging import Conversation, catalog
from codex_otel_logging.conversation import RECORD_KEY
from codex_otel_logging.events.event import Event, SharedAttributes
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction
from codex_otel_logging.otlp.encoder import OtlpRequests, _text_head
from codex_otel_logging.otlp.sdk_records import OtlpRecords

SHARED = SharedAttributes(
    {"service.name": "codex-cli", "odd\ud800": "a\udfffb", "huge": 1 << 64, "list": [1, 2], "": 0},
    {"app.version": "1.2.3", "terminal.type": "xterm\ud800"},
)
BARE = SharedAttributes({}, {})

CREATED = 1_795_459_487.409
TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
KEYS = st.sampled_from(["model", "event.name", "event.timestamp", "app.version", "a", "b"]) | TEXT
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CONVERSATIONS = [
    None,
    Conversation("c-1", "m"),
    Conversation("c-1", "m", app_version="9"),
    Conversation("c-1", "m", account_id="a\ud800", auth_mode="ApiKey", terminal_type="t"),
]


def event(
    fields: dict[str, Any] | None = None,
    *,
    conversation: Conversation | None = None,
    logger: str = "codex_otel.agent",
    name: str = "codex.tool_result",
    **changes: Any,
) -> Event:
    """Return an event from the reader, with `fields` and `changes` set without any conversion."""
    record = logging.LogRecord(logger, logging.INFO, "app.py", 1, name, (), None)
    record.created = CREATED
    record.__dict__[RECORD_KEY] = conversation
    made = EventReader(Redaction()).read(record)
    assert made is not None
    fields = fields or {}
    made.keys, made.values = tuple(fields), tuple(fields.values())
    for attribute, value in changes.items():
        setattr(made, attribute, value)
    return made


def records_of(request: ExportLogsServiceRequest) -> list[LogRecord]:
    return [
        record
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    ]


def add_empty_values(pairs: Iterable[KeyValue]) -> None:
    """Encode None as an empty value; official encoders before 1.45 omit the value."""
    for pair in pairs:
        pair.value.SetInParent()
        add_empty_values_within(pair.value)


def add_empty_values_within(value: AnyValue) -> None:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        for item in value.array_value.values:
            add_empty_values_within(item)
    elif kind == "kvlist_value":
        add_empty_values(value.kvlist_value.values)


def assert_encoded_officially(
    events: Sequence[Event], requests: OtlpRequests, shared: SharedAttributes = SHARED
) -> None:
    """Assert that our request equals the official one.

    Compares text first, which makes a failure readable, then bytes, where NaN equals NaN.
    """
    request = requests.request(events)
    official = encode_logs(OtlpRecords(shared).batch(events))
    for record in records_of(official):
        add_empty_values(record.attributes)
    assert str(ExportLogsServiceRequest.FromString(request)) == str(official)
    assert request == official.SerializeToString()


@given(
    st.lists(
        st.builds(
            event,
            st.dictionaries(KEYS, VALUES, max_size=5),
            conversation=st.sampled_from(CONVERSATIONS),
            logger=st.sampled_from(["codex_otel", "codex_otel.a", "codex_otel.\ud800"]),
            name=st.sampled_from(["codex.tool_result", "codex.turn_ttft"]),
            levelno=st.integers(-5, 60),
            levelname=st.sampled_from(["INFO", "WARNING", "Level 7", "\ud800"]),
            created=st.floats() | st.floats(0, 4e9),
        ),
        max_size=6,
    )
)
def test_any_events_are_encoded_as_by_the_official_encoder(events: list[Event]) -> None:
    requests = OtlpRequests(SHARED)
    assert_encoded_officially(events, requests)
    assert_encoded_officially(events, requests)  # now with templates


FIELDS: dict[str, dict[str, Any]] = {
    "none": {},
    "plain": {"tool_name": "shell", "duration_ms": 7, "ratio": 0.5, "success": True},
    "empty": {"text": "", "zero": 0, "list": [], "map": {}, "bytes": b"", "none": None},
    "surrogate": {"before": 1, "text": "a\ud800b", "after": ["\udfff", {"\ud800": "\ud800"}]},
    "64 bits": {"least": -(1 << 63), "most": (1 << 63) - 1},
    "beyond 64 bits": {"a": 1 << 63, "b": -(1 << 63) - 1, "c": 1 << 100_000, "d": [1 << 64]},
    "floats": {"nan": math.nan, "inf": -math.inf, "zero": -0.0},
    "nested": {"deep": [[[None, {"k": [True, 1, 1.0, "x", b"x"]}]]], "": {"": {"": None}}},
    "overriding": {"a": 1, "model": "other", "conversation.id": None, "app.version": [1], "z": 2},
    "overriding what comes first": {"event.timestamp": "then", "event.name": {"not": "a name"}},
    "odd keys": {"": 1, "\ud800": 2, "é☕": 3},
    "keys that become one": {"\ud800": [1], "x": 0, chr(0xDFFF): [2], "<empty>": "text", "": None},
    "many": {f"key {number}": number for number in range(1000)},
}


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["none", "short", "other", "full"])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_fields_of_any_kind_are_encoded_as_by_the_official_encoder(
    fields: dict[str, Any], conversation: Conversation | None
) -> None:
    requests = OtlpRequests(SHARED)
    events = [event(f, conversation=conversation) for f in (fields, {"a": 1}, fields)]
    assert_encoded_officially(events, requests)


def test_template_keeps_no_value_of_the_event_it_was_made_from() -> None:
    """Events with the same keys share a template, whatever the types of their values."""
    values = ["text", 1, [1, 2], {"a": 1}, None, [3], {}, "", b"x", True, 0.5, "\ud800", []]
    span = SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=TraceFlags(1))
    for first in values:
        events = [event({"key": value, "model": value}) for value in [first, *values]]
        events[0].span_context = span
        assert_encoded_officially(events, OtlpRequests(SHARED))


@pytest.mark.parametrize(
    ("trace_id", "span_id", "flags"), [(1, 2, 1), ((1 << 128) - 1, (1 << 64) - 1, 0), (0, 0, 0)]
)
def test_span_is_encoded_only_for_events_that_have_one(
    trace_id: int, span_id: int, flags: int
) -> None:
    span = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))
    assert_encoded_officially([event(span_context=span), event()], OtlpRequests(SHARED))


def test_scopes_are_in_the_order_of_their_first_event() -> None:
    loggers = [
        "codex_otel.b",
        "codex_otel",
        "codex_otel.b",
        "codex_otel.\ud800",
        "codex_otel.\udc00",
    ]
    events = [event({"n": number}, logger=logger) for number, logger in enumerate(loggers)]
    requests = OtlpRequests(SHARED)
    assert_encoded_officially(events, requests)
    (resource_logs,) = ExportLogsServiceRequest.FromString(requests.request(events)).resource_logs
    assert [len(scope.log_records) for scope in resource_logs.scope_logs] == [2, 1, 2]


@pytest.mark.parametrize("count", [63, 64, 65, 128, 129, 1000])
def test_many_records_of_two_scopes_are_one_request(count: int) -> None:
    """One of the events takes the slow path."""
    loggers = ["codex_otel", "codex_otel.a", "codex_otel"]
    events = [
        event(
            {"n": number, "text": "\ud800" if number == 63 else "x" * (number % 300)}, logger=logger
        )
        for number, logger in zip(range(count), cycle(loggers))
    ]
    assert_encoded_officially(events, OtlpRequests(SHARED))


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u20ac", "\U0001f600"])
def test_texts_of_any_length_are_encoded_as_by_the_official_encoder(letter: str) -> None:
    """The lengths of text, value, attribute and record each take more bytes at another length."""
    lengths = [*range(140), *range(16_300, 16_400), 1 << 21]
    events = [event({"a": letter * length, "z": letter}) for length in lengths]
    assert_encoded_officially(events, OtlpRequests(SHARED))


def test_integers_of_any_length_are_encoded_as_by_the_official_encoder() -> None:
    bounds = [
        sign * (1 << bits) + more for bits in range(65) for more in (-1, 0, 1) for sign in (1, -1)
    ]
    events = [event({"a": number, "z": number}) for number in bounds]
    assert_encoded_officially(events, OtlpRequests(SHARED))


@pytest.mark.parametrize("levelname", ["INFO", "WARNING", "Level 20", "", "\ud800", None, 7])
def test_levels_that_are_equal_in_python_keep_their_own_severities(levelname: Any) -> None:
    """20 and 20.0, or 1 and True, are the same dictionary key, but have different severities."""
    levels = [20, 20.0, 1, True, 1.0, 21, 0, -1, 1000, None, "20", 20]
    events = [event(levelno=level, levelname=levelname) for level in levels]
    assert_encoded_officially(events, OtlpRequests(SHARED))


@pytest.mark.parametrize(
    "times",
    [
        [CREATED, CREATED, CREATED + 0.0004, CREATED + 0.6, CREATED - 86400, CREATED],
        [0.0, 0.999999, 1.0, -1.0, 4e9, 1e300, math.nan, math.inf],
    ],
    ids=["usual", "odd"],
)
def test_timestamps_in_any_order_are_encoded_as_by_the_official_encoder(times: list[float]) -> None:
    assert_encoded_officially([event(created=time) for time in times], OtlpRequests(SHARED))


def test_observed_time_of_a_clock_at_the_epoch_is_encoded_as_by_the_official_encoder() -> None:
    """Protobuf omits a 0."""
    assert_encoded_officially([event(observed_ns=0), event()], OtlpRequests(SHARED))


def test_custom_event_types_are_encoded() -> None:
    events = [event(type=catalog.EventType(name)) for name in ("app.\ud800", "", "app.x")]
    assert_encoded_officially(events, OtlpRequests(SHARED))


def test_empty_batch_and_events_without_shared_attributes_are_encoded() -> None:
    assert_encoded_officially([], OtlpRequests(SHARED))
    assert_encoded_officially([event(), event({"a": 1})], OtlpRequests(BARE), BARE)


def test_equal_conversations_do_not_share_a_template() -> None:
    """The comparison of conversations ignores their attributes."""
    first, second = Conversation("c", "m"), Conversation("c", "m")
    second.attributes["model"] = "other"
    assert first == second
    assert_encoded_officially(
        [event(conversation=c) for c in (first, second, first)], OtlpRequests(SHARED)
    )


def test_number_of_templates_is_bounded() -> None:
    """A conversation may get the id of a deleted one, but never its template."""
    requests = OtlpRequests(SHARED)
    kept = 0
    for number in range(3000):
        events = [event({"n": 1}, conversation=Conversation(str(number), "m"))]
        (record,) = records_of(ExportLogsServiceRequest.FromString(requests.request(events)))
        assert record.attributes[2].value.string_value == str(number)
        kept = max(kept, len(requests._templates))
    assert 1 < kept <= 1024


def test_large_templates_are_not_kept() -> None:
    requests = OtlpRequests(SHARED)
    events = [event(conversation=Conversation("x" * 10_000, "m")), event({"k" * 10_000: "x"})]
    cached = _text_head.cache_info().currsize
    assert_encoded_officially(events * 2, requests)
    assert not requests._templates
    assert _text_head.cache_info().currsize == cached


@pytest.mark.parametrize("value", [object(), {1}, [object()], {"key": {1}}], ids=repr)
def test_event_that_cannot_be_encoded_raises(value: Any) -> None:
    requests = OtlpRequests(SHARED)
    good = event({"key": 1})
    for events in ([event({"key": value})], [good, event({"key": value}), good]):
        with pytest.raises(TypeError):
            requests.request(events)
    assert_encoded_officially([good, good], requests)
