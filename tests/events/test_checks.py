"""Checks of events: the shortcut for events without a fault hides none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from codex_otel_logging import catalog
from codex_otel_logging.catalog import EventType, Field
from codex_otel_logging.events.checks import EventChecks
from codex_otel_logging.events.event import Event

TYPES = [
    *catalog.events(),
    EventType(
        "app.everything",
        fields=(
            Field("event.kind", presence="when available"),
            Field("count", "integer", "on completion"),
            Field("length", "integer", computed=True),
            Field("choice", "integer", choices=("1", "2")),
            Field("time", "timestamp"),
        ),
    ),
    EventType("app.nothing"),
]
VALUES: tuple[Any, ...] = (
    *("", "true", "false", "yes", "approved", "user", catalog.COMPLETED, catalog.TEXT_DELTA),
    *(0, 1, 2, 1.5, True, None, b"", [], {}, ["true"]),
)


def event(kind: EventType, fields: dict[str, Any]) -> Event:
    made = Event()
    made.type, made.logger_name, made.conversation = kind, "codex_otel", None
    made.keys, made.values = tuple(fields), tuple(fields.values())
    made.pathname, made.lineno = "app.py", 1
    return made


def valid_fields(kind: EventType) -> dict[str, Any]:
    examples = {"string": "x", "integer": 1, "number": 1.5, "timestamp": "x"}
    return {f.name: f.choices[0] if f.choices else examples[f.type] for f in kind.fields}


def events_like(valid: dict[str, Any], kind: EventType) -> Iterator[Event]:
    """Yield events that lack at most one field and have at most one other value."""
    for missing in [None, *valid]:
        fields = {key: value for key, value in valid.items() if key != missing}
        yield event(kind, fields)
        for changed, value in product(fields, VALUES):
            yield event(kind, {**fields, changed: value})


class Recorded(EventChecks):
    def __init__(self) -> None:
        super().__init__()
        self.faults: list[tuple[str, str]] = []

    def field(self, event: str, field: str, fault: str, logged: Event | logging.LogRecord) -> None:
        self.faults.append((field, fault))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_check_reports_the_faults_of_every_event(kind: EventType) -> None:
    checks = Recorded()
    for each in events_like({**valid_fields(kind), "unknown": 1}, kind):
        checks.faults.clear()
        checks.check(each)
        assert checks.faults == list(catalog.field_faults(kind, each.fields)), each.fields


@pytest.mark.parametrize("kind", [*catalog.events()], ids=lambda kind: kind.name)
def test_event_without_a_fault_takes_the_shortcut(
    kind: EventType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for faults takes a quarter of the worker's time for an event."""
    computed = {f.name for f in kind.fields if f.computed}
    fields = {key: value for key, value in valid_fields(kind).items() if key not in computed}
    monkeypatch.setattr(catalog, "field_faults", None)
    EventChecks().check(event(kind, {**fields, "unknown": [1]}))


def test_expectations_are_cached_up_to_a_limit() -> None:
    checks = EventChecks()
    for number in range(3000):
        checks.check(event(EventType("app.nothing"), {f"key{number}": 1}))
    assert 1000 < len(checks._expectations) < 3000
