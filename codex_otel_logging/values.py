"""Converts any value that an application logs to one that OTLP can carry.

The conversion has two steps, which run on different threads. On the application thread,
`attribute_value` copies whatever could change before it is exported into plain, immutable values
and new lists and dicts of these. On the worker thread, `encodable` replaces what protobuf rejects:
lone surrogates and integers of more than 64 bits.

Neither step raises, whatever the value's class does.
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
"""The types of an attribute's value: the cases of OTLP's `AnyValue`."""

IMMUTABLE_TYPES = frozenset({str, int, float, bool, bytes, type(None)})
"""The exact types whose values need no copy."""

MAX_DEPTH = 16
"""Maximum depth of nested arrays and maps; anything deeper is replaced by `CUT`."""

CUT = "..."
"""Replaces elements beyond the limit of depth or number, and a container inside itself."""

MIN_INT64, MAX_INT64 = -(1 << 63), (1 << 63) - 1
"""The range of integers in OTLP; other integers are sent as text."""

ALLOCATION_SIZE = 4
"""Estimated bytes by which the memory of an object exceeds its size.

Allocators round up to multiples of 16 bytes, which adds 8 on average. Only half of that is counted,
so that estimates lie between the memory that Python requests and the growth of the process.
"""

_MAX_CACHED_INTEGER = 256
"""CPython has one object for each integer from 0 to this one."""

_MAX_CACHED_CLASSES = 128
"""Maximum number of the application's classes whose protocol is cached."""

_MAX_KEY_ELEMENTS = 100
"""Maximum number of elements in the text of a key that is a tuple or a range."""

_MILLISECOND = timedelta(milliseconds=1)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def attribute_value(
    key: str, value: object, *, boolean_string: bool = False, max_elements: int = 0
) -> AttributeValue:
    """Return `value` as a plain value that the application cannot change later; never raises.

    - str, int, float, bool, bytes and None stay. A bool becomes "true" or "false" in a
      `boolean_string` field.
    - A `timedelta` becomes whole milliseconds if the key ends in `_ms`.
    - An enum member becomes its value; other numbers become int or float.
    - Sequences and sets become lists; mappings become dicts with keys of text.
    - Scalars and arrays of numpy, and objects with the same methods (`tolist`, `shape`), become the
      values they hold.
    - Anything else (paths, dates, decimals, UUIDs, objects) becomes its text.

    Args:
        key: the attribute's name.
        value: the value that the application logged; it is not changed.
        boolean_string: whether the field holds "true" or "false".
        max_elements: maximum number of elements in all arrays and maps together; 0 means no limit.
            Further elements are not copied.

    """
    if type(value) in IMMUTABLE_TYPES:
        copied: AttributeValue = value  # type: ignore[assignment]
    else:
        copied = _ValueCopier(max_elements, milliseconds=key.endswith("_ms")).copy(value)
    if boolean_string and type(copied) is bool:
        return "true" if copied else "false"
    return copied


class _ValueCopier:
    """Copies one value, with a limited depth and number of elements.

    Subclasses of built-in types are converted by the built-in type's own method, such as
    `int.__int__`: a method of the application's class may raise, block, or return something else.
    """

    def __init__(self, max_elements: int, *, milliseconds: bool = False) -> None:
        self._elements_left = max_elements if max_elements > 0 else None
        self._milliseconds = milliseconds
        self._enclosing: set[int] = set()

    def copy(self, value: object) -> AttributeValue:
        try:
            return self._copy(value)
        except Exception:  # even the text of the value cannot be made
            return _unprintable(value)

    def _copy(self, value: object) -> AttributeValue:
        kind = type(value)
        if kind in IMMUTABLE_TYPES:
            return value  # type: ignore[return-value]
        # Before str and int: a member of a StrEnum or an IntEnum is one of these, too.
        if isinstance(value, Enum):
            return self.copy(value.value)
        # Not isinstance(): a proxy, such as werkzeug's `LocalProxy`, claims its object's class,
        # and the built-in methods refuse it. It is sent as text.
        if issubclass(kind, str):
            return str.__str__(value)
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if isinstance(value, (list, tuple, AbstractSet)):
            return self._copy_nested(value, self._copy_elements)
        if isinstance(value, Mapping):
            return self._copy_nested(value, self._copy_entries)
        if issubclass(kind, int):
            return int.__int__(value)  # type: ignore[arg-type]
        if issubclass(kind, float):
            return float.__float__(value)  # type: ignore[arg-type]
        if isinstance(value, timedelta) and self._milliseconds:
            return round(value / _MILLISECOND)
        if isinstance(value, (datetime, date, time)):
            return str.__str__(value.isoformat())
        try:
            return self._copy_by_protocol(value)
        except Exception:  # a method of the class raised
            return str.__str__(str(value))

    def _copy_by_protocol(self, value: Any) -> AttributeValue:
        """Copy a value by the methods of its class.

        numpy, PyTorch or pandas need not be installed, and must not be imported here.
        """
        kind: Any = type(value)
        protocol = _protocol_of(kind)
        if protocol == "array":
            # A memoryview of several dimensions cannot be sliced.
            if isinstance(value, memoryview) and (value.ndim != 1 or value.format in _BYTE_FORMATS):
                return bytes(value)
            return self._copy_nested(value, self._copy_array)
        if protocol == "sequence":
            return self._copy_nested(value, self._copy_elements)
        if protocol == "C number":
            return self.copy(value.value)
        # TensorFlow's tensors have no `tolist`, and a boolean one refuses to be a number.
        if protocol == "tensor" and value.shape == () and "bool" in str(value.dtype):
            return bool(value)
        return _number_or_text(value)

    def _copy_array(self, array: Any) -> AttributeValue:
        """Copy an array, or a scalar that has the methods of an array, such as numpy's.

        Converts only the elements that are kept, because an array may have billions of them.
        """
        unit = getattr(getattr(array, "dtype", None), "kind", "")
        shape = getattr(array, "shape", None)
        if shape == ():
            item = _numpy_time(array, unit) if unit in _TIME_KINDS else array.tolist()
            # `tolist` of numpy's longdouble returns itself: copying it would not end.
            return _number_or_text(item) if type(item) is type(array) else self.copy(item)
        if unit in _TIME_KINDS or (shape is not None and len(shape) > 1):
            return self._copy_elements(array)  # row by row
        return self._copy_elements(array[: self._copy_limit()].tolist())

    def _copy_nested(self, value: Any, copy: Callable[[Any], AttributeValue]) -> AttributeValue:
        """Copy a container with `copy`, unless it contains itself or is nested too deeply."""
        # Only the enclosing containers count: the same list twice in a list is not a cycle.
        if id(value) in self._enclosing or len(self._enclosing) >= MAX_DEPTH:
            return CUT
        self._enclosing.add(id(value))
        try:
            return copy(value)
        finally:
            self._enclosing.discard(id(value))

    def _copy_entries(self, value: Mapping[Any, Any]) -> AttributeValue:
        entries: dict[str, AttributeValue] = {}
        for key, item in list(islice(value.items(), self._copy_limit())):
            if not self._count_element():
                entries[CUT] = CUT
                break
            entries[key_text(key)] = item if type(item) in IMMUTABLE_TYPES else self.copy(item)
        return entries

    def _copy_elements(self, value: Iterable[Any]) -> AttributeValue:
        elements: list[AttributeValue] = []
        for item in list(islice(value, self._copy_limit())):
            if not self._count_element():
                elements.append(CUT)
                break
            elements.append(item if type(item) in IMMUTABLE_TYPES else self.copy(item))
        return elements

    def _copy_limit(self) -> int | None:
        """Return how many elements to take out of a container: one more than may be kept.

        The additional one shows that elements are left out. All of them are taken at once, before
        the first is copied, because other threads may change the container meanwhile.
        """
        left = self._elements_left
        return None if left is None else min(max(left, 0) + 1, sys.maxsize)

    def _count_element(self) -> bool:
        """Count an element; return whether it may be kept."""
        if self._elements_left is None:
            return True
        self._elements_left -= 1
        return self._elements_left >= 0


_TIME_KINDS = ("m", "M")
"""numpy's dtype kinds for durations and points in time, which `tolist` may turn into integers."""

_BYTE_FORMATS = ("B", "b", "c")
"""The formats of memoryviews of bytes."""

_CTYPES_NUMBER_CODES = "?bBhHiIlLqQfdg"
"""The type codes of numbers in ctypes. Pointers are not among them, because one may dangle."""


def _numpy_time(scalar: Any, kind: str) -> timedelta | str:
    """Return a numpy duration as a timedelta, and a point in time or NaT as text."""
    # In nanoseconds, `tolist` would return an int, without its unit.
    duration = scalar.astype("timedelta64[us]").tolist() if kind == "m" else None
    return duration if isinstance(duration, timedelta) else str(scalar)


@lru_cache(maxsize=_MAX_CACHED_CLASSES)
def _protocol_of(kind: Any) -> str:
    """Return the name of the protocol by which the values of a class are copied."""
    # Cached, because these checks are slow. Bounded, because applications may create classes
    # without end, and the cache keeps them alive.
    if hasattr(kind, "tolist"):
        return "array"
    if issubclass(kind, (Sequence, ValuesView)) and not issubclass(kind, UserString):
        return "sequence"
    # Not imported: without the module there are no such values.
    ctypes: Any = sys.modules.get("_ctypes")
    if ctypes and issubclass(kind, ctypes._SimpleCData) and kind._type_ in _CTYPES_NUMBER_CODES:
        return "C number"
    return "tensor" if hasattr(kind, "shape") and hasattr(kind, "dtype") else "number"


@lru_cache(maxsize=_MAX_CACHED_CLASSES)
def _attribute_type(kind: Any) -> type:
    """Return the type that values of a class are converted to: int, float or str.

    As a float, a decimal would lose digits and a complex number its imaginary part.
    """
    if issubclass(kind, (Decimal, Complex)) and not issubclass(kind, Real):
        return str
    if hasattr(kind, "__index__"):
        return int
    return float if hasattr(kind, "__float__") else str


def _number_or_text(value: Any) -> AttributeValue:
    """Convert an object with the methods of a number to a number, and any other to text."""
    kind: Any = type(value)
    number_type = _attribute_type(kind)
    if number_type is int:
        return int.__int__(operator.index(value))
    if number_type is float:
        return float.__float__(float(value))
    return str.__str__(str(value))


def key_text(key: object) -> str:
    """Return a key of any type as an exact str."""
    if type(key) is str:
        return key
    if isinstance(key, bytes):  # `b"prompt"` must be redacted like "prompt"
        return key.decode("utf-8", "replace")
    text = _ValueCopier(_MAX_KEY_ELEMENTS).copy(key)
    return text if isinstance(text, str) else str(text)


def _unprintable(value: object) -> str:
    try:
        return f"<unprintable {str.__str__(type(value).__name__)}>"
    except Exception:  # even the class has no name
        return "<unprintable>"


def shorten(value: AttributeValue, max_length: int) -> tuple[AttributeValue, int]:
    """Return `value` with each text cut to `max_length` characters, and the longest text's length.

    The length is 0 if nothing was cut. Bytes are cut like text. Lists and dicts are not changed; if
    anything inside was cut, a new one is returned.
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
    """Return a text cut to `max_bytes` of UTF-8, and its original length in characters.

    The length is 0 if nothing was cut. Values that are not text are returned unchanged.
    """
    if not isinstance(value, str):
        return value, 0
    # Each character takes at least one byte, so the rest of a huge text need not be encoded.
    encoded = value[: max_bytes + 1].encode("utf-8", "surrogatepass")
    if len(encoded) <= max_bytes:
        return value, 0
    return encoded[:max_bytes].decode("utf-8", "ignore"), len(value)


def size_of(value: AttributeValue) -> int:
    """Return the estimated memory of a value and its contents, in bytes.

    Objects that CPython shares, such as small integers, count as 0.
    """
    if value is None or (isinstance(value, int) and 0 <= value <= _MAX_CACHED_INTEGER):
        return 0
    size = sys.getsizeof(value) + ALLOCATION_SIZE
    if isinstance(value, list):
        size += sum(map(size_of, value))
    elif isinstance(value, dict):
        size += sum(size_of(key) + size_of(item) for key, item in value.items())
    return size


def encoded_excess(value: AttributeValue) -> int:
    """Return an upper bound of the bytes by which a value's encoded size exceeds its `size_of`.

    A character of one byte in memory takes up to two in UTF-8, and one of two bytes takes up to
    three. An integer of more than 64 bits is sent as its digits.
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
    """Return a result of `attribute_value` in a form that protobuf accepts.

    Lone surrogates become U+FFFD, and integers of more than 64 bits become text.
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
    """Return attributes in a form that protobuf accepts, as a new dict.

    An attribute's key must not be empty: https://opentelemetry.io/docs/specs/otel/common/#attribute
    """
    return {encodable_text(key) or "<empty>": encodable(v) for key, v in attributes.items()}


def encodable_text(text: str) -> str:
    """Return `text` with each lone surrogate replaced by U+FFFD."""
    if text.isascii():  # fast for any length: CPython stores the answer with the text
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text


def _integer_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more than sys.get_int_max_str_digits(), which does not limit hexadecimal
        return hex(value)
