"""Redacts sensitive fields by name, before an event is queued.

The catalog defines which fields are sensitive, and the settings define which of these are sent. The
text of a value is never inspected. A name in `catalog.SENSITIVE_FIELDS` is sensitive in every
event, at any depth of maps and arrays. A sensitive field that an application registers is sensitive
in its own event only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from ..catalog import SENSITIVE_FIELDS, EventType, Sensitivity, find
from ..values import AttributeValue

if TYPE_CHECKING:
    from .event import Event

REDACTED = "[REDACTED]"

_NESTED = frozenset({list, dict})
"""The types of attribute values that may hold sensitive fields inside."""

_SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict)


class Redaction:
    """Decides which sensitive fields are redacted; by default, as the settings' defaults say.

    Immutable.
    """

    def __init__(
        self,
        *,
        log_user_prompt: bool = False,
        log_tool_payloads: bool = True,
        log_agent_responses: bool = False,
        log_guardian_assessments: bool = False,
    ) -> None:
        allowed: dict[Sensitivity, bool] = {
            "prompt": log_user_prompt,
            "tool payload": log_tool_payloads,
            "agent response": log_agent_responses,
            "guardian assessment": log_guardian_assessments,
        }
        self._redacted_kinds = frozenset(kind for kind in allowed if not allowed[kind])
        self._names_by_event: dict[str, frozenset[str]] = {}

    def redacted_names(self, event: EventType) -> frozenset[str]:
        """Return the names of the fields that are redacted in this event."""
        # The event's own declaration overrides that of another event.
        own = {f.name: f.sensitive for f in event.fields if f.sensitive}
        sensitive = {**SENSITIVE_FIELDS, **own}
        return frozenset(name for name, kind in sensitive.items() if kind in self._redacted_kinds)

    def redact_again(self, event: Event) -> None:
        """Redact an event that another process has logged, perhaps with other settings.

        A field that is redacted already keeps its `_length`.
        """
        names = self._names_by_event.get(event.type.name)
        if names is None:
            names = self._names_by_event[event.type.name] = self.redacted_names(event.type)
        if names.isdisjoint(event.keys) and _NESTED.isdisjoint(map(type, event.values)):
            return
        fields = _redacted_again(event.fields, names)
        event.keys = tuple(fields)
        event.values = cast("tuple[AttributeValue, ...]", tuple(fields.values()))


_REDACT_ALL = Redaction(log_tool_payloads=False)


def sensitive_names(event_name: str) -> frozenset[str]:
    """Return the names of the sensitive fields of an event, whether or not it is in the catalog.

    For the reprs of events, which appear in test reports, where no setting applies.
    """
    return _REDACT_ALL.redacted_names(find(event_name) or EventType(event_name))


def redacted(
    fields: Mapping[str, object], names: Iterable[str], length_fields: Iterable[str] = ()
) -> dict[str, object]:
    """Return a copy of `fields` with `REDACTED` in place of the values of `names`.

    Adds `<name>_length` for these and for the `length_fields`, unless the application logged it:
    the number of characters of a text, else the number of bytes or elements.
    """
    # All lengths are taken before the values are replaced. None counts as absent, as everywhere.
    result = dict(fields)
    for name in (*names, *length_fields):
        length = _length(fields.get(name))
        if length is not None and result.get(key := f"{name}_length") is None:
            result[key] = length
    for name in names:
        if result.get(name) is not None:
            result[name] = REDACTED
    return result


def redacted_inside(value: AttributeValue, names: Iterable[str]) -> AttributeValue:
    """Return `value` with every map inside it redacted, at any depth."""
    if isinstance(value, dict):
        inside = {key: redacted_inside(item, names) for key, item in value.items()}
        return cast("AttributeValue", redacted(inside, names))
    if isinstance(value, list):
        return [redacted_inside(item, names) for item in value]
    return value


def _redacted_again(
    fields: Mapping[str, AttributeValue], names: frozenset[str]
) -> dict[str, AttributeValue]:
    """Return a copy of `fields`, redacted at any depth."""
    # Without the fields that are redacted already: the length would be that of the replacement.
    inside = {key: redacted_again_inside(value, names) for key, value in fields.items()}
    found = redacted(inside, [key for key in inside if key in names and inside[key] != REDACTED])
    return cast("dict[str, AttributeValue]", found)


def redacted_again_inside(value: AttributeValue, names: frozenset[str]) -> AttributeValue:
    """Return what `redacted_inside` does; a field that is redacted already keeps its `_length`."""
    if isinstance(value, dict):
        return cast("AttributeValue", _redacted_again(value, names))
    if isinstance(value, list):
        return [redacted_again_inside(item, names) for item in value]
    return value


def _length(value: object) -> int | None:
    """Return the length of a value, or None if it has none.

    Calls the built-in type's own `__len__`: a subclass of the application could raise or block.
    """
    kind = next((each for each in _SIZED if issubclass(type(value), each)), None)
    return None if kind is None else kind.__len__(value)  # type: ignore[arg-type]
