"""Summaries of conversations, and the facts they are computed from, for events of all senders."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from codex_otel_logging.cli.demo import play, recorded_session
from codex_otel_logging.cli.listen import summaries
from codex_otel_logging.cli.listen.event_facts import (
    failure_of,
    is_denied,
    is_event,
    number,
    time_of,
)
from codex_otel_logging.cli.listen.summaries import ConversationSummary, Summaries
from codex_otel_logging.receiver import ReceivedEvent, ReceivedRequest, events_of
from codex_otel_logging.receiver.messages import request_from_json
from support.paths import DATA


def event(name: str = "codex.turn_ttft", **more: Any) -> ReceivedEvent:
    """Return an event with these attributes. `at` is its time in seconds; `__` stands for a dot."""
    at, severity = more.pop("at", 1), more.pop("severity", 9)
    attributes = {key.replace("__", "."): value for key, value in more.items()}
    return ReceivedEvent(
        event_name="",
        body=None,
        attributes={"event.name": name, **attributes},
        resource={},
        scope="",
        time_unix_nano=at * 10**9,
        observed_time_unix_nano=0,
        severity_number=severity,
        severity_text="",
        trace_id="",
        span_id="",
        transport="grpc",
    )


def real(version: str) -> list[ReceivedEvent]:
    document = json.loads((DATA / f"codex-{version}.json").read_bytes())
    return list(events_of(ReceivedRequest("http/json", {}, request_from_json(document))))


def summed(*events: ReceivedEvent) -> ConversationSummary:
    summary = ConversationSummary("c", 1)
    for one in events:
        summary.add(one)
    return summary


def test_conversation_of_the_codex_cli_is_summarized() -> None:
    """The Codex CLI sends numbers as text, and `response.completed` twice, once with tokens."""
    assert summed(*real("0.44.0")).as_json() == {
        "type": "conversation",
        "id": "c",
        "label": "#1",
        "models": ["gpt-5-codex"],
        "app_version": "0.44.0",
        "first": "2026-11-23T18:44:47.409Z",
        "last": "2026-11-23T18:44:48.183Z",
        "duration_ms": 774,
        "events": 24,
        "turns": 1,
        "api_requests": 4,
        "api_failures": 1,
        "tokens": {"input": 403, "output": 43, "cached": 9, "reasoning": 21, "tool": 446},
        "decisions": 2,
        "denied": 0,
        "tools": [
            {
                "name": "shell",
                "calls": 2,
                "succeeded": 1,
                "total_ms": 330.0,
                "median_ms": 165.0,
            }
        ],
        "failures": [
            {"event": "codex.api_request", "message": "http 503", "count": 1},
            {
                "event": "codex.tool_result",
                "message": 'shell: {"output":"ls: cannot access '
                "'/definitely/not/here': No such file or directory\\n\","
                '"metadata":{"exit_code":2,"duration_seconds":0.2}}',
                "count": 1,
            },
        ],
        "other_failures": 0,
    }


def test_handler_and_codex_cli_have_equal_summaries() -> None:
    """The demo's session is the same conversation, without the second `response.completed`."""
    ours = summed(*play(recorded_session(), "http").received).as_json()
    codex = summed(*real("0.44.0")).as_json()
    for key in ("turns", "api_requests", "api_failures", "tokens", "decisions", "denied", "tools"):
        assert ours[key] == codex[key], key


def test_record_is_an_event_if_it_has_an_event_name() -> None:
    *events, debug_line = real("0.169.0")
    assert all(map(is_event, events))
    assert debug_line.body == "flushing OTEL metrics"
    assert not is_event(debug_line)
    assert is_event(event("myapp.asked"))
    assert not is_event(event(""))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("177", 177),
        (177, 177),
        ("0.5", 0.5),
        (0.5, 0.5),
        ("", None),
        ("fast", None),
        ("nan", None),
        (float("nan"), None),
        ("inf", None),
        ("1e999", None),
        (-1, None),
        (1 << 63, None),
        ("9" * 5000, None),
        (True, None),
        (None, None),
        ([1], None),
        (b"1", None),
    ],
)
def test_number_accepts_numbers_and_their_text(given: object, expected: float | None) -> None:
    assert number(given) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"time": 5, "timestamp": "2026-11-23T18:44:47.409Z", "observed": 7}, 5),
        (
            {"timestamp": "2026-11-23T18:44:47.409Z", "observed": 7},
            1795459487409000000,
        ),
        ({"timestamp": "2026-11-23T18:44:47.409", "observed": 7}, 1795459487409000000),
        ({"timestamp": "2026-11-23T19:44:47.409+01:00", "observed": 7}, 1795459487409000000),
        ({"timestamp": "soon", "observed": 7}, 7),
        ({"timestamp": 12, "observed": 7}, 7),
        ({"timestamp": "0001-01-01T00:00:00+14:00", "observed": 7}, 7),
        ({"timestamp": "9999-12-31T23:59:59-14:00", "observed": 7}, 7),
        ({"observed": 7}, 7),
    ],
)
def test_time_of_falls_back_from_record_to_attribute_to_observed_time(
    times: dict[str, Any], expected: int
) -> None:
    attributes = {"event__timestamp": times["timestamp"]} if "timestamp" in times else {}
    at = {"time_unix_nano": times.get("time", 0), "observed_time_unix_nano": times["observed"]}
    assert time_of(changed(event(**attributes), **at)) == expected


def test_time_of_an_event_without_any_time_is_now() -> None:
    before = time.time_ns()
    assert before <= time_of(event(at=0)) <= time.time_ns()


def changed(one: ReceivedEvent, **fields: Any) -> ReceivedEvent:
    from dataclasses import replace

    return replace(one, **fields)


@pytest.mark.parametrize(
    ("attributes", "failure"),
    [
        ({"http__response__status_code": 200}, None),
        ({"http__response__status_code": "399"}, None),
        ({"http__response__status_code": "503"}, "http 503"),
        ({"http__response__status_code": 503, "error__message": "later"}, "later"),
        ({"error__message": "broken"}, "broken"),
        ({"error__message": ""}, None),
        ({"success": "true"}, None),
        ({"success": True}, None),
        ({"success": "false", "tool_name": "sh", "output": "no"}, "sh: no"),
        ({"success": False, "tool_name": "sh", "error__message": "e", "output": "no"}, "sh: e"),
        ({"severity": 17}, ""),
        ({"severity": 16}, None),
    ],
)
def test_failure_is_found_in_status_message_success_or_severity(
    attributes: dict[str, Any], failure: str | None
) -> None:
    assert failure_of(event(**attributes)) == failure


@pytest.mark.parametrize(
    ("decision", "denied"),
    [
        ("denied", True),
        ("denied_with_network_policy_deny", True),
        ("Abort", True),
        ("approved", False),
        ("approved_for_session", False),
    ],
)
def test_denied_and_aborted_decisions_are_counted(decision: str, denied: bool) -> None:
    assert is_denied(event("codex.tool_decision", decision=decision)) is denied
    assert summed(event("codex.tool_decision", decision=decision)).denied == denied
    assert not is_denied(event("myapp.decision", decision=decision))


def test_first_and_last_time_do_not_depend_on_the_order() -> None:
    summary = summed(event(at=3), event(at=1), event(at=2))
    assert (summary.first_ns, summary.last_ns) == (10**9, 3 * 10**9)


def test_median_of_an_odd_and_an_even_number_of_calls() -> None:
    calls = [event("codex.tool_result", tool_name="t", duration_ms=ms) for ms in (1, 9, "4", 2)]
    assert summed(*calls[:3]).tools["t"].median_ms == 4
    assert summed(*calls).tools["t"].median_ms == 3
    assert summed(event("codex.tool_result", tool_name="t")).tools["t"].median_ms is None


def test_median_is_that_of_the_latest_calls() -> None:
    tool = summaries.ToolSummary()
    for _ in range(summaries.MAX_DURATIONS + 1):
        tool.add(event(duration_ms=1))
    for _ in range(summaries.MAX_DURATIONS):
        tool.add(event(duration_ms=5))
    assert tool.median_ms == 5
    assert tool.calls == 2 * summaries.MAX_DURATIONS + 1
    assert len(tool._durations) == summaries.MAX_DURATIONS


def test_memory_of_a_conversation_is_bounded() -> None:
    summary = ConversationSummary("c", 1)
    for n in range(1000):
        text = f"{n}" + 10_000 * "x"
        common = {"model": text, "app__version": text, "error__message": text}
        summary.add(event("codex.tool_result", tool_name=text, success="false", **common))
    assert len(summary.tools) == summaries.MAX_TOOLS + 1
    assert summary.tools[summaries.OTHER_TOOLS].calls == 1000 - summaries.MAX_TOOLS
    assert len(summary.failures) == summaries.MAX_FAILURES
    assert summary.other_failures == 1000 - summaries.MAX_FAILURES
    assert len(summary.models) == summaries.MAX_MODELS
    texts = [summary.app_version, *summary.models, *summary.tools, *sum(summary.failures, ())]
    assert max(map(len, texts)) == summaries.MAX_TEXT
    assert len(json.dumps(summary.as_json())) < 60_000


def test_known_failures_are_counted_after_the_maximum_is_reached() -> None:
    failures = [event(error__message=f"{n}") for n in range(summaries.MAX_FAILURES)]
    summary = summed(*failures, *failures)
    assert set(summary.failures.values()) == {2}
    assert summary.other_failures == 0


def test_conversations_are_numbered_and_the_least_recent_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(summaries, "MAX_CONVERSATIONS", 2)
    known = Summaries()
    labels = []
    for name in ("a", "b", "a", "", "b"):
        summary, new = known.summary_for(event(conversation__id=name))
        labels.append((summary.label, new, [gone.label for gone in known.forget()]))
    assert labels == [
        ("#1", True, []),
        ("#2", True, []),
        ("#1", False, []),
        ("-", True, ["#2"]),
        ("#3", True, ["#1"]),
    ]
    assert [summary.label for summary in known] == ["-", "#3"]
    assert known.conversations == 3


def test_long_conversation_ids_are_cut() -> None:
    summary, _ = Summaries().summary_for(event(conversation__id=10_000 * "x"))
    assert len(summary.id) == summaries.MAX_TEXT
