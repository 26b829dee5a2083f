"""`codex-otel-logging catalog`: tables on a terminal, Markdown in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys

from .. import catalog
from ..catalog import EventType
from ..text import nearest
from .console import Console, console

SHOWN, UNKNOWN = 0, 2
"""Exit statuses."""


def run(name: str | None = None, *, as_json: bool = False, as_markdown: bool = False) -> int:
    """Print all events, or only the named one, and return the exit status."""
    events = list(catalog.events())
    if name is not None:
        events = [event for event in events if event.name == name]
        if not events:
            hint = nearest(name, [event.name for event in catalog.events()])
            print(f"unknown event {name!r}{hint}", file=sys.stderr)
            return UNKNOWN
    if as_json:
        _print_json(events)
    elif as_markdown or (out := console()).width is None:
        print(catalog.markdown(name), end="")
    else:
        if name is None:
            common = "Present on every event."
            events.insert(0, EventType("common fields", common, catalog.COMMON_FIELDS))
        _print_tables(out, events)
    return SHOWN


def _print_json(events: list[EventType]) -> None:
    document = {
        "common": [field._asdict() for field in catalog.COMMON_FIELDS],
        "events": [
            {**event._asdict(), "fields": [field._asdict() for field in event.fields]}
            for event in events
        ],
    }
    print(json.dumps(document, indent=2))


def _print_tables(out: Console, events: list[EventType]) -> None:
    for event in events:
        out.line(event.name, "bold cyan")
        out.line(event.description)
        rows = [
            (f.name, " / ".join(f.choices) or f.type, f.presence, catalog.meaning(f))
            for f in event.fields
        ]
        out.table(("field", "type", "present", "meaning"), rows)
        out.line()
