"""Redacts sensitive fields, by name, before an event is queued.

The catalog says which fields are sensitive, the settings which of those are sent; nothing is
guessed from the text. A name in `catalog.SENSITIVE_FIELDS` is sensitive in every event and at any
depth of its maps and arrays, an application's own in the event that declares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from ..catalog import SENSITIVE_FIELDS, EventType, Sensitivity
from ..values import AttributeValue

REDACTED = "[REDACTED]"

_SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict)


class Redaction:
    """The settings' decision on sensitive fields; immutable. Without arguments, the defaults'."""

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
        self._removed = frozenset(kind for kind in allowed if not allowed[kind])

    def removed_fields(self, event: EventType) -> frozenset[str]:
        """Return the names of the fields whose values must not leave with this event."""
        own = {f.name: f.sensitive for f in event.fields if f.sensitive}
        sensitive = {**SENSITIVE_FIELDS, **own}
        return frozenset(name for name, kind in sensitive.items() if kind in self._removed)


REDACT_ALL = Redaction(log_user_prompt=False, log_tool_payloads=False)
"""Redacts every sensitive field: for what is shown to people, whatever is sent."""


def redacted(
    fields: Mapping[str, object], removed: Iterable[str], length_fields: Iterable[str] = ()
) -> dict[str, object]:
    """Return a copy of `fields` in which each field of `removed` is `REDACTED`.

    `<name>_length` is added for these and for the `length_fields`, unless the application gave
    a length of its own: the characters of a text, the bytes or elements of other values.
    """
    result = dict(fields)
    for name in (*removed, *length_fields):
        length = _length(fields.get(name))
        if length is not None and result.get(key := f"{name}_length") is None:
            result[key] = length
    for name in removed:
        if result.get(name) is not None:
            result[name] = REDACTED
    return result


def redacted_inside(value: AttributeValue, removed: Iterable[str]) -> AttributeValue:
    """Return `value` with its maps redacted, at any depth; the same object where it has none."""
    if isinstance(value, dict):
        inside = {key: redacted_inside(item, removed) for key, item in value.items()}
        return cast("AttributeValue", redacted(inside, removed))
    if isinstance(value, list):
        return [redacted_inside(item, removed) for item in value]
    return value


def _length(value: object) -> int | None:
    """Return how long a value is, without running any code of the application's."""
    kind = next((each for each in _SIZED if issubclass(type(value), each)), None)
    return None if kind is None else kind.__len__(value)  # type: ignore[arg-type]
