"""Covers the event catalog: built-in events, `problems`, and `register`."""

import json
from datetime import timedelta
from typing import Any

import pytest

from codex_otel_logging import catalog
from codex_otel_logging.catalog import EventType, Field
from support.paths import DATA

SOURCE_EVENTS = {
    "codex.api_request": [
        "cf_ray",
        "attempt",
        "duration_ms",
        "http.response.status_code",
        "error.message",
    ],
    "codex.sse_event": [
        "event.kind",
        "duration_ms",
        "error.message",
        "input_token_count",
        "output_token_count",
        "cached_token_count",
        "reasoning_token_count",
        "tool_token_count",
    ],
    "codex.user_prompt": ["prompt_length", "prompt"],
    "codex.tool_decision": ["tool_name", "call_id", "decision", "source"],
    "codex.tool_result": [
        "tool_name",
        "call_id",
        "arguments",
        "duration_ms",
        "success",
        "output",
    ],
}


@pytest.fixture
def own_event(own_catalog: None) -> EventType:
    """An application's own event, registered for one test."""
    event = EventType("myapp.asked", "", (Field("steps", "integer"), Field("plan")))
    catalog.register(event)
    return event


@pytest.mark.parametrize("name", SOURCE_EVENTS)
def test_original_events_have_exactly_their_fields(name: str) -> None:
    event = catalog.find(name)
    assert event is not None
    assert [field.name for field in event.fields] == SOURCE_EVENTS[name]


def test_catalog_has_the_events_of_newer_codex_releases() -> None:
    names = [event.name for event in catalog.events()]
    for name in ("codex.conversation_starts", "codex.turn_ttft", "codex.startup_phase"):
        assert name in names


def test_common_fields_have_their_presence() -> None:
    assert {f.name: f.presence for f in catalog.COMMON_FIELDS} == {
        "event.name": "always",
        "event.timestamp": "always",
        "conversation.id": "always",
        "app.version": "always",
        "auth_mode": "when available",
        "user.account_id": "when available",
        "terminal.type": "always",
        "model": "always",
        "slug": "always",
    }


def test_valid_event_has_no_problems() -> None:
    """Values are converted as for export before they are checked."""
    fields = {
        "tool_name": "shell",
        "call_id": "1",
        "arguments": "{}",
        "duration_ms": timedelta(seconds=1),
        "success": True,
        "output": "",
    }
    assert catalog.problems("codex.tool_result", fields) == []


def test_problems_name_event_field_and_fault_but_no_value() -> None:
    fields = {"tool_name": 7, "decision": "denied", "source": "secret"}
    assert catalog.problems("codex.tool_decision", fields) == [
        "codex.tool_decision: tool_name: expected a string, got int",
        "codex.tool_decision: call_id: missing; expected a string",
        "codex.tool_decision: source: "
        "expected one of 'config', 'user', 'Config', 'User', 'AutomatedReviewer'",
    ]


@pytest.mark.parametrize(
    ("fields", "faulty"),
    [
        ({"event.kind": "response.created", "duration_ms": 1}, []),
        (
            {"event.kind": "response.completed", "duration_ms": 1},
            ["input_token_count", "output_token_count", "tool_token_count"],
        ),
        ({"event.kind": "response.created", "duration_ms": True}, ["duration_ms"]),
        ({"event.kind": "response.created", "duration_ms": "1"}, ["duration_ms"]),
    ],
)
def test_presence_decides_which_fields_may_be_missing(
    fields: dict[str, object], faulty: list[str]
) -> None:
    found = catalog.problems("codex.sse_event", fields)
    assert [line.split(": ")[1] for line in found] == faulty


def test_computed_length_may_be_missing() -> None:
    assert catalog.problems("codex.user_prompt", {"prompt": "hello"}) == []


@pytest.mark.parametrize("version", ["0.44.0", "0.169.0"])
def test_decisions_of_the_codex_cli_are_valid(version: str) -> None:
    document = json.loads((DATA / f"codex-{version}.json").read_bytes())
    records = [
        {pair["key"]: next(iter(pair["value"].values())) for pair in record["attributes"]}
        for resource in document["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]
    decisions = [each for each in records if each.get("event.name") == "codex.tool_decision"]
    assert decisions
    for fields in decisions:
        assert catalog.problems("codex.tool_decision", fields) == []


def test_unknown_event_is_a_problem() -> None:
    assert catalog.problems("codex.nothing", {}) == ["codex.nothing: unknown event"]


def test_registered_event_is_found_and_checked(own_event: EventType) -> None:
    assert catalog.find("myapp.asked") is own_event
    assert list(catalog.events())[-1] is own_event
    assert catalog.problems("myapp.asked", {"plan": "p"}) == [
        "myapp.asked: steps: missing; expected an integer"
    ]


def test_registering_a_taken_name_raises_unless_the_events_are_equal(own_event: EventType) -> None:
    catalog.register(EventType("myapp.asked", "", own_event.fields))
    with pytest.raises(ValueError, match=r"'myapp.asked' is already in the catalog"):
        catalog.register(EventType("myapp.asked"))
    with pytest.raises(ValueError, match=r"'codex.tool_result' is already in the catalog"):
        catalog.register(EventType("codex.tool_result"))
    with pytest.raises(ValueError, match="must not be empty"):
        catalog.register(EventType(""))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ((Field("plan", sensitive=True),), "field 'plan': sensitive must be one of None, 'prompt'"),  # type: ignore[arg-type]
        ((Field("plan", sensitive="prompts"),), "field 'plan': sensitive must be one of"),  # type: ignore[arg-type]
        ((Field("steps", "int"),), "field 'steps': type must be one of 'string', 'integer'"),  # type: ignore[arg-type]
        ((Field("steps", presence="never"),), "field 'steps': presence must be one of 'always'"),  # type: ignore[arg-type]
        (Field("plan"), "fields: expected a tuple of Field, got str in it"),
        (("plan",), "fields: expected a tuple of Field, got str in it"),
    ],
)
def test_event_with_an_invalid_field_is_not_registered(
    fields: Any, fault: str, own_catalog: None
) -> None:
    """A misspelt sensitivity would leave the field unredacted."""
    with pytest.raises(ValueError, match=f"^event 'myapp.planned': {fault}"):
        catalog.register(EventType("myapp.planned", "", fields))
    assert catalog.find("myapp.planned") is None


def test_huge_integer_is_not_one_of_the_choices() -> None:
    field = Field("steps", "integer", choices=("1", "2"))
    assert field.problem(1) is None
    assert field.problem(10**5000) == "expected one of '1', '2'"


def test_events_of_a_recorded_session_have_no_problems() -> None:
    """The demo replays the session of a real agent."""
    from codex_otel_logging.cli.demo import recorded_session

    for event in recorded_session().events:
        assert catalog.problems(event.event, event.fields) == []
        json.dumps(event.fields)
