import copy
import json
import logging
import logging.handlers
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_otel_logging import Conversation, catalog
from codex_otel_logging.conversation import RECORD_KEY
from codex_otel_logging.events.event import Event, timestamp_text
from codex_otel_logging.events.reader import EventReader, is_event_logger
from codex_otel_logging.events.redaction import Redaction
from support import event_sizes
from support.odd_values import Hostile
from support.paths import ROOT
from support.records import record


class OddKey(str):
    """Text that a dictionary does not find by its text."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


def read(*args: Any, **options: Any) -> Event:
    event = EventReader(Redaction(), max_attribute_length=65_536).read(record(*args, **options))
    assert event is not None
    return event


def test_every_extra_becomes_a_field_and_nothing_else_does() -> None:
    fields = {"tool_name": "shell", "duration_ms": 1.5, "attempt": 2, "anything": "else"}
    assert read(extra=fields).fields == fields


def test_the_record_is_not_changed() -> None:
    """Other handlers see the record whole."""
    original = record("codex.user_prompt", extra={"prompt": "secret", "l": [1], "n": None})
    before = dict(original.__dict__)
    EventReader(Redaction()).read(original)
    assert original.__dict__ == before


def test_what_a_formatter_before_us_added_is_no_field() -> None:
    made = record(extra={"tool_name": "shell"})
    logging.Formatter("%(asctime)s %(message)s").format(made)
    event = EventReader(Redaction()).read(made)
    assert event is not None
    assert event.fields == {"tool_name": "shell"}


def test_a_record_put_together_in_another_order_is_read_whole() -> None:
    """A record factory may set attributes of its own before the standard ones."""
    made = record(extra={"tool_name": "shell"})
    reordered = logging.makeLogRecord({})
    reordered.__dict__.clear()
    reordered.__dict__.update({"request_id": "r-1", **made.__dict__})
    event = EventReader(Redaction()).read(reordered)
    assert event is not None
    assert event.fields == {"request_id": "r-1", "tool_name": "shell"}


def test_records_with_as_many_attributes_but_others_are_read_whole() -> None:
    """Whichever comes after the other, and whatever of theirs is no field."""
    reader = EventReader(Redaction())
    alike: list[dict[str, Any]] = [
        {"tool_name": "a", "call_id": "b"},
        {"tool_name": "a", "other": "b"},
        {"tool_name": "a", "message": "b"},
        {"tool_name": "a", "asctime": "b"},
        {"tool_name": "a", RECORD_KEY: Conversation("c", "m")},
        {"tool_name": "a", "event.name": "codex.tool_decision"},
    ]
    for before in alike:
        for extra in alike:
            for contents in (before, extra):
                logged = record()
                logged.__dict__.update(contents)
                event = reader.read(logged)
            assert event is not None
            names = {"tool_name", "call_id", "other"}
            assert event.fields == {key: v for key, v in extra.items() if key in names}
            assert (event.conversation is None) == (RECORD_KEY not in extra)


def test_a_record_that_lost_an_attribute_is_read_whole() -> None:
    made = record(extra={"tool_name": "shell", "call_id": "1"})
    del made.stack_info
    event = EventReader(Redaction()).read(made)
    assert event is not None
    assert event.fields == {"tool_name": "shell", "call_id": "1"}


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
def test_what_names_an_event(msg: str, args: tuple[object, ...], extra: dict[str, str]) -> None:
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
def test_what_is_no_event(options: dict[str, Any]) -> None:
    args = options.pop("args", ())
    msg = options.pop("msg", "codex.turn_ttft")
    assert EventReader(Redaction()).read(record(msg, *args, **options)) is None


@pytest.mark.parametrize("name", ["codex_otel", "codex_otel.x", "codex_otel.x.y"])
def test_the_hierarchy(name: str) -> None:
    assert is_event_logger(name)


@pytest.mark.parametrize("key", [b"prompt", OddKey("prompt")], ids=["bytes", "subclass"])
def test_no_odd_key_gets_a_prompt_past_redaction(key: Any) -> None:
    made = record("codex.tool_decision")
    made.__dict__[key] = "secret"
    event = EventReader(Redaction()).read(made)
    assert event is not None
    assert event.fields == {"prompt": "[REDACTED]", "prompt_length": 6}


@pytest.mark.parametrize("key", [None, 5, 2.5, ("a", 1), b"\xff"], ids=repr)
def test_odd_keys_become_text(key: Any) -> None:
    made = record()
    made.__dict__[key] = 1
    event = EventReader(Redaction()).read(made)
    assert event is not None
    ((name, value),) = event.fields.items()
    assert type(name) is str
    assert name
    assert value == 1


@pytest.mark.parametrize("field", ["success", "prompt", "other"])
def test_objects_that_raise_whatever_is_asked_of_them(field: str) -> None:
    fields = read("codex.tool_result", extra={field: Hostile()}).fields
    assert fields[field] == ("[REDACTED]" if field == "prompt" else "<unprintable>")


@pytest.mark.parametrize("attribute", ["exc_info", "event.name", RECORD_KEY, "levelname", "name"])
def test_hostile_objects_where_logging_keeps_its_own(attribute: str) -> None:
    made = record("codex.turn_ttft", extra={"duration_ms": 1})
    made.__dict__[attribute] = Hostile()
    event = EventReader(Redaction()).read(made)
    if attribute in ("event.name", "name"):
        assert event is None
    else:
        assert event is not None
        assert event.fields == {"duration_ms": 1}


def test_a_field_that_is_none_is_left_out() -> None:
    assert read(extra={"call_id": None, "tool_name": "shell"}).fields == {"tool_name": "shell"}


def test_booleans_of_a_boolean_string_field_become_text() -> None:
    fields = read("codex.tool_result", extra={"success": False, "other": True}).fields
    assert fields == {"success": "false", "other": True}


def test_a_prompt_is_redacted_and_measured() -> None:
    fields = read("codex.user_prompt", extra={"prompt": "Say hello, naïve café ☕"}).fields
    assert fields == {"prompt": "[REDACTED]", "prompt_length": 23}


def test_a_prompt_that_may_leave_is_measured_too() -> None:
    reader = EventReader(Redaction(log_user_prompt=True))
    event = reader.read(record("codex.user_prompt", extra={"prompt": "abc"}))
    assert event is not None
    assert event.fields == {"prompt": "abc", "prompt_length": 3}


def test_tool_payloads_are_redacted_when_they_must_not_leave() -> None:
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


def test_long_text_is_cut_and_says_so() -> None:
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


def test_output_is_cut_to_bytes() -> None:
    reader = EventReader(Redaction(), max_attribute_length=100, max_output_bytes=5)
    event = reader.read(record("codex.tool_result", extra={"output": "äöü", "arguments": "äöü"}))
    assert event is not None
    assert event.fields == {"output": "äö", "output.truncated_length": 3, "arguments": "äöü"}


def test_an_exception_becomes_attributes() -> None:
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


def test_an_own_error_message_wins_over_the_exceptions() -> None:
    error = ValueError("theirs")
    fields = read(
        "codex.api_request",
        extra={"error.message": "ours"},
        exc_info=(ValueError, error, None),
    ).fields
    assert fields["error.message"] == "ours"
    assert fields["exception.message"] == "theirs"


@pytest.mark.parametrize("exc_info", [(None, None, None), True, "odd"])
def test_no_exception_adds_nothing(exc_info: Any) -> None:
    assert read(extra={"a": 1}, exc_info=exc_info).fields == {"a": 1}


def test_attributes_merge_fields_over_conversation_over_defaults() -> None:
    conversation = Conversation("id-1", "m", app_version="conversation's")
    with conversation.bind():
        event = read(extra={"model": "event's", "tool_name": "shell"})
    event.created = 1_700_000_000.1239
    assert event.attributes_with({"app.version": "default's", "terminal.type": "xterm"}) == {
        "event.name": "codex.tool_decision",
        "event.timestamp": "2023-11-14T22:13:20.123Z",
        "conversation.id": "id-1",
        "model": "event's",
        "slug": "m",
        "app.version": "conversation's",
        "terminal.type": "xterm",
        "tool_name": "shell",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_795_459_487.409, "2026-11-23T18:44:47.409Z"),
        (4e9, "2096-10-02T07:06:40.000Z"),
    ],
)
def test_timestamps_have_milliseconds_and_end_in_z(seconds: float, text: str) -> None:
    assert timestamp_text(round(seconds * 1e6) * 1000) == text


@pytest.mark.parametrize("created", [float("nan"), float("inf"), "odd", None, -5.0, 1e300])
def test_an_odd_time_stops_nothing(created: Any) -> None:
    event = read()
    event.created = created
    assert 0 <= event.time_ns < 1 << 63
    assert event.attributes_with({})["event.timestamp"]


def measure(*kinds: str) -> dict[str, tuple[int, int]]:
    """Return the estimated and the real bytes of events, by kind; see `event_sizes`."""
    done = subprocess.run(
        [sys.executable, event_sizes.__file__, *kinds],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {kind: (sizes[0], sizes[1]) for kind, sizes in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def allocations() -> dict[str, tuple[int, int]]:
    return measure()


@pytest.mark.parametrize("kind", event_sizes.KINDS)
def test_size_is_within_a_tenth_of_the_memory_allocated(
    allocations: dict[str, tuple[int, int]], kind: str
) -> None:
    """Otherwise the queue's limit in bytes would mean nothing."""
    estimated, allocated = allocations[kind]
    assert 0.9 * allocated <= estimated <= 1.1 * allocated


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["short text", "tool result", "long text, 2 bytes", "50 integers"])
def test_size_is_within_a_tenth_of_what_the_process_grows_by(kind: str) -> None:
    """Includes what the allocators keep for themselves."""
    estimated, grown = measure(kind)[kind]
    assert 0.9 * grown <= estimated <= 1.1 * grown


def test_size_counts_shared_text_as_if_it_were_not_shared() -> None:
    """To find out what is shared would cost the application thread too much."""
    own = read(extra={"tool_name": "".join(["sh", "ell"])})
    assert read(extra={"tool_name": sys.intern("shell")}).size == own.size


def test_the_current_span_is_noted_and_its_absence_too() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("app")
    with tracer.start_as_current_span("turn") as span:
        event = read()
    assert event.span_context == span.get_span_context()
    assert read().span_context is None


def test_an_attribute_removed_and_a_field_added_hide_nothing() -> None:
    """As many attributes as before, and all of the fields that were there before."""
    reader = EventReader(Redaction())
    assert reader.read(record("codex.turn_ttft", extra={"duration_ms": 1})) is not None
    made = record("codex.turn_ttft", extra={"duration_ms": 2, "added": "kept"})
    del made.stack_info
    event = reader.read(made)
    assert event is not None
    assert event.fields == {"duration_ms": 2, "added": "kept"}


class Incomparable(str):
    """A name that cannot be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = str.__hash__


def test_a_name_that_cannot_be_compared_loses_nothing() -> None:
    reader = EventReader(Redaction())
    for name in ("other", "odd", Incomparable("odd")):
        made = record("codex.turn_ttft", extra={"duration_ms": 2})
        made.__dict__[name] = "kept"
        event = reader.read(made)
        assert event is not None
        assert event.fields == {"duration_ms": 2, str.__str__(name): "kept"}


class OwnStr(str):
    """A str subclass as most are: equal to its text, with the same hash."""

    __slots__ = ()


NEEDED = {"name", "msg", "args", "exc_info", "levelno", "levelname", "created"}
"""Attributes without which logging itself fails, or a record logs nothing."""

STANDARD = st.sampled_from(sorted({*vars(record())} - NEEDED))
NAMES = st.sampled_from(["duration_ms", "a", "b", "prompt", "message", "event.name", "from_filter"])
KEYS = st.one_of(
    NAMES,
    STANDARD,
    st.builds(OwnStr, NAMES),
    st.builds(OddKey, NAMES),
    st.builds(OddKey, STANDARD),
    st.just(Incomparable("odd")),
    st.sampled_from(["odd", b"a", None, 7, RECORD_KEY]),
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.integers(),
    st.floats(),
    st.integers(-(1 << 63) - 2, -(1 << 63) + 2),
    st.integers((1 << 63) - 2, (1 << 63) + 2),
    st.lists(st.integers(), max_size=3),
    st.sampled_from([None, True, OwnStr("text"), b"bytes", "x" * 500, "codex.tool_decision"]),
)
Change = Callable[[logging.LogRecord], logging.LogRecord]


def added(key: Any, value: Any) -> Change:
    """An attribute that a filter or a record factory sets; replaces one of that name."""

    def change(made: logging.LogRecord) -> logging.LogRecord:
        made.__dict__[key] = value
        return made

    return change


def added_first(key: Any, value: Any) -> Change:
    """An attribute that a record factory sets before the standard ones."""

    def change(made: logging.LogRecord) -> logging.LogRecord:
        contents = {key: value, **{k: v for k, v in made.__dict__.items() if k is not key}}
        made.__dict__.clear()
        made.__dict__.update(contents)
        return made

    return change


def removed(name: str) -> Change:
    def change(made: logging.LogRecord) -> logging.LogRecord:
        made.__dict__.pop(name, None)
        return made

    return change


def moved_last(name: str) -> Change:
    def change(made: logging.LogRecord) -> logging.LogRecord:
        if name in made.__dict__:
            made.__dict__[name] = made.__dict__.pop(name)
        return made

    return change


def renamed(before: str, after: Any) -> Change:
    """As many attributes as before, at the same places, but one with another key."""

    def change(made: logging.LogRecord) -> logging.LogRecord:
        contents = {after if key == before else key: v for key, v in made.__dict__.items()}
        made.__dict__.clear()
        made.__dict__.update(contents)
        return made

    return change


def disguised(name: str, kind: type[str]) -> Change:
    """An attribute whose key another class of text replaces."""
    return renamed(name, kind(name))


def failed(made: logging.LogRecord) -> logging.LogRecord:
    made.exc_info = (ValueError, ValueError("no"), None)
    return made


def formatted(made: logging.LogRecord) -> logging.LogRecord:
    logging.Formatter("%(asctime)s %(message)s").format(made)
    return made


def queued(made: logging.LogRecord) -> logging.LogRecord:
    prepared = logging.handlers.QueueHandler(queue.SimpleQueue()).prepare(made)
    assert isinstance(prepared, logging.LogRecord)
    return prepared


def pickled(made: logging.LogRecord) -> logging.LogRecord:
    loaded = pickle.loads(pickle.dumps(made))
    assert isinstance(loaded, logging.LogRecord)
    return loaded


def sent_over_a_socket(made: logging.LogRecord) -> logging.LogRecord:
    """What a `SocketHandler` sends, and its server makes of that."""
    payload = logging.handlers.SocketHandler("localhost", 0).makePickle(made)
    return logging.makeLogRecord(pickle.loads(payload[4:]))


CHANGES = st.one_of(
    st.builds(added, KEYS, VALUES),
    st.builds(added_first, KEYS, VALUES),
    st.builds(removed, STANDARD | NAMES),
    st.builds(moved_last, STANDARD | NAMES),
    st.builds(renamed, STANDARD | NAMES, KEYS),
    st.builds(disguised, STANDARD | NAMES, st.sampled_from([OwnStr, OddKey])),
    st.sampled_from([failed, formatted, queued, pickled, sent_over_a_socket]),
)

MAX_LENGTH = 400
REDACTIONS = [Redaction(), Redaction(log_user_prompt=True)]
WARMED = {each: EventReader(each, max_attribute_length=MAX_LENGTH) for each in REDACTIONS}
"""One reader for all examples, so that it knows the layouts of many other records."""


def contents_of(event: Event | None) -> str | None:
    """All that is exported of an event but when it was read; a repr tells 1 from 1.0 and True."""
    if event is None:
        return None
    return repr([[*event.attributes_with({}).items()], event.logger_name, event.levelno])


@given(
    event=st.sampled_from(["codex.turn_ttft", "codex.user_prompt"]),
    redaction=st.sampled_from(REDACTIONS),
    fields=st.dictionaries(NAMES, VALUES, max_size=2),
    changes=st.lists(CHANGES, max_size=4),
)
@settings(max_examples=1000, deadline=None)
def test_a_record_gives_the_same_attributes_by_the_fast_path_and_by_the_slow_one(
    event: str, redaction: Redaction, fields: dict[str, Any], changes: list[Change]
) -> None:
    """Whatever filters, factories, formatters, queues and sockets did to it on its way."""
    made = record(event, extra={"duration_ms": 1, "a": "text", "b": 2.5})
    made.__dict__.update(fields)
    records = [made]
    for change in changes:
        # What fails here fails in the application, and the record never reaches a handler.
        with suppress(Exception):
            made = change(copy.copy(made))
            records.append(made)
    slow = EventReader(redaction, max_attribute_length=MAX_LENGTH, max_output_bytes=10_000_000)
    for each in records * 2:
        assert contents_of(WARMED[redaction].read(each)) == contents_of(slow.read(each))


def test_text_deltas_are_left_out_when_the_settings_say_so() -> None:
    reader = EventReader(Redaction(), log_sse_deltas=False)
    delta = {"event.kind": "response.output_text.delta"}
    assert reader.read(record("codex.sse_event", extra=delta)) is None
    assert reader.read(record({"event": "codex.sse_event", **delta})) is None
    assert reader.read(record("codex.turn_ttft", extra=delta)) is not None
    assert reader.read(record("codex.sse_event")) is not None
    completed = {"event.kind": "response.completed"}
    assert reader.read(record("codex.sse_event", extra=completed)) is not None
    assert EventReader(Redaction()).read(record("codex.sse_event", extra=delta)) is not None


def test_a_prompt_inside_a_map_is_redacted() -> None:
    meta = {"x": [{"prompt": "s3cr3t", "n": 1}]}
    assert read("codex.turn_ttft", extra={"meta": meta}).fields == {
        "meta": {"x": [{"prompt": "[REDACTED]", "prompt_length": 6, "n": 1}]}
    }
    assert meta == {"x": [{"prompt": "s3cr3t", "n": 1}]}


@pytest.mark.parametrize("max_length", [0, 1, 65_536, sys.maxsize])
def test_an_array_within_the_limit_arrives_whole(max_length: int) -> None:
    reader = EventReader(Redaction(), max_attribute_length=max_length)
    event = reader.read(record("codex.turn_ttft", extra={"a": [1], "b": {"c": 2}, "d": range(1)}))
    assert event is not None
    assert event.fields == {"a": [1], "b": {"c": 2}, "d": [0]}
