"""Cached field layouts: which keys of a record are fields of its event.

The records of one call site nearly always have the same keys. Finding out which of about 28 keys
are fields costs more than everything else that reading a record takes. So the result is cached per
event (`EventPlan`) and per list of keys (`FieldLayout`), and `EventReader.read` has two paths:

- The fast path gets the values of the layout's fields and checks their types, in one pass.
- The slow path (`EventReader._read_slowly`) converts, redacts and shortens any field of any record.

Both paths give the same attributes in the same order. To guarantee that, a record takes the fast
path only if all of these conditions hold:

1. *The event has no computed field, and no setting depends on its values.* `prompt_length` is
   computed, `tool_result.max_bytes` shortens `output`, and `log_sse_deltas = false` depends on
   `event.kind`. Such an event never has a layout. Neither has a structlog event dict, whose fields
   are in `record.msg` and not in the record.
2. *No field is redacted.* Redaction replaces a value and adds its length. Keys that include the
   name of a redacted field have no layout.
3. *All keys are exact strings.* Keys of other types are converted to text first (`key_text`), and
   two of them may become the same text. A subclass of str may hash and compare as it likes: its
   text may be the name of a redacted field although it is not equal to that name. Such keys have no
   layout.
4. *The record has exactly the layout's keys, in the same order.* It is not enough that their number
   is the same and all fields are present: a filter may have removed a standard attribute and added
   a field. The standard attributes do not always come first: a record factory may set its own
   before them. Comparing the whole list is cheap, because most keys are interned and a list
   comparison tests identity first. A subclass of str that equals a key passes the comparison. With
   the same hash, its value is found, and it is the value for that text. With another hash, the
   lookup fails and the record takes the slow path. Only a subclass that claims to equal a different
   text is misread.
5. *`exc_info` is None.* An exception becomes four more attributes.
6. *All values are exact `str`, `int` or `float` objects.* These are immutable, exported unchanged
   and of a known size. A field that is None is omitted, a bool becomes text in some fields, and
   containers are copied. Integers must fit in 64 bits, because larger ones take more memory than
   the estimate.
7. *No text exceeds `max_attribute_length`.* The sum of all sizes, which is computed anyway, must
   not exceed it. A record with many long texts takes the slow path, which measures each text.

Conditions 1 to 3 are checked once, when a layout is made, and 4 to 7 for each record.

For each number of keys, a record is compared with one layout: that of the last such record. If two
call sites alternate with different keys of the same number, `EventPlan.layout_for` looks up the
layout by its keys, which costs one hash of all of them.

Threads share plans and layouts without a lock. Both are complete before they are stored, and a dict
operation with exact strings as keys is atomic. If two threads store a layout at the same time, one
layout is overwritten, and made again when it is needed.
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
"""Keys of a record that are not fields of its event.

The standard attributes are those of a blank record, because Python releases add some (`taskName` in
3.12). A blank record lacks `message` and `asctime`, which a formatter adds.
"""

_MAX_LAYOUTS = 64
"""Maximum number of layouts that are cached per event; others are made for every record."""


class FieldLayout:
    """Says which keys are fields, for all records of an event with exactly these keys.

    `values_in` returns the values of the fields as a tuple. `size` is the memory of such an event
    in bytes, without its values.
    """

    __slots__ = ("field_keys", "record_keys", "size", "values_in")

    def __init__(self, record_keys: list[str], field_keys: Iterable[str]) -> None:
        self.record_keys = record_keys
        # All events with this layout share this tuple. The encoder uses it as part of a dict's key,
        # and interned strings are compared by identity first.
        self.field_keys = tuple(map(sys.intern, field_keys))
        self.values_in = _values_getter(self.field_keys)
        self.size = EVENT_SIZE + sys.getsizeof(self.field_keys)
        self.size += ALLOCATION_SIZE * (1 + len(self.field_keys))


def _values_getter(keys: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return a function that gets the values of `keys` from a record's attributes as a tuple."""
    if len(keys) > 1:
        return itemgetter(*keys)
    # itemgetter of one key returns the bare value, and itemgetter of none does not exist.
    return lambda contents: tuple([contents[key] for key in keys])


class EventPlan:
    """Everything about the events of one type that does not depend on the record.

    `layouts` maps a number of keys to the layout of the last record with that many keys.
    """

    __slots__ = (
        "_always_slow",
        "_layout_by_keys",
        "boolean_strings",
        "layouts",
        "length_fields",
        "omits_text_deltas",
        "redacted_fields",
        "redacted_names",
        "type",
    )

    def __init__(
        self,
        event: catalog.EventType,
        redaction: Redaction,
        *,
        omits_text_deltas: bool,
        always_slow: bool,
    ) -> None:
        self.type = event
        self.omits_text_deltas = omits_text_deltas
        self.redacted_names = redaction.redacted_names(event)
        self.redacted_fields = tuple(f for f in event.fields if f.name in self.redacted_names)
        self.boolean_strings = event.boolean_strings
        self.length_fields = event.length_fields
        self.layouts: dict[int, FieldLayout] = {}
        self._layout_by_keys: dict[tuple[str, ...], FieldLayout | None] = {}
        self._always_slow = always_slow or omits_text_deltas or bool(event.length_fields)

    def layout_for(self, contents: Mapping[Any, Any]) -> FieldLayout | None:
        """Return the layout of a record, or None if the record must take the slow path.

        Records with the same number of keys are compared with this layout from now on.
        """
        if self._always_slow:
            return None
        keys = tuple(contents)
        try:
            layout = self._layout_by_keys[keys]
        except Exception:  # new keys, or a key whose `__hash__` or `__eq__` raises
            layout = self._new_layout(keys)
        if layout is not None:
            self.layouts[len(keys)] = layout
        return layout

    def _new_layout(self, keys: tuple[Any, ...]) -> FieldLayout | None:
        if {*map(type, keys)} != {str}:
            return None  # not cached: a lookup would call `__eq__` of the application's keys
        field_keys = [key for key in keys if key not in NON_FIELD_KEYS]
        layout = None
        if self.redacted_names.isdisjoint(field_keys):
            layout = FieldLayout(list(keys), field_keys)
        if len(self._layout_by_keys) < _MAX_LAYOUTS:
            self._layout_by_keys[keys] = layout
        return layout
