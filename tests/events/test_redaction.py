"""Covers redaction: which fields the settings redact, their lengths, and values inside maps."""

import pytest

from codex_otel_logging import catalog
from codex_otel_logging.catalog import EventType, Field
from codex_otel_logging.events.redaction import (
    REDACTED,
    Redaction,
    redacted,
    redacted_inside,
    sensitive_names,
)
from codex_otel_logging.values import AttributeValue

OWN = EventType("myapp.plan", "", (Field("plan", sensitive="prompt"), Field("steps", "integer")))


def event(name: str) -> EventType:
    found = catalog.find(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("log_user_prompt", "log_tool_payloads", "removed"),
    [
        (False, True, {"prompt"}),
        (True, True, set()),
        (False, False, {"prompt", "arguments", "output"}),
        (True, False, {"arguments", "output"}),
    ],
)
@pytest.mark.parametrize("name", ["codex.user_prompt", "codex.tool_result", "codex.turn_ttft"])
def test_settings_decide_which_fields_are_redacted_in_every_event(
    log_user_prompt: bool, log_tool_payloads: bool, removed: set[str], name: str
) -> None:
    """A sensitive name is sensitive even in events that do not declare it."""
    redaction = Redaction(log_user_prompt=log_user_prompt, log_tool_payloads=log_tool_payloads)
    always = {"response", "rationale"}
    assert redaction.redacted_names(event(name)) == removed | always


def test_registered_sensitive_field_is_redacted_in_its_own_event_only() -> None:
    assert Redaction().redacted_names(OWN) == {"prompt", "response", "rationale", "plan"}
    assert "plan" not in Redaction().redacted_names(event("codex.user_prompt"))
    assert Redaction(log_user_prompt=True).redacted_names(OWN) == {"response", "rationale"}


def test_every_sensitive_field_of_the_catalog_can_be_redacted() -> None:
    for each in catalog.events():
        sensitive = {field.name for field in each.fields if field.sensitive}
        assert sensitive <= sensitive_names(each.name)


def test_redacted_returns_a_copy_with_lengths() -> None:
    fields: dict[str, object] = {"prompt": "naïve ☕", "other": 1}
    assert redacted(fields, ["prompt"]) == {"prompt": REDACTED, "other": 1, "prompt_length": 7}
    assert fields == {"prompt": "naïve ☕", "other": 1}


def test_length_field_keeps_its_text() -> None:
    assert redacted({"prompt": "abc"}, [], ["prompt"]) == {"prompt": "abc", "prompt_length": 3}


def test_logged_length_overrides_the_computed_one() -> None:
    assert redacted({"prompt": "abc", "prompt_length": 9}, ["prompt"])["prompt_length"] == 9


@pytest.mark.parametrize(
    ("value", "length"),
    [(["a", "secret"], 2), ({"text": "secret"}, 1), (b"secret", 6), (bytearray(3), 3), ((1,), 1)],
)
def test_sensitive_value_of_any_type_is_redacted_with_its_length(
    value: object, length: int
) -> None:
    expected = {"prompt": REDACTED, "prompt_length": length}
    assert redacted({"prompt": value}, ["prompt"]) == expected


@pytest.mark.parametrize("value", [5, 1.5, True, object()])
def test_sensitive_value_without_length_is_redacted(value: object) -> None:
    assert redacted({"prompt": value}, ["prompt"]) == {"prompt": REDACTED}


def test_maps_are_redacted_at_any_depth() -> None:
    inner: dict[str, AttributeValue] = {"prompt": "abc", "kept": 1, "arguments": [1, 2]}
    value: AttributeValue = [{"a": [inner]}, "prompt", {"prompt": None}]
    shown: AttributeValue = {
        "prompt": REDACTED,
        "prompt_length": 3,
        "kept": 1,
        "arguments": REDACTED,
        "arguments_length": 2,
    }
    removed = ["prompt", "arguments"]
    assert redacted_inside(value, removed) == [{"a": [shown]}, "prompt", {"prompt": None}]
    assert inner == {"prompt": "abc", "kept": 1, "arguments": [1, 2]}


def test_redaction_adds_no_field() -> None:
    assert redacted({"a": 1}, ["prompt"], ["prompt"]) == {"a": 1}
    assert redacted({"prompt": None}, ["prompt"]) == {"prompt": None}
