"""Covers `Event`: its merged attributes, its timestamp, and the estimate of its memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Conversation
from codex_otel_logging.events.event import timestamp_text
from support import event_sizes
from support.paths import ROOT
from support.records import read


def test_attributes_merge_fields_over_conversation_over_defaults() -> None:
    conversation = Conversation("id-1", "m", app_version="conversation's")
    with conversation.bind():
        event = read(extra={"model": "event's", "tool_name": "shell"})
    event.created = 1_700_000_000.1239
    assert event.attributes_with({"app.version": "default's", "terminal.type": "xterm"}) == {
        "event.name": "codex.tool_decision",
        "event.timestamp": "2023-11-14T22:13:20.123Z",
        "conversation.id": "id-1",
        "model": "event's",
        "slug": "m",
        "app.version": "conversation's",
        "terminal.type": "xterm",
        "tool_name": "shell",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_795_459_487.409, "2026-11-23T18:44:47.409Z"),
        (4e9, "2096-10-02T07:06:40.000Z"),
    ],
)
def test_timestamps_have_milliseconds_and_end_in_z(seconds: float, text: str) -> None:
    assert timestamp_text(round(seconds * 1e6) * 1000) == text


@pytest.mark.parametrize("created", [float("nan"), float("inf"), "odd", None, -5.0, 1e300])
def test_invalid_creation_time_is_replaced(created: Any) -> None:
    event = read()
    event.created = created
    assert 0 <= event.time_ns < 1 << 63
    assert event.attributes_with({})["event.timestamp"]


@pytest.mark.parametrize(("created", "time_ns"), [(-5.0, 0), (1e300, (1 << 63) - 1)])
def test_creation_time_that_otlp_cannot_hold_becomes_the_nearest_that_it_can(
    created: float, time_ns: int
) -> None:
    event = read()
    event.created = created
    assert event.time_ns == time_ns


def measure(*kinds: str) -> dict[str, tuple[int, int]]:
    """Return the estimated and the actual bytes of events, by kind; see `event_sizes`."""
    done = subprocess.run(
        [sys.executable, event_sizes.__file__, *kinds],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {kind: (sizes[0], sizes[1]) for kind, sizes in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def allocations() -> dict[str, tuple[int, int]]:
    return measure()


@pytest.mark.parametrize("kind", event_sizes.KINDS)
def test_size_is_within_a_tenth_of_the_memory_allocated(
    allocations: dict[str, tuple[int, int]], kind: str
) -> None:
    """`max_queue_bytes` limits memory only if the estimate is right."""
    estimated, allocated = allocations[kind]
    assert 0.9 * allocated <= estimated <= 1.1 * allocated


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["short text", "tool result", "long text, 2 bytes", "50 integers"])
def test_size_is_within_a_tenth_of_what_the_process_grows_by(kind: str) -> None:
    """The growth includes the overhead of the allocators."""
    estimated, grown = measure(kind)[kind]
    assert 0.9 * grown <= estimated <= 1.1 * grown


def test_size_counts_shared_text_as_if_it_were_not_shared() -> None:
    """Finding out what is shared would cost the application thread too much."""
    own = read(extra={"tool_name": "".join(["sh", "ell"])})
    assert read(extra={"tool_name": sys.intern("shell")}).size == own.size
