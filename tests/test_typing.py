"""Covers the `TypedDict`s: they match the catalog. mypy checks `typing_examples`."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any, Literal, get_type_hints, is_typeddict

import pytest

from codex_otel_logging import catalog
from codex_otel_logging import typing as event_types
from codex_otel_logging.catalog import COMMON_FIELDS, EventType, Field
from support.fixtures import RunPython

EVENTS = tuple(catalog.events())
TYPES: dict[str, Any] = {"integer": int, "number": float}


def class_name(event: EventType) -> str:
    return event.name.removeprefix("codex.").title().replace("_", "")


def is_required(field: Field) -> bool:
    return field.presence == "always" and not field.computed and field not in COMMON_FIELDS


def python_type(field: Field) -> Any:
    """Return the Python type that the handler accepts for a field."""
    if field.type == "boolean string":
        taken: Any = bool | Literal[field.choices]
    elif field.choices:
        taken = Literal[field.choices]
    else:
        taken = TYPES.get(field.type, str)
    if field.name.endswith("_ms"):
        taken = taken | timedelta
    return taken if is_required(field) else taken | None


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_typed_dict_matches_the_catalog(event: EventType) -> None:
    fields_of_event = getattr(event_types, class_name(event))
    expected = COMMON_FIELDS + event.fields
    assert get_type_hints(fields_of_event) == {f.name: python_type(f) for f in expected}
    assert fields_of_event.__required_keys__ == {f.name for f in expected if is_required(f)}
    documentation = inspect.getdoc(fields_of_event) or ""
    assert documentation.startswith(f"`{event.name}`: {event.description}")


def test_every_typed_dict_belongs_to_an_event() -> None:
    found = {
        name
        for name, value in vars(event_types).items()
        if is_typeddict(value) and not name.startswith("_")
    }
    assert found == {"CommonFields"} | {class_name(event) for event in EVENTS}


def test_typing_module_imports_nothing_and_is_imported_by_nothing(run_python: RunPython) -> None:
    program = """
import sys
def ours():
    return sorted(name for name in sys.modules if name.startswith("codex_otel_logging."))
import codex_otel_logging.typing
print(ours())
del sys.modules["codex_otel_logging.typing"]
from codex_otel_logging import *
import codex_otel_logging.pytest_plugin, codex_otel_logging.testing
print("codex_otel_logging.typing" in ours(), "codex_otel_logging.handler" in ours())
"""
    assert run_python(program).stdout == "['codex_otel_logging.typing']\nFalse True\n"
