"""What must not leave is removed here, by field name, before an event is queued.

The catalog says which fields are sensitive, the settings which of those may leave; nothing is
guessed from the text. A built-in sensitive name (`prompt`, `arguments`, `output`) is sensitive in
every event, an application's own in the event that declares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import catalog
from .catalog import EventType, Sensitivity

REDACTED = "[REDACTED]"

_BUILT_IN: dict[str, Sensitivity] = {
    field.name: field.sensitive
    for event in catalog.events()
    for field in event.fields
    if field.sensitive is not None
}


class Redaction:
    """The settings' decision on sensitive fields; immutable."""

    def __init__(self, *, log_user_prompt: bool = False, log_tool_payloads: bool = True) -> None:
        allowed: dict[Sensitivity, bool] = {
            "prompt": log_user_prompt,
            "tool payload": log_tool_payloads,
        }
        self._removed = frozenset(kind for kind in allowed if not allowed[kind])

    def removed_fields(self, event: EventType) -> frozenset[str]:
        """Return the names of the fields whose values must not leave with this event."""
        sensitive = _BUILT_IN | {f.name: f.sensitive for f in event.fields if f.sensitive}
        return frozenset(name for name, kind in sensitive.items() if kind in self._removed)


def redacted(
    fields: Mapping[str, object], removed: Iterable[str], measured: Iterable[str] = ()
) -> dict[str, object]:
    """Return a copy of `fields` in which each one of `removed` is `REDACTED`.

    Beside these, and those of `measured`, stands `<name>_length`: the characters of the text,
    unless the application gave a length of its own.
    """
    result = dict(fields)
    for name in (*removed, *measured):
        text = fields.get(name)
        if issubclass(type(text), str) and result.get(length := f"{name}_length") is None:
            result[length] = str.__len__(text)  # type: ignore[arg-type]
    for name in removed:
        if result.get(name) is not None:
            result[name] = REDACTED
    return result
