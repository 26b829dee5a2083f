"""One event as a record of a segment, and back.

A record is one line of JSON behind its CRC-32, with a line feed before and after it:

    9f3a0c11 {"number":7,"created":...,"values":["shell","ls"],"keys":["tool_name","arguments"],...}

The line feed before a record separates it from one that was only partly written; the one after it
shows that it is complete. What differs between events comes first, up to the values. The rest is
the shared part: it is the same for all events of a conversation with the same fields, and is
encoded once.

JSON cannot represent some values. They become objects with one key: `bytes`, `text` (with lone
surrogates) and `int` (beyond 64 bits) hold hexadecimal digits, `float` (infinities and NaN) those
of an IEEE 754 double, and `map` holds a list of pairs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from zlib import crc32

from ...catalog import EventType
from ...catalog import find as find_event_type
from ...conversation import Conversation
from ...events.event import Event
from ...values import IMMUTABLE_TYPES, MAX_INT64, MIN_INT64, AttributeValue, key_text

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_MAX_SHARED = 1024
"""The maximum number of shared parts in a cache; a full cache is cleared."""

_BEGINS = b'{"number":'
_SHARED_BEGINS = b',"keys":['

MALFORMED = (
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What decoding raises for a record of an unknown form, whose checksum matches."""

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class Span(NamedTuple):
    """The part of a span context that an event carries."""

    trace_id: int
    span_id: int
    trace_flags: int


class RecordEncoder:
    """Encodes events as records. May be used by any thread."""

    def __init__(self) -> None:
        # The key contains the id of a conversation. The entry keeps the conversation alive, so that
        # no other one can get the same id.
        self._shared: dict[tuple[object, ...], tuple[str, Conversation | None]] = {}

    def encode(self, number: int, event: Event) -> bytes:
        """Return the record of an event, whatever its values are."""
        # This runs on the application thread in every logging call. It is one function, because
        # each call would add about 1 %.
        end = None
        try:
            if type(event.levelno) is not int or type(event.levelname) is not str:
                raise TypeError("20.0 equals 20 as a key, but their severities differ")
            key = (
                event.keys,
                event.type.name,
                id(event.conversation),
                event.logger_name,
                event.levelno,
                event.levelname,
            )
            end = (self._shared.get(key) or self._add_shared(key, event))[0]
            created, span = event.created, event.span_context
            span_text = "null" if span is None else _span_text(span)
            values = ",".join([_SPELLINGS[type(value)](value) for value in event.values])
            line = (
                f'{{"number":{number},"created":{_SPELLINGS[type(created)](created)},'
                f'"observed_ns":{event.observed_ns},"span":{span_text},"values":[{values}]{end}'
            ).encode()
        except Exception:
            # A value that JSON cannot represent, a lone surrogate, or an attribute of a LogRecord
            # that was replaced. If this raised, it would count as a disk failure.
            values = _json([_spelled(value) for value in event.values])
            line = (
                f'{{"number":{number},"created":{_created_text(event)},'
                f'"observed_ns":{event.observed_ns},"span":{_odd_span_text(event.span_context)},'
                f'"values":{values}{end or _shared_text(event)}'
            ).encode()
        return b"\n%08x %b\n" % (crc32(line), line)

    def _add_shared(self, key: tuple[object, ...], event: Event) -> tuple[str, Conversation | None]:
        shared = (_shared_text(event), event.conversation)
        if len(self._shared) >= _MAX_SHARED:
            self._shared.clear()
        self._shared[key] = shared
        return shared


class _Shared(NamedTuple):
    """The decoded shared part of a record; records with the same one share the object."""

    type: EventType
    keys: tuple[str, ...]
    logger_name: str
    levelno: int
    levelname: str
    conversation: Conversation | None


class RecordDecoder:
    """Decodes the records of one segment. Not thread-safe.

    Events with the same conversation and fields share objects, as when they were logged: the
    encoder of requests caches templates by their identity.
    """

    def __init__(self) -> None:
        self._shared: dict[bytes, _Shared] = {}

    def decode(self, line: bytes) -> tuple[int, Event] | None:
        """Return the number and the event of a record without its line feeds.

        None if it is damaged, or of a form that this release does not know.
        """
        if (content := checked(line)) is None:
            return None
        try:
            # No value contains this text: inside a JSON string, quotation marks are escaped.
            place = content.index(_SHARED_BEGINS)
            found = json.loads(content[:place] + b"}")
            shared = self._shared_of(content[place:])
            event = Event()
            event.type = shared.type
            event.keys = shared.keys
            event.values = tuple(
                [
                    value if type(value) in IMMUTABLE_TYPES else _value(value)
                    for value in found["values"]
                ]
            )
            event.conversation = shared.conversation
            event.logger_name = shared.logger_name
            event.levelno = shared.levelno
            event.levelname = shared.levelname
            event.created = found["created"]
            event.observed_ns = found["observed_ns"]
            span = found["span"]
            event.span_context = None if span is None else cast("SpanContext", Span(*span))
            event.size = len(content)
            event.pathname, event.lineno = "", 0
            number = number_of(content)
            is_complete = number is not None and len(event.keys) == len(event.values)
            return (cast("int", number), event) if is_complete else None
        except MALFORMED:
            return None

    def _shared_of(self, end: bytes) -> _Shared:
        shared = self._shared.get(end)
        if shared is None:
            found = json.loads(b"{" + end[1:])
            shared = _Shared(
                _event_type(_text(found["event"])),
                tuple(_text(key) for key in found["keys"]),
                _text(found["logger"]),
                found["level"],
                _value(found["levelname"]),
                _conversation(found["conversation"]),
            )
            if len(self._shared) >= _MAX_SHARED:
                self._shared.clear()
            self._shared[end] = shared
        return shared


def checked(line: bytes) -> bytes | None:
    """Return what follows the checksum of a line, or None if the checksum does not match."""
    content = line[9:]
    return content if line[:9] == b"%08x " % crc32(content) else None


def number_of(content: bytes) -> int | None:
    """Return the number of a record from its beginning, after the checksum; None if it has none.

    For a record whose checksum matches; decodes nothing else. Numbers are less than 2 ** 64.
    """
    try:
        number = int(content[len(_BEGINS) : content.index(b",")])
    except ValueError:
        return None
    return number if content.startswith(_BEGINS) and 0 <= number < 1 << 64 else None


def spelled_json(value: Mapping[str, Any]) -> str:
    """Return attributes as JSON, represented as in records."""
    return _json(_spelled(value))


def attributes_of(value: object) -> dict[str, Any]:
    """Return the attributes from parsed JSON that `spelled_json` has written."""
    found = _value(value)
    if not isinstance(found, dict):
        raise TypeError("not a map")
    return found


def _float_text(value: float) -> str:
    if not isfinite(value):
        raise ValueError("JSON has no such number")
    return repr(value)


_SPELLINGS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring,
    int: int.__repr__,
    float: _float_text,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
}
"""The JSON encoders of the usual types. Calling them is faster than encoding one list."""


def _spelled(value: Any) -> Any:
    """Return a value with objects in place of the parts that JSON cannot represent."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        # The methods of the built-in type, because those of an application's subclass may raise.
        try:
            str.encode(value)
        except UnicodeEncodeError:
            return {"text": str.encode(value, "utf-8", "surrogatepass").hex()}
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if MIN_INT64 <= value <= MAX_INT64 else {"int": hex(value)}
    if isinstance(value, float):
        return value if isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, Mapping):
        return {"map": [[_spelled(key), _spelled(item)] for key, item in value.items()]}
    if isinstance(value, Iterable):
        return [_spelled(item) for item in value]
    return _spelled(str(value))


def _value(spelled: Any) -> Any:
    """Return the value from the result of `_spelled`."""
    if isinstance(spelled, list):
        return [_value(item) for item in spelled]
    if not isinstance(spelled, dict):
        return spelled
    ((kind, content),) = spelled.items()
    return _SPECIAL[kind](content)


def _text(spelled: Any) -> str:
    """Return the text from the result of `_spelled`."""
    text = _value(spelled)
    if not isinstance(text, str):
        raise TypeError("not a text")
    return text


_SPECIAL: dict[str, Callable[[Any], AttributeValue]] = {
    "text": lambda content: bytes.fromhex(content).decode("utf-8", "surrogatepass"),
    "int": lambda content: int(content, 16),
    "float": lambda content: cast("float", struct.unpack(">d", bytes.fromhex(content))[0]),
    "bytes": bytes.fromhex,
    "map": lambda content: {_value(key): _value(item) for key, item in content},
}


def _span_text(span: SpanContext) -> str:
    return f"[{int(span.trace_id)},{int(span.span_id)},{int(span.trace_flags)}]"


def _odd_span_text(span: SpanContext | None) -> str:
    try:
        return "null" if span is None else _span_text(span)
    except Exception:  # a span of another implementation of the API
        return "null"


def _created_text(event: Event) -> str:
    """Return a `created` with which the decoded event has the same `time_ns`; or null."""
    created: Any = event.created
    try:
        if issubclass(type(created), float) and isfinite(created):
            return float.__repr__(created)
        if issubclass(type(created), int) and MIN_INT64 <= created <= MAX_INT64:
            return int.__repr__(created)
        # If `time_ns` is the time of the call, null keeps it exact; a float would round it.
        time_ns = event.time_ns
        return "null" if time_ns == event.observed_ns else repr(time_ns / 1e9)
    except Exception:  # a method of an application's object raised
        return "null"


def _level(levelno: Any) -> int:
    """Return a level with the same severity. Only integers have one; so does True."""
    is_integer = issubclass(type(levelno), int)
    return max(min(int.__int__(levelno), MAX_INT64), -1) if is_integer else 0


def _level_name(levelname: Any) -> str | bytes:
    """Return a level name that is sent as the same text."""
    try:
        name = key_text(levelname)
        # The text "WARNING" is sent as "WARN", but b"WARNING" and the like are sent unchanged.
        return name if name != "WARNING" or levelname == name else name.encode()
    except Exception:  # even asking for its class raises
        return ""


def _shared_text(event: Event) -> str:
    """Return the shared part of an event's record."""
    conversation = event.conversation
    attributes = None if conversation is None else _spelled(conversation.attributes)
    shared = {
        "keys": _spelled(event.keys),
        "event": _spelled(event.type.name),
        "logger": _spelled(event.logger_name),
        "level": _level(event.levelno),
        "levelname": _spelled(_level_name(event.levelname)),
        "conversation": attributes,
    }
    return f",{_json(shared)[1:]}"


def _event_type(name: str) -> EventType:
    return find_event_type(name) or EventType(name)


def _conversation(spelled: Any) -> Conversation | None:
    """Return a conversation with these attributes. An export uses no other fields of it."""
    if spelled is None:
        return None
    conversation = Conversation("", "")
    conversation.attributes.clear()
    conversation.attributes.update(attributes_of(spelled))
    return conversation
