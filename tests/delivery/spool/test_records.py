"""Covers the records of a spool: whatever an event holds, it comes back as the same OTLP bytes."""

from __future__ import annotations

import json
import logging
import math
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codex_otel_logging import Conversation, catalog
from codex_otel_logging.delivery.spool.records import RecordDecoder, RecordEncoder, number_of
from codex_otel_logging.delivery.spool.segment import Header, Segment, adopt
from codex_otel_logging.events.event import Event, SharedAttributes
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction
from codex_otel_logging.otlp.encoder import OtlpRequests
from codex_otel_logging.values import attribute_value
from support.odd_values import Hostile, Number, Text

SHARED = SharedAttributes(
    {"service.name": "s\ud800", "hosts": ["a", "b"], "n": 1, "f": 1.5, "b": True},
    {"app.version": "1", "terminal.type": "\u2028"},
)
_found = catalog.find("codex.tool_result")
assert _found is not None
TOOL_RESULT = _found


class Raising:
    """Raises whatever is done with it, except when a test's report shows it."""

    def __hash__(self) -> int:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    def __repr__(self) -> str:
        return "Raising()"

    __int__ = __float__ = __mul__ = __lt__ = __le__ = __bool__ = __hash__


class SmallInt(int):
    """A subclass as enums are."""


class OwnText(str):
    """A subclass, as translated texts are."""


any_text = st.text(st.characters()) | st.text(
    st.sampled_from(["\ud83d", "\ude00", "\x00", "\n", '"', "\\", "\u2028", "\U0001f600", "a"])
)
any_integer = st.integers() | st.sampled_from(
    [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 1 << 700, -(1 << 700)]
)
any_value = st.recursive(
    st.none() | st.booleans() | any_integer | st.floats() | st.binary() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
).map(lambda value: attribute_value("a", value))
any_created: st.SearchStrategy[Any] = (
    st.floats()
    | any_integer
    | st.booleans()
    | st.sampled_from([None, "1", [], Fraction(3, 2), 1767225600.123456, 4e9, 9e9])
    | st.builds(Raising)
)
any_level: st.SearchStrategy[Any] = (
    st.integers(-5, 60)
    | st.sampled_from([True, False, 20.0, "20", None, [], math.nan, SmallInt(30), 1 << 700])
    | st.builds(Raising)
)
any_levelname: st.SearchStrategy[Any] = (
    any_text
    | st.sampled_from(
        ["WARNING", b"WARNING", None, 20, True, 1, 1.0, [], math.nan, OwnText("INFO")]
    )
    | st.builds(Raising)
)


@dataclass(frozen=True)
class SpanContext:
    trace_id: int
    span_id: int
    trace_flags: int


any_span = st.none() | st.builds(
    SpanContext, st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1), st.integers(0, 255)
)
any_conversation = st.none() | st.builds(
    Conversation,
    any_value,
    any_value,
    auth_mode=any_value,
    account_id=any_text,
)


def event_of(fields: dict[str, Any], **attributes: Any) -> Event:
    event = Event()
    event.type = TOOL_RESULT
    event.keys, event.values = tuple(fields), tuple(fields.values())
    event.conversation = event.span_context = None
    event.logger_name = "codex_otel"
    event.levelno, event.levelname = 20, "INFO"
    event.created, event.observed_ns = 1767225600.5, 1767225600_500000001
    event.size = 100
    for name, value in attributes.items():
        setattr(event, name, value)
    return event


any_event = st.builds(
    event_of,
    st.dictionaries(any_text, any_value, max_size=5),
    conversation=any_conversation,
    logger_name=any_text | st.just(OwnText("codex_otel.tools")),
    levelno=any_level,
    levelname=any_levelname,
    created=any_created,
    observed_ns=st.integers(0, 2**63 - 1),
    span_context=any_span,
)


def request(event: Event) -> bytes | None:
    """Return the request with an event, or None if it cannot be encoded: then it is dropped."""
    try:
        return OtlpRequests(SHARED).request([event])
    except Exception:
        return None


def content_of(record: bytes) -> bytes:
    """Return the JSON of a record, after checking its frame."""
    assert record.startswith(b"\n")
    assert record.endswith(b"\n")
    line = record[1:-1]
    assert b"\n" not in line
    checksum, _, content = line.partition(b" ")
    assert checksum == b"%08x" % crc32(content)
    json.loads(content.decode())
    return content


def decoded(record: bytes) -> tuple[int, Event]:
    found = RecordDecoder().decode(record[1:-1])
    assert found is not None
    return found


class TestRoundTrip:
    @settings(deadline=None)
    @given(st.lists(any_event, min_size=1, max_size=4))
    def test_decoded_event_makes_the_same_request(self, events: list[Event]) -> None:
        encoder, decoder = RecordEncoder(), RecordDecoder()
        for number, event in enumerate([*events, *events], 1):
            record = encoder.encode(number, event)
            assert number_of(content_of(record)) == number
            found = decoder.decode(record[1:-1])
            assert found is not None
            assert found[0] == number
            expected = request(event)
            if expected is not None:
                assert request(found[1]) == expected

    @settings(deadline=None)
    @given(any_event, any_event)
    def test_equal_keys_of_the_cache_do_not_confuse_events(self, one: Event, other: Event) -> None:
        """The second event has the first one's fields, but perhaps another level or logger."""
        other.keys, other.values = one.keys, one.values
        other.conversation = one.conversation
        encoder = RecordEncoder()
        encoder.encode(1, one)
        _, found = decoded(encoder.encode(2, other))
        expected = request(other)
        if expected is not None:
            assert request(found) == expected

    @pytest.mark.parametrize("first", [1, 20, 0])
    @pytest.mark.parametrize("level", [True, False, 20.0, 1.0, "20", None, SmallInt(20)])
    def test_level_that_equals_another_one_keeps_its_own_severity(
        self, first: Any, level: Any
    ) -> None:
        encoder = RecordEncoder()
        encoder.encode(1, event_of({}, levelno=first))
        event = event_of({}, levelno=level)
        _, found = decoded(encoder.encode(2, event))
        assert request(found) == request(event)
        event = event_of({}, levelno=first)
        _, found = decoded(encoder.encode(3, event))
        assert request(found) == request(event)

    @pytest.mark.parametrize("created", [None, "x", math.nan, math.inf, 10**400, Raising()])
    def test_time_of_an_invalid_created_is_that_of_the_call_to_the_nanosecond(
        self, created: Any
    ) -> None:
        event = event_of({}, created=created)
        _, found = decoded(RecordEncoder().encode(1, event))
        assert found.time_ns == event.observed_ns

    @settings(deadline=None)
    @given(
        st.floats(0, 9.3e9) | st.integers(0, 10**10),
        st.sampled_from(["x", b"x", math.nan, "\ud800"]),
    )
    @example(8999999999.999998, math.nan)
    def test_time_is_exact_on_the_fast_and_the_slow_path(self, created: Any, value: Any) -> None:
        event = event_of({"a": value}, created=created)
        _, found = decoded(RecordEncoder().encode(1, event))
        assert found.time_ns == event.time_ns

    def test_event_of_a_deeply_nested_value(self) -> None:
        value: Any = "x"
        for _ in range(50):
            value = [{"k": value, "\ud800": math.nan}]
        event = event_of({"a": attribute_value("a", value)})
        _, found = decoded(RecordEncoder().encode(1, event))
        assert request(found) == request(event)

    @pytest.mark.parametrize(
        "value", [10**4300, -(10**4300), 16**20_000], ids=["long", "negative", "longer"]
    )
    def test_integer_of_more_digits_than_python_converts(self, value: int) -> None:
        event = event_of({"a": value, "l": [value, {"m": value}]}, levelno=value)
        _, found = decoded(RecordEncoder().encode(1, event))
        assert found.values == event.values
        assert request(found) == request(event)

    def test_pair_of_surrogates_stays_two(self) -> None:
        event = event_of({"a": "\ud83d\ude00", "\udc00": "\U0001f600"})
        _, found = decoded(RecordEncoder().encode(1, event))
        assert (found.keys, found.values) == (event.keys, event.values)

    @pytest.mark.parametrize("bits", ["7ff8000000000001", "fff8000000000000", "8000000000000000"])
    def test_float_keeps_its_bits(self, bits: str) -> None:
        (value,) = struct.unpack(">d", bytes.fromhex(bits))
        _, found = decoded(RecordEncoder().encode(1, event_of({"a": value, "l": [value]})))
        assert struct.pack(">d", found.values[0]).hex() == bits
        assert struct.pack(">d", found.values[1][0]).hex() == bits  # type: ignore[index]

    def test_event_that_this_release_does_not_know_keeps_its_name(self) -> None:
        event = event_of({"prompt": "x"}, type=catalog.EventType("codex.tomorrow"))
        _, found = decoded(RecordEncoder().encode(1, event))
        assert found.type.name == "codex.tomorrow"
        assert request(found) == request(event)

    def test_order_of_fields_and_maps_is_kept(self) -> None:
        keys = [f"k{number}" for number in range(20)]
        random.Random(1).shuffle(keys)
        event = event_of({**dict.fromkeys(keys, 1), "m": {"b": 1, "a": {"d": 1, "c": 2}}})
        _, found = decoded(RecordEncoder().encode(1, event))
        assert request(found) == request(event)


class TestPaths:
    """Text, numbers and booleans take the fast path; one other value sends all to the slow one."""

    plain = st.none() | st.booleans() | any_integer | st.floats(allow_nan=False) | st.text()

    @settings(deadline=None)
    @given(st.dictionaries(st.text(), plain, max_size=5), any_span, st.floats(0, 9e9))
    def test_fast_and_slow_path_agree(
        self, fields: dict[str, Any], span: Any, created: float
    ) -> None:
        fast = event_of(fields, span_context=span, created=created)
        slow = event_of({**fields, "slow": b""}, span_context=span, created=created)
        _, one = decoded(RecordEncoder().encode(1, fast))
        _, other = decoded(RecordEncoder().encode(1, slow))
        if "slow" not in fields:
            assert other.values[:-1] == one.values == fast.values
            assert [*map(type, one.values)] == [*map(type, fast.values)]
            assert other.keys[:-1] == one.keys
        assert (other.created, other.observed_ns) == (one.created, one.observed_ns)
        assert other.span_context == one.span_context


class TestWhatTheReaderGives:
    """Events as applications log them, through the reader of events."""

    ODD: ClassVar[dict[str, dict[str, Any]]] = {
        "level True": {"levelno": True},
        "level 20.0": {"levelno": 20.0},
        "level of text": {"levelno": "20"},
        "no level": {"levelno": None},
        "list as level": {"levelno": [20]},
        "no level name": {"levelname": None},
        "level name of bytes": {"levelname": b"WARNING"},
        "list as level name": {"levelname": ["INFO"]},
        "hostile level name": {"levelname": Hostile()},
        "surrogate in the level name": {"levelname": "\ud800"},
        "time of text": {"created": "yesterday"},
        "no time": {"created": None},
        "hostile time": {"created": Hostile()},
        "infinite time": {"created": math.inf},
        "logger with methods of its own": {"name": Text("codex_otel.x")},
        "surrogate in the logger": {"name": "codex_otel.\ud800"},
        "odd values": {"tool_name": Hostile(), "n": Number(5), "raw": b"\xff"},
    }

    @pytest.mark.parametrize("odd", ODD)
    def test_odd_record_is_written_and_makes_the_same_request(self, odd: str) -> None:
        record = logging.makeLogRecord(
            {
                "name": "codex_otel",
                "msg": "codex.tool_result",
                "levelno": 20,
                "levelname": "INFO",
                "tool_name": "shell",
                **self.ODD[odd],
            }
        )
        event = EventReader(Redaction()).read(record)
        assert event is not None
        _, found = decoded(RecordEncoder().encode(1, event))
        expected = request(event)
        assert expected is None or request(found) == expected


class TestCache:
    def test_conversations_of_equal_ids_are_not_mixed_up(self) -> None:
        """The cache's key holds the id of a conversation, which another one may get later."""
        encoder = RecordEncoder()
        for number in range(3000):
            event = event_of({}, conversation=Conversation(str(number), "m"))
            _, found = decoded(encoder.encode(1, event))
            assert found.conversation is not None
            assert found.conversation.attributes["conversation.id"] == str(number)
            del event, found

    def test_cache_of_the_encoder_and_of_the_decoder_is_bounded(self) -> None:
        encoder, decoder = RecordEncoder(), RecordDecoder()
        for number in range(3000):
            record = encoder.encode(1, event_of({str(number): 1}))
            assert decoder.decode(record[1:-1]) is not None
        assert len(encoder._shared) <= 1024
        assert len(decoder._shared) <= 1024


def spelled(content: Any) -> bytes:
    """Return JSON as records have it: without spaces."""
    return json.dumps(content, separators=(",", ":")).encode()


def framed(content: Any) -> bytes:
    data = content if isinstance(content, bytes) else spelled(content)
    return b"%08x %b" % (crc32(data), data)


GOOD = json.loads(content_of(RecordEncoder().encode(1, event_of({"a": "x"}))))

CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda good: [],
    "a number": lambda good: 5,
    "no JSON": lambda good: b'{"number":1,"keys":[',
    "not UTF-8": lambda good: spelled(good).replace(b"codex_otel", b"codex\xff"),
    "keys missing": lambda good: {k: v for k, v in good.items() if k != "keys"},
    "more keys than values": lambda good: good | {"keys": ["a", "b"]},
    "keys that are no text": lambda good: good | {"keys": [5]},
    "values that are text": lambda good: good | {"values": "x"},
    "values that are null": lambda good: good | {"values": None},
    "unknown spelling": lambda good: good | {"values": [{"date": "x"}]},
    "two spellings": lambda good: good | {"values": [{"text": "", "bytes": ""}]},
    "empty spelling": lambda good: good | {"values": [{}]},
    "half a float": lambda good: good | {"values": [{"float": "00"}]},
    "bytes that are null": lambda good: good | {"values": [{"bytes": None}]},
    "map of no pairs": lambda good: good | {"values": [{"map": [[1]]}]},
    "map with keys that are no text": lambda good: good | {"values": [{"map": [[[], 1]]}]},
    "invalid surrogates": lambda good: good | {"values": [{"text": "ff"}]},
    "nested without end": lambda good: spelled(good).replace(
        b'["x"]', b"[" * 100_000 + b"]" * 100_000
    ),
    "number that is text": lambda good: good | {"number": "1"},
    "number that is negative": lambda good: good | {"number": -1},
    "huge number": lambda good: good | {"number": 1 << 64},
    "number of 5,000 digits": lambda good: spelled(good).replace(
        b'"number":1', b'"number":' + b"1" * 5000
    ),
    "time that is text": lambda good: good | {"created": "x", "observed_ns": "x"},
    "negative time": lambda good: good | {"observed_ns": -1},
    "span of two": lambda good: good | {"span": [1, 2]},
    "span of text": lambda good: good | {"span": ["1", "2", "3"]},
    "huge span": lambda good: good | {"span": [1 << 128, 1, 1]},
    "logger that is null": lambda good: good | {"logger": None},
    "level that is text": lambda good: good | {"level": "x"},
    "levelname that is null": lambda good: good | {"levelname": None},
    "event that is null": lambda good: good | {"event": None},
    "conversation that is text": lambda good: good | {"conversation": "x"},
    "conversation with a list": lambda good: good | {"conversation": [1]},
}


class TestRecordsOfOtherReleases:
    """The checksum holds, so nothing is damaged, but the contents are not what they should be."""

    @pytest.mark.parametrize("change", CHANGES)
    def test_record_is_not_decoded_or_is_an_event(self, change: str) -> None:
        found = RecordDecoder().decode(framed(CHANGES[change](GOOD)))
        if found is not None:
            number, event = found
            assert 0 <= number < 1 << 64
            assert len(event.keys) == len(event.values)
            Redaction().redact_again(event)
            request(event)

    def test_record_that_is_changed_in_nothing_is_decoded(self) -> None:
        assert RecordDecoder().decode(framed(GOOD)) is not None

    @settings(deadline=None)
    @given(
        st.sampled_from(sorted(GOOD)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["text", "int", "float", "bytes", "map"]) | st.text(max_size=3),
                    inner,
                    max_size=2,
                )
            ),
            max_leaves=5,
        ),
    )
    def test_any_change_of_one_part(self, key: str, value: Any) -> None:
        changed = spelled(GOOD | {key: value})
        found = RecordDecoder().decode(framed(changed))
        if found is not None:
            Redaction().redact_again(found[1])
            request(found[1])

    def test_unknown_part_of_a_record_is_ignored(self) -> None:
        content = spelled(GOOD | {"uid": "x"})
        assert RecordDecoder().decode(framed(content)) is not None


class TestHeader:
    @settings(deadline=None)
    @given(
        st.dictionaries(any_text, any_value, max_size=4),
        st.dictionaries(any_text, any_value, max_size=4),
        st.text(),
    )
    def test_shared_attributes_come_back_as_the_same_bytes(
        self, resource: dict[str, Any], defaults: dict[str, Any], destination: str
    ) -> None:
        shared = SharedAttributes(resource, defaults)
        with tempfile.TemporaryDirectory() as folder:
            segment = Segment(f"{folder}/1.spool", Header("o", destination, shared), 1, 1 << 20)
            segment.open()
            segment.close()
            leftover = adopt(segment.path)
        assert leftover is not None
        leftover.close()
        assert (leftover.header.owner, leftover.header.destination) == ("o", destination)
        event = event_of({"a": 1})
        expected = OtlpRequests(shared).request([event])
        assert OtlpRequests(leftover.header.shared).request([event]) == expected

    def test_shared_attributes_of_more_than_a_mebibyte(self, tmp_path: Path) -> None:
        shared = SharedAttributes({"big": "x" * (3 << 20)}, {})
        segment = Segment(f"{tmp_path}/1.spool", Header("o", "d", shared), 1, 1 << 20)
        segment.open()
        segment.append(RecordEncoder().encode(1, event_of({"a": 1})))
        segment.close()
        leftover = adopt(segment.path)
        assert leftover is not None
        assert leftover.header.shared == shared
        assert len(leftover) == 1
        leftover.close()
