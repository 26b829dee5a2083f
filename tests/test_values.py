"""Covers the conversion of values: copies, limits, cuts, and what protobuf accepts."""

import ctypes
import itertools
import math
import uuid
from array import array
from collections import UserList, UserString, deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from numbers import Complex
from pathlib import PurePosixPath
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from codex_otel_logging.otlp.encoder import set_value
from codex_otel_logging.values import (
    CUT,
    attribute_value,
    encodable,
    encoded_excess,
    key_text,
    shorten,
    shorten_to_bytes,
    size_of,
)
from support.odd_values import Number, Text, Unprintable, UnprintableItems


class Color(Enum):
    RED = "red"


class Code(IntEnum):
    OK = 200


class Index:
    def __index__(self) -> int:
        return 7


class Float:
    def __float__(self) -> float:
        return 1.5


@Complex.register
class Phasor(Float):
    """Like numpy's complex numbers: `float()` returns the real part."""

    def __repr__(self) -> str:
        return "phasor"


class Truth:
    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "truth"


class Flag(Truth):
    """A 0-d boolean tensor without `tolist`, like TensorFlow's."""

    shape = ()
    dtype = "<dtype: 'bool'>"

    def __index__(self) -> int:
        raise TypeError("only integer tensors")


class Tensor:
    """A tensor like PyTorch's: with `tolist`, `shape`, slices and methods of numbers."""

    def __init__(self, *items: Any, shape: tuple[int, ...]) -> None:
        self.items = items
        self.shape = shape

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("0-d")
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return Tensor(*self.items[key], shape=(len(self.items[key]), *self.shape[1:]))
        return self.items[key]

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    def __index__(self) -> int:
        raise TypeError("not an integer")

    def tolist(self) -> Any:
        assert len(self.items) <= 11, "only a slice of a huge one"
        assert len(self.shape) <= 1, "not all of its rows"
        return self.items[0] if not self.shape else list(self.items)


class SelfContained:
    """Like numpy's longdouble: `tolist` returns an object of the same class."""

    shape = ()

    def tolist(self) -> Any:
        return SelfContained()

    def __float__(self) -> float:
        return 2.5


class Endless:
    """A 0-d array whose `tolist` returns another such array, without end."""

    shape = ()

    def tolist(self) -> Any:
        class Other(Endless):
            pass

        return Other()

    def __repr__(self) -> str:
        return "endless"


class NoSlices:
    def tolist(self) -> Any:
        return [1]

    def __repr__(self) -> str:
        return "no slices"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (3, 3),
        (2.5, 2.5),
        (True, True),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"ab"), b"ab"),
        (None, None),
        (Color.RED, "red"),
        (Code.OK, 200),
        (Text("sub"), "sub"),
        (Number(7), 7),
        (PurePosixPath("/tmp/x"), "/tmp/x"),
        (date(2026, 11, 23), "2026-11-23"),
        (datetime(2026, 11, 23, 12, tzinfo=timezone.utc), "2026-11-23T12:00:00+00:00"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 4), 0.25),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, "a", None], [1, "a", None]),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (frozenset({3}), [3]),
        ({"a": {1: b"x"}}, {"a": {"1": b"x"}}),
        ({None: 1, "": 2}, {"None": 1, "": 2}),
        (Unprintable(), "<unprintable Unprintable>"),
        ([1, Unprintable()], [1, "<unprintable Unprintable>"]),
        (UnprintableItems([1]), "<unprintable UnprintableItems>"),
        ({Unprintable(): 1}, {"<unprintable Unprintable>": 1}),
        (range(3), [0, 1, 2]),
        (deque([1, "a"]), [1, "a"]),
        (UserList([1]), [1]),
        (UserString("text"), "text"),
        ({"a": 1}.values(), [1]),
        (array("d", [1.5]), [1.5]),
        (memoryview(b"ab"), b"ab"),
        (memoryview(array("i", [1, 2])), [1, 2]),
        (memoryview(b"\1\0\2\0").cast("b", (2, 2)), b"\1\0\2\0"),
        (memoryview(b"\1\0\1\0").cast("h", (2, 1)), b"\1\0\1\0"),
        (ctypes.c_uint8(3), 3),
        (ctypes.c_double(2.5), 2.5),
        (ctypes.c_bool(True), True),
        (Index(), 7),
        (Float(), 1.5),
        (Truth(), "truth"),
        (Flag(), True),
        (1 + 2j, "(1+2j)"),
        (Phasor(), "phasor"),
        (Tensor(True, shape=()), True),
        (Tensor(1, 2.5, False, shape=(3,)), [1, 2.5, False]),
        (Tensor(Tensor(1, shape=(1,)), Tensor(2, shape=(1,)), shape=(2, 1)), [[1], [2]]),
        (SelfContained(), 2.5),
        (Endless(), CUT),
        (NoSlices(), "no slices"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_become_plain_values(value: object, expected: object) -> None:
    result = attribute_value("key", value)
    assert result == expected
    assert type(result) is type(expected)


class Proxy:
    """Stands for another object, as werkzeug's `LocalProxy` and wrapt's `ObjectProxy` do."""

    def __init__(self, value: object) -> None:
        self._value = value

    @property
    def __class__(self) -> Any:
        return type(self._value)

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    def __str__(self) -> str:
        return str(self._value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("text", "text"), (5, "5"), (1.5, "1.5"), ({"a": 1}, {"a": 1})],
    ids=lambda value: type(value).__name__,
)
def test_proxy_becomes_the_value_or_text_of_its_object(value: object, expected: object) -> None:
    assert attribute_value("x", Proxy(value)) == expected


def test_timedelta_becomes_milliseconds_in_fields_ending_in_ms() -> None:
    delta = timedelta(seconds=1, microseconds=2600)
    assert attribute_value("duration_ms", delta) == 1003
    assert attribute_value("duration", delta) == "0:00:01.002600"
    assert attribute_value("waits_ms", [delta, {"a": delta}]) == [1003, {"a": 1003}]


def test_boolean_becomes_text_in_a_boolean_string_field() -> None:
    assert attribute_value("success", True, boolean_string=True) == "true"
    assert attribute_value("success", False, boolean_string=True) == "false"
    assert attribute_value("success", "true", boolean_string=True) == "true"
    assert attribute_value("success", 1, boolean_string=True) == 1


def test_later_changes_do_not_reach_the_copy() -> None:
    inner = [1]
    value = {"a": inner}
    taken = attribute_value("key", value)
    inner.append(2)
    value["b"] = inner
    assert taken == {"a": [1]}


def test_cycles_and_deep_nesting_are_cut() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert attribute_value("key", cycle) == [1, CUT]
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    taken: Any = attribute_value("key", deep)
    depth = 0
    while isinstance(taken, list):
        taken, depth = taken[0], depth + 1
    assert taken == CUT
    assert depth == 16


def test_same_list_twice_is_not_a_cycle() -> None:
    item = [1]
    assert attribute_value("key", [item, item]) == [[1], [1]]


def test_elements_beyond_max_elements_are_cut() -> None:
    assert attribute_value("key", list(range(10)), max_elements=3) == [0, 1, 2, CUT]
    assert attribute_value("key", {"a": 1, "b": 2}, max_elements=1) == {"a": 1, CUT: CUT}


class EndlessList(list[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class EndlessMap(dict[int, int]):
    def items(self) -> Any:
        return zip(itertools.count(), itertools.count(), strict=True)


HUGE: dict[str, Callable[[], Any]] = {
    "range": lambda: range(10**15),
    "nested": lambda: [range(10**15)] * 100,
    "endless list": EndlessList,
    "endless map": EndlessMap,
    "tensor": lambda: Tensor(*range(10**5), shape=(10**5,)),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_value_is_copied_up_to_the_limit_only(name: str) -> None:
    """All elements would not fit into memory; `Tensor` asserts that it is sliced."""
    taken: Any = attribute_value("key", HUGE[name](), max_elements=10)
    assert len(taken) <= 11
    assert CUT in str(taken)


def test_key_that_is_a_huge_range_is_cut() -> None:
    assert key_text(range(10**15)) == str([*range(100), CUT])


def test_ctypes_pointers_are_not_followed() -> None:
    """A pointer may point to memory that has been freed."""
    assert str(attribute_value("key", ctypes.c_char_p(b"text"))).startswith("c_char_p(")


def test_shorten_cuts_nested_text_and_returns_the_longest_length() -> None:
    assert shorten("abc", 3) == ("abc", 0)
    assert shorten("abcd", 3) == ("abc", 4)
    assert shorten(["ab", {"k": "abcdef"}], 3) == (["ab", {"k": "abc"}], 6)
    assert shorten(12345, 3) == (12345, 0)


def test_shorten_to_bytes_cuts_at_a_character_boundary() -> None:
    assert shorten_to_bytes("äöü", 6) == ("äöü", 0)
    assert shorten_to_bytes("äöü", 5) == ("äö", 3)
    assert shorten_to_bytes(7, 1) == (7, 0)


def encoded(value: Any) -> bytes:
    message = AnyValue()
    set_value(message, value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "value",
    ["\ud800", "a\udfffb", 1 << 63, -(1 << 63) - 1, 1 << 100_000, ["\ud800", {"\udc00": 1 << 64}]],
    ids=["surrogate", "inside", "large", "small", "huge", "nested"],
)
def test_encodable_value_is_accepted_by_protobuf(value: Any) -> None:
    with pytest.raises((ValueError, UnicodeError)):
        encoded(value)
    assert encoded(encodable(value))


def test_encodable_replaces_only_surrogates_and_large_integers() -> None:
    assert encodable("a\ud800\ud800é☕") == "a\ufffd\ufffdé☕"
    assert encodable(1 << 63) == str(1 << 63)
    assert encodable(-(1 << 63)) == -(1 << 63)
    assert encodable(1 << 100_000) == hex(1 << 100_000)
    assert math.isnan(encodable(math.nan))  # type: ignore[arg-type]


ENCODED: dict[str, Any] = {
    "ASCII": "plain",
    "1 byte a character": "é" * 10_000,
    "2 bytes a character": "中" * 10_000,
    "4 bytes a character": "😀" * 10_000,
    "bytes": b"xyz",
    "integer": 5,
    "integers": [*range(-10, 300)],
    "small values": [None, True, [], {}, "", b"", 0.5] * 10,
    "map": {"é" * 1000: "é" * 1000, "k": ["é" * 1000]},
    "65 bits": 1 << 64,
    "decimal digits": 1 << 10_000,
    "hexadecimal digits": 1 << 100_000,
}


@pytest.mark.parametrize("name", ENCODED)
def test_estimated_request_size_is_never_too_low(name: str) -> None:
    """An event's size exceeds its value's by at least 40 bytes."""
    value = ENCODED[name]
    size = size_of(value) + encoded_excess(value) + 40  # first: a text keeps what it is encoded to
    assert size >= len(encoded(encodable(value)))


def test_key_text_returns_text_for_any_key() -> None:
    assert key_text("a") == "a"
    assert key_text(b"a") == "a"
    assert key_text(Color.RED) == "red"
    assert key_text(5) == "5"
    assert key_text(Unprintable()) == "<unprintable Unprintable>"
