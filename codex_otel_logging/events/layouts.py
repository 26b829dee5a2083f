"""Cached field layouts: which keys of a record are fields of its event.

Records of one call site nearly always hold the same keys, and finding out which of about 28 keys
are fields costs more than all the rest of reading a record. So the answer is cached, per event
(`EventPlan`) and per list of keys (`FieldLayout`), and `EventReader.read` has two paths:

- The fast path takes the values of a layout's keys and checks their types, in one pass.
- The slow path (`EventReader._read_slowly`) converts, redacts and shortens any field of any record.

Both give the same attributes, in the same order, for every record that can take the fast path. That
holds because a record takes it only under all of these conditions:

1. *The event needs no computed field, and no setting looks at its values.* `prompt_length` is
   computed, `tool_result.max_bytes` shortens `output`, `log_sse_deltas = false` depends on
   `event.kind`. These are known per event, so such an event never has a layout. Neither has an
   event from a structlog event dict: its fields are in `record.msg`, not in the record.
2. *No field is redacted.* Redaction replaces the value and adds its length, so keys with one of the
   names that the settings redact have no layout.
3. *All keys are exact strings.* A key of another type has to be converted first (`key_text`), and
   two such keys may become one. A str subclass can hash and compare as it likes; its text may be
   the name of a redacted field without being equal to it. Such keys have no layout.
4. *The record has the layout's keys, all of them, in the same order.* The number of keys and the
   presence of all fields are not enough: a filter may have removed a standard attribute and added a
   field. Nor do the standard attributes always come first: a record factory may set its own before
   them. Comparing the whole list is the cheap check: most keys are interned, and a list comparison
   tests identity first. A str subclass that equals a key passes, too. That is harmless: its value
   is found and belongs to the same text, or, where it has another hash, is not found and the record
   takes the slow path. (A subclass whose `__eq__` calls different texts equal is believed.)
5. *`exc_info` is None.* An exception becomes four more attributes.
6. *The values are exact `str`, `int` and `float` objects*, as only those are immutable, are sent as
   they are, and have a known size. None means "left out"; bools become text for some fields;
   containers are copied; bytes are rare. Integers must fit into 64 bits, as others are estimated to
   take more memory.
7. *No text exceeds `max_attribute_length`.* Checked by the sum of all sizes, which costs nothing
   more; a record of many long texts takes the slow path, which measures each.

1 to 3 are checked once, when a layout is made; 4 to 7 for each record.

Of all the layouts with a certain number of keys only the last one is compared with a record. Call
sites with as many but other keys replace each other's, and then `EventPlan.layout_for` finds theirs
among those known, which costs one hash of all keys.

Threads share plans and layouts without a lock: both are complete before they are stored, a dict
operation on exact strings is atomic, and a lost update only means that a layout is made twice.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

from .. import catalog
from ..conversation import RECORD_KEY
from ..values import ALLOCATION_SIZE
from .event import EVENT_SIZE
from .redaction import Redaction

NON_FIELD_KEYS = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "event.name", RECORD_KEY}
)
"""Keys of a record that are not fields of its event; a formatter adds `message` and `asctime`."""

_MAX_LAYOUTS = 64
"""The maximum number of lists of keys that are remembered per event; more are worked out anew."""


class FieldLayout:
    """Which of a record's keys are fields of its event, for records with exactly these keys.

    `size` is the bytes of memory of such an event without its values.
    """

    __slots__ = ("field_keys", "record_keys", "size", "values_in")

    def __init__(self, record_keys: list[str], field_keys: Iterable[str]) -> None:
        self.record_keys = record_keys
        self.field_keys = tuple(map(sys.intern, field_keys))
        self.values_in = _getter(self.field_keys)
        self.size = EVENT_SIZE + sys.getsizeof(self.field_keys)
        self.size += ALLOCATION_SIZE * (1 + len(self.field_keys))


def _getter(keys: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return a function that gets the values of `keys`, always as a tuple."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda contents: tuple([contents[key] for key in keys])


class EventPlan:
    """What an event's type and the settings decide once for all events of that type.

    `layouts` holds, for each number of keys, the layout of the last record with that many.
    """

    __slots__ = (
        "_all_slow",
        "_known",
        "boolean_strings",
        "layouts",
        "length_fields",
        "omits_text_deltas",
        "redacted_fields",
        "removed",
        "type",
    )

    def __init__(
        self,
        event: catalog.EventType,
        redaction: Redaction,
        *,
        omits_text_deltas: bool,
        all_slow: bool,
    ) -> None:
        self.type = event
        self.omits_text_deltas = omits_text_deltas
        self.removed = redaction.removed_fields(event)
        self.redacted_fields = tuple(f for f in event.fields if f.name in self.removed)
        self.boolean_strings = event.boolean_strings
        self.length_fields = event.length_fields
        self.layouts: dict[int, FieldLayout] = {}
        self._known: dict[tuple[str, ...], FieldLayout | None] = {}
        self._all_slow = all_slow or omits_text_deltas or bool(event.length_fields)

    def layout_for(self, contents: Mapping[Any, Any]) -> FieldLayout | None:
        """Return the layout of a record with these attributes; None if it must take the slow path.

        Records with as many keys are compared with it from now on.
        """
        if self._all_slow:
            return None
        keys = tuple(contents)
        try:
            layout = self._known[keys]
        except Exception:  # unknown keys, or one that cannot be compared
            layout = self._new_layout(keys)
        if layout is not None:
            self.layouts[len(keys)] = layout
        return layout

    def _new_layout(self, keys: tuple[Any, ...]) -> FieldLayout | None:
        if {*map(type, keys)} != {str}:
            return None  # and not remembered, so that all known keys are exact strings
        field_keys = [key for key in keys if key not in NON_FIELD_KEYS]
        layout = None
        if self.removed.isdisjoint(field_keys):
            layout = FieldLayout(list(keys), field_keys)
        if len(self._known) < _MAX_LAYOUTS:
            self._known[keys] = layout
        return layout
