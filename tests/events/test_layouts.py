"""Covers the cached field layouts: the fast path gives the same event as the slow path."""

import copy
import logging
import logging.handlers
import pickle
import queue
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from codex_otel_logging import Conversation
from codex_otel_logging.conversation import RECORD_KEY
from codex_otel_logging.events.event import Event
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction
from support.odd_keys import Incomparable, OddKey, OwnStr
from support.records import record


def test_record_with_keys_in_another_order_keeps_all_fields() -> None:
    """A record factory may set attributes of its own before the standard ones."""
    made = record(extra={"tool_name": "shell"})
    reordered = logging.makeLogRecord({})
    reordered.__dict__.clear()
    reordered.__dict__.update({"request_id": "r-1", **made.__dict__})
    event = EventReader(Redaction()).read(reordered)
    assert event is not None
    assert event.fields == {"request_id": "r-1", "tool_name": "shell"}


def test_records_with_the_same_number_of_other_keys_keep_all_fields() -> None:
    """Whichever record comes first, and even if one of the keys is not a field."""
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


def test_record_without_a_standard_attribute_keeps_all_fields() -> None:
    made = record(extra={"tool_name": "shell", "call_id": "1"})
    del made.stack_info
    event = EventReader(Redaction()).read(made)
    assert event is not None
    assert event.fields == {"tool_name": "shell", "call_id": "1"}


def test_field_that_replaces_a_standard_attribute_is_read() -> None:
    """The number of attributes and the earlier fields are the same as in the record before."""
    reader = EventReader(Redaction())
    assert reader.read(record("codex.turn_ttft", extra={"duration_ms": 1})) is not None
    made = record("codex.turn_ttft", extra={"duration_ms": 2, "added": "kept"})
    del made.stack_info
    event = reader.read(made)
    assert event is not None
    assert event.fields == {"duration_ms": 2, "added": "kept"}


def test_record_with_a_key_that_cannot_be_compared_keeps_all_fields() -> None:
    reader = EventReader(Redaction())
    for name in ("other", "odd", Incomparable("odd")):
        made = record("codex.turn_ttft", extra={"duration_ms": 2})
        made.__dict__[name] = "kept"
        event = reader.read(made)
        assert event is not None
        assert event.fields == {"duration_ms": 2, str.__str__(name): "kept"}


NEEDED = {"name", "msg", "args", "exc_info", "levelno", "levelname", "created"}
"""Attributes without which logging fails, or the record is not an event."""
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
    """Set an attribute as a filter or a record factory does."""

    def change(made: logging.LogRecord) -> logging.LogRecord:
        made.__dict__[key] = value
        return made

    return change


def added_first(key: Any, value: Any) -> Change:
    """Set an attribute before the standard ones, as a record factory may."""

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
    """Replace one key; the number and the order of the attributes stay."""

    def change(made: logging.LogRecord) -> logging.LogRecord:
        contents = {after if key == before else key: v for key, v in made.__dict__.items()}
        made.__dict__.clear()
        made.__dict__.update(contents)
        return made

    return change


def disguised(name: str, kind: type[str]) -> Change:
    """Replace a key by an equal one of a subclass of str."""
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
    """Return the record that the server of a `SocketHandler` makes."""
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
"""Readers that all examples share, so that they have cached the layouts of other records."""


def contents_of(event: Event | None) -> str | None:
    """Return everything that is exported of an event, except for the time at which it was read.

    The repr distinguishes 1, 1.0 and True.
    """
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
def test_fast_path_and_slow_path_give_the_same_attributes(
    event: str, redaction: Redaction, fields: dict[str, Any], changes: list[Change]
) -> None:
    """Whatever filters, factories, formatters, queues and sockets did to the record before."""
    made = record(event, extra={"duration_ms": 1, "a": "text", "b": 2.5})
    made.__dict__.update(fields)
    records = [made]
    for change in changes:
        # A change that raises would raise in the application; the record never reaches a handler.
        with suppress(Exception):
            made = change(copy.copy(made))
            records.append(made)
    slow = EventReader(redaction, max_attribute_length=MAX_LENGTH, max_output_bytes=10_000_000)
    for each in records * 2:
        assert contents_of(WARMED[redaction].read(each)) == contents_of(slow.read(each))
