"""Whatever an application logs becomes something OTLP can carry.

Two steps, because they run on different threads. `attribute_value` runs where the event is logged:
it takes a value apart that could change or die before it is sent, so that only plain, immutable
pieces (and new lists and dicts of them) are kept. `encodable` runs where the event is sent: it
mends what protobuf refuses in plain pieces (lone surrogates, integers beyond 64 bits).

Neither raises, whatever the value's class does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from enum import Enum
from numbers import Integral, Real
from typing import TypeAlias

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

ALLOCATION_SIZE = 4
"""The bytes of memory that an object takes beyond its size, on average over many.

Allocators round up to multiples of 16 bytes. Half of that is counted: the estimate is then between
the memory that Python asks for and what the process grows by.
"""

_GREATEST_SHARED = 256
"""CPython keeps one object of each integer up to this one."""

_MILLISECOND = timedelta(milliseconds=1)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def attribute_value(
    key: str, value: object, *, boolean_string: bool = False, max_elements: int = 0
) -> AttributeValue:
    """Return `value` as an attribute that nothing can change later.

    Text, integers, floats, bytes and None stay. A bool stays, or becomes "true" or "false" where
    `boolean_string` says so. A `timedelta` becomes whole milliseconds where the key ends in `_ms`,
    enums become their value, sequences and sets lists, mappings dicts with text keys, other numbers
    int or float; anything else (paths, dates, decimals, UUIDs, objects) becomes its text.

    Args:
        key: the attribute's name.
        value: what the application logged; never changed.
        boolean_string: the field holds "true" or "false".
        max_elements: how many elements arrays and maps may have in all; 0 means any number.

    """
    try:
        if boolean_string and isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, timedelta) and key.endswith("_ms"):
            return round(value / _MILLISECOND)
        return _Snapshot(max_elements).take(value)
    except Exception:
        return _unprintable(value)


class _Snapshot:
    """Copies one value, bounded in depth and number of elements."""

    def __init__(self, max_elements: int) -> None:
        self._left = max_elements if max_elements > 0 else None
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
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if isinstance(value, (list, tuple, AbstractSet, Mapping)):
            return self._take_container(value)
        if isinstance(value, Integral):
            return int.__int__(value) if isinstance(value, int) else int(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, Real):
            return float(value)
        if isinstance(value, (datetime, date, time)):
            return str.__str__(value.isoformat())
        return str.__str__(str(value))

    def _take_container(
        self,
        value: list[object] | tuple[object, ...] | AbstractSet[object] | Mapping[object, object],
    ) -> AttributeValue:
        if id(value) in self._open or len(self._open) >= MAX_DEPTH:
            return CUT
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                entries: dict[str, AttributeValue] = {}
                for key, item in list(value.items()):
                    if not self._spend():
                        entries[CUT] = CUT
                        break
                    entries[key_text(key)] = self.take(item)
                return entries
            elements: list[AttributeValue] = []
            for item in list(value):
                if not self._spend():
                    elements.append(CUT)
                    break
                elements.append(self.take(item))
            return elements
        finally:
            self._open.discard(id(value))

    def _spend(self) -> bool:
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0


def key_text(key: object) -> str:
    """Return a key as exact text, whatever the application used."""
    if type(key) is str:
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    text = _Snapshot(0).take(key)
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
        return value if -(1 << 63) <= value < 1 << 63 else _integer_text(value)  # type: ignore[operator,arg-type]
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
