"""Whatever an application logs becomes something OTLP can carry.

Two steps, because they run on different threads. `attribute_value` runs where the event is logged:
it takes a value apart that could change or die before it is sent, so that only plain, immutable
pieces (and new lists and dicts of them) are kept. `encodable` runs where the event is sent: it
mends what protobuf refuses in plain pieces (lone surrogates, integers beyond 64 bits).

Neither raises, whatever the value's class does.
"""

from __future__ import annotations

import operator
import re
import sys
from collections import UserString
from collections.abc import Callable, Iterable, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from numbers import Complex, Real
from typing import Any, TypeAlias

AttributeValue: TypeAlias = (
    "str | bool | int | float | bytes | list[AttributeValue] | dict[str, AttributeValue] | None"
)
"""What an attribute can hold: the cases of OTLP's `AnyValue`."""

IMMUTABLE_TYPES = frozenset({str, int, float, bool, bytes, type(None)})
"""The exact types that need no work when an event is logged."""

MAX_DEPTH = 16
"""How deep arrays and maps may nest; what lies deeper is replaced by `CUT`."""

CUT = "..."
"""What stands for the part of a value that was cut: too deep, too many elements, or a cycle."""

MIN_INT64, MAX_INT64 = -(1 << 63), (1 << 63) - 1
"""The integers that OTLP carries as such; others are sent as their text."""

ALLOCATION_SIZE = 4
"""The bytes of memory that an object takes beyond its size, on average over many.

Allocators round up to multiples of 16 bytes. Half of that is counted: the estimate is then between
the memory that Python asks for and what the process grows by.
"""

_GREATEST_SHARED = 256
"""CPython keeps one object of each integer up to this one."""

_MAX_KNOWN_CLASSES = 128
"""For how many classes of the application's is remembered what they are."""

_MAX_KEY_ELEMENTS = 100
"""How many elements of a tuple or a range are shown in the text of a key."""

_MILLISECOND = timedelta(milliseconds=1)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def attribute_value(
    key: str, value: object, *, boolean_string: bool = False, max_elements: int = 0
) -> AttributeValue:
    """Return `value` as an attribute that nothing can change later.

    Text, integers, floats, bytes and None stay. A bool stays, or becomes "true" or "false" where
    `boolean_string` says so. A `timedelta` becomes whole milliseconds where the key ends in `_ms`,
    enums become their value, sequences and sets lists, mappings dicts with text keys, other numbers
    int or float. Scalars and arrays of numpy and of whatever has the same methods (`tolist`,
    `shape`) become what they hold. Anything else (paths, dates, decimals, UUIDs, objects) becomes
    its text.

    Args:
        key: the attribute's name.
        value: what the application logged; never changed.
        boolean_string: the field holds "true" or "false".
        max_elements: how many elements arrays and maps may have in all; 0 means any number. No more
            than these are copied.

    """
    if type(value) in IMMUTABLE_TYPES:
        taken: AttributeValue = value  # type: ignore[assignment]
    else:
        taken = _Snapshot(max_elements, milliseconds=key.endswith("_ms")).take(value)
    if boolean_string and type(taken) is bool:
        return "true" if taken else "false"
    return taken


class _Snapshot:
    """Copies one value, bounded in depth and number of elements."""

    def __init__(self, max_elements: int, *, milliseconds: bool = False) -> None:
        self._left = max_elements if max_elements > 0 else None
        self._milliseconds = milliseconds
        self._open: set[int] = set()

    def take(self, value: object) -> AttributeValue:
        try:
            return self._take(value)
        except Exception:
            return _unprintable(value)

    def _take(self, value: object) -> AttributeValue:
        kind = type(value)
        if kind in IMMUTABLE_TYPES:
            return value  # type: ignore[return-value]
        if isinstance(value, Enum):
            return self.take(value.value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if isinstance(value, (list, tuple, AbstractSet)):
            return self._nested(value, self._take_elements)
        if isinstance(value, Mapping):
            return self._nested(value, self._take_entries)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, timedelta) and self._milliseconds:
            return round(value / _MILLISECOND)
        if isinstance(value, (datetime, date, time)):
            return str.__str__(value.isoformat())
        try:
            return self._take_by_protocol(value)
        except Exception:  # it does not keep to the protocol after all
            return str.__str__(str(value))

    def _take_by_protocol(self, value: Any) -> AttributeValue:
        """Take a value apart by what its class can do, without knowing the class."""
        kind: Any = type(value)
        protocol = _protocol(kind)
        if protocol == "array":
            if isinstance(value, memoryview) and (value.ndim != 1 or value.format in _BYTE_FORMATS):
                return bytes(value)
            return self._nested(value, self._take_array)
        if protocol == "sequence":
            return self._nested(value, self._take_elements)
        if protocol == "C number":
            return self.take(value.value)
        if protocol == "tensor" and value.shape == () and "bool" in str(value.dtype):
            return bool(value)
        return _number(value)

    def _take_array(self, array: Any) -> AttributeValue:
        """Take an array apart, or a scalar that has the methods of one, such as numpy's.

        Only as much is converted as may be kept: it can have billions of elements.
        """
        unit = getattr(getattr(array, "dtype", None), "kind", "")
        shape = getattr(array, "shape", None)
        if shape == ():
            item = _time(array, unit) if unit in _TIMES else array.tolist()
            return _number(item) if type(item) is type(array) else self.take(item)
        if unit in _TIMES or (shape is not None and len(shape) > 1):
            return self._take_elements(array)
        return self._take_elements(array[: self._bound()].tolist())

    def _nested(self, value: Any, take: Callable[[Any], AttributeValue]) -> AttributeValue:
        if id(value) in self._open or len(self._open) >= MAX_DEPTH:
            return CUT
        self._open.add(id(value))
        try:
            return take(value)
        finally:
            self._open.discard(id(value))

    def _take_entries(self, value: Mapping[Any, Any]) -> AttributeValue:
        entries: dict[str, AttributeValue] = {}
        for key, item in list(islice(value.items(), self._bound())):
            if not self._spend():
                entries[CUT] = CUT
                break
            entries[key_text(key)] = item if type(item) in IMMUTABLE_TYPES else self.take(item)
        return entries

    def _take_elements(self, value: Iterable[Any]) -> AttributeValue:
        elements: list[AttributeValue] = []
        for item in list(islice(value, self._bound())):
            if not self._spend():
                elements.append(CUT)
                break
            elements.append(item if type(item) in IMMUTABLE_TYPES else self.take(item))
        return elements

    def _bound(self) -> int | None:
        """Return how many elements to copy: one more than is kept, which tells that there is one.

        All are copied before the first is taken, as other threads may change a container meanwhile.
        """
        return None if self._left is None else min(max(self._left, 0) + 1, sys.maxsize)

    def _spend(self) -> bool:
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0


_TIMES = ("m", "M")
"""The kinds of a numpy dtype that `tolist` may turn into integers: durations, points in time."""

_BYTE_FORMATS = ("B", "b", "c")
"""The formats of a memoryview whose elements are bytes."""

_C_NUMBERS = "?bBhHiIlLqQfdg"
"""The codes of the number types of ctypes. Those of pointers are left out: one may dangle."""


def _time(scalar: Any, kind: str) -> timedelta | str:
    """Return a duration as a timedelta, a point in time (or neither) as its text."""
    duration = scalar.astype("timedelta64[us]").tolist() if kind == "m" else None
    return duration if isinstance(duration, timedelta) else str(scalar)


@lru_cache(maxsize=_MAX_KNOWN_CLASSES)
def _protocol(kind: Any) -> str:
    """Return as what the values of a class are taken apart."""
    if hasattr(kind, "tolist"):
        return "array"
    if issubclass(kind, (Sequence, ValuesView)) and not issubclass(kind, UserString):
        return "sequence"
    ctypes: Any = sys.modules.get("_ctypes")
    if ctypes and issubclass(kind, ctypes._SimpleCData) and kind._type_ in _C_NUMBERS:
        return "C number"
    return "tensor" if hasattr(kind, "shape") and hasattr(kind, "dtype") else "number"


@lru_cache(maxsize=_MAX_KNOWN_CLASSES)
def _number_type(kind: Any) -> type:
    """Return as what the values of a class are sent: int, float, or else str.

    A decimal would lose digits as a float, a complex number one of its parts.
    """
    if issubclass(kind, (Decimal, Complex)) and not issubclass(kind, Real):
        return str
    if hasattr(kind, "__index__"):
        return int
    return float if hasattr(kind, "__float__") else str


def _number(value: Any) -> AttributeValue:
    """Return what is a number by its methods as one, anything else as its text."""
    kind: Any = type(value)
    number_type = _number_type(kind)
    if number_type is int:
        return int.__int__(operator.index(value))
    if number_type is float:
        return float.__float__(float(value))
    return str.__str__(str(value))


def key_text(key: object) -> str:
    """Return a key as exact text, whatever the application used."""
    if type(key) is str:
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    text = _Snapshot(_MAX_KEY_ELEMENTS).take(key)
    return text if isinstance(text, str) else str(text)


def _unprintable(value: object) -> str:
    try:
        return f"<unprintable {str.__str__(type(value).__name__)}>"
    except Exception:  # even the class has no name
        return "<unprintable>"


def shorten(value: AttributeValue, max_length: int) -> tuple[AttributeValue, int]:
    """Return `value` with no text longer than `max_length` characters, and the longest found.

    The second item is 0 when nothing was cut. Bytes are cut like text. New lists and dicts are
    returned where something in them was cut.
    """
    longest = 0
    if isinstance(value, (str, bytes)):
        if len(value) > max_length:
            return value[:max_length], len(value)
    elif isinstance(value, list):
        pairs = [shorten(item, max_length) for item in value]
        longest = max((length for _, length in pairs), default=0)
        if longest:
            return [item for item, _ in pairs], longest
    elif isinstance(value, dict):
        shortened = {key: shorten(item, max_length) for key, item in value.items()}
        longest = max((length for _, length in shortened.values()), default=0)
        if longest:
            return {key: item for key, (item, _) in shortened.items()}, longest
    return value, 0


def shorten_to_bytes(value: AttributeValue, max_bytes: int) -> tuple[AttributeValue, int]:
    """Return a text with at most `max_bytes` of UTF-8, and its length in characters if it was cut.

    Other values come back as they are, with 0.
    """
    if not isinstance(value, str):
        return value, 0
    encoded = value[: max_bytes + 1].encode("utf-8", "surrogatepass")
    if len(encoded) <= max_bytes:
        return value, 0
    return encoded[:max_bytes].decode("utf-8", "ignore"), len(value)


def size_of(value: AttributeValue) -> int:
    """Return an estimate of the bytes of memory that a value takes, with all that it holds.

    Objects that Python shares, such as small integers, take none.
    """
    if value is None or (isinstance(value, int) and 0 <= value <= _GREATEST_SHARED):
        return 0
    size = sys.getsizeof(value) + ALLOCATION_SIZE
    if isinstance(value, list):
        size += sum(map(size_of, value))
    elif isinstance(value, dict):
        size += sum(size_of(key) + size_of(item) for key, item in value.items())
    return size


def encoded_excess(value: AttributeValue) -> int:
    """Return how many bytes more than in memory a value may take in a request, at most.

    UTF-8 needs up to two bytes for what takes one in memory, and three for what takes two; an
    integer beyond 64 bits is sent as its digits.
    """
    if isinstance(value, str):
        return 0 if value.isascii() else len(value)
    if isinstance(value, list):
        return sum(map(encoded_excess, value))
    if isinstance(value, dict):
        return sum(encoded_excess(key) + encoded_excess(item) for key, item in value.items())
    if isinstance(value, int) and value.bit_length() > 64:
        return value.bit_length() // 4
    return 0


def encodable(value: AttributeValue) -> AttributeValue:
    """Return `value` as protobuf accepts it; the same object where nothing had to be mended.

    Lone surrogates become U+FFFD, integers beyond 64 bits their text. Expects plain types, as
    `attribute_value` returns them.
    """
    kind = type(value)
    if kind is str:
        return encodable_text(value)  # type: ignore[arg-type]
    if kind is int:
        return value if MIN_INT64 <= value <= MAX_INT64 else _integer_text(value)  # type: ignore[operator,arg-type]
    if kind is list:
        return [encodable(item) for item in value]  # type: ignore[union-attr]
    if kind is dict:
        return {encodable_text(key): encodable(item) for key, item in value.items()}  # type: ignore[union-attr]
    return value


def encodable_keys(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """Return attributes as protobuf accepts them, in a new mapping.

    https://opentelemetry.io/docs/specs/otel/common/#attribute wants keys that are not empty.
    """
    return {encodable_text(key) or "<empty>": encodable(v) for key, v in attributes.items()}


def encodable_text(text: str) -> str:
    """Return `text` with each lone surrogate replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text


def _integer_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # beyond sys.get_int_max_str_digits(); hexadecimal has no such limit
        return hex(value)
