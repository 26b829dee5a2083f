"""Collectors that are down, restart or limit requests: each event arrives exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver, Stats
from support.collectors import BUSY, OK, Gate, over_grpc
from support.events import log, numbers
from support.fixtures import HandlerFactory, RunPython, Scripted
from support.parts import wait_until_backing_off
from support.paths import read_program


@pytest.fixture
def handler(attach: HandlerFactory, gated: dict[str, Any]) -> CodexOtelHandler:
    ((name, settings),) = gated.items()
    return attach(
        {
            "exporter": {name: {**settings, "timeout_ms": 2000}},
            "batch": {"schedule_delay_ms": 20},
        }
    )


FAULTS = {"absent": Gate.refuse, "hanging": Gate.hang, "resetting": Gate.reset}


@pytest.mark.parametrize("fault", FAULTS)
def test_events_wait_for_a_collector_that_starts_later(
    handler: CodexOtelHandler,
    receiver: Receiver,
    gate: Gate,
    fault: str,
) -> None:
    FAULTS[fault](gate)
    log(300)
    assert handler.flush(0.1) is False
    wait_until_backing_off(handler)
    log(200, first=300)
    gate.open()
    assert handler.flush(30)
    assert numbers(receiver.events) == list(range(500))
    assert handler.stats() == Stats(accepted=500, exported=500)


@pytest.mark.parametrize("fault", FAULTS)
def test_events_wait_for_a_collector_that_restarts(
    handler: CodexOtelHandler,
    receiver: Receiver,
    gate: Gate,
    fault: str,
) -> None:
    log(100)
    assert handler.flush(30)
    FAULTS[fault](gate)
    log(100, first=100)
    assert handler.flush(0.1) is False
    wait_until_backing_off(handler)
    gate.open()
    assert handler.flush(30)
    log(100, first=200)
    assert handler.flush(30)
    assert numbers(receiver.events) == list(range(300))
    assert handler.stats() == Stats(accepted=300, exported=300)


def test_retry_after_of_a_busy_collector_is_honored(
    scripted: Scripted, attach_to: HandlerFactory
) -> None:
    """A flush does not shorten the wait."""
    collector = scripted(BUSY, OK)
    handler = attach_to(collector)
    log(500)
    assert handler.flush(0.1) is False
    wait_until_backing_off(handler)
    assert handler.flush(0.3) is False
    assert len(collector.requests) == 1
    assert handler.flush(30)
    assert numbers(collector.events) == list(range(500))
    assert handler.stats() == Stats(accepted=500, exported=500)


@pytest.mark.parametrize("name", ["otlp-grpc", "otlp-http"])
def test_large_events_are_split_into_requests_below_4_mib(
    attach: HandlerFactory, receiver: Receiver, name: str
) -> None:
    """4 MiB is gRPC's default limit. A truncated attribute is marked as such."""
    endpoint = receiver.grpc_endpoint if name == "otlp-grpc" else receiver.http_endpoint
    handler = attach({"exporter": {name: {"endpoint": endpoint}}})
    log(400, text="é" * 10_240)
    log(first=400, text="x" * (6 << 20))
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=401, exported=401)
    cut = receiver.events[-1].attributes
    assert (len(cut["text"]), cut["text.truncated_length"]) == (65_536, 6 << 20)


def test_event_beyond_the_grpc_message_limit_is_rejected_alone(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    exporter = over_grpc(receiver)
    handler = attach({"exporter": exporter, "max_attribute_length": 0})
    for number in range(50):
        log(first=number, text="x" * (6 << 20) if number == 25 else "x")
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=50, exported=49, rejected=1)
    assert numbers(receiver.events) == [number for number in range(50) if number != 25]


UNDELIVERED = read_program("undelivered")


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("name", "collector", "text"),
    [
        ("otlp-http", "absent", ""),
        ("otlp-http", "silent", ""),
        ("otlp-grpc", "absent", ""),
        ("otlp-grpc", "silent", ""),
        ("otlp-http", "absent", "é"),
        ("otlp-grpc", "absent", "😀"),
    ],
)
def test_memory_is_bounded_and_every_event_is_counted(
    run_python: RunPython, name: str, collector: str, text: str
) -> None:
    """At least 400 MB are logged, and no collector accepts any of it."""
    done = run_python(UNDELIVERED, name, collector, text)
    growth, accepted, left, queued = map(float, done.stdout.split())
    assert 100 < growth < 128
    assert accepted == left == 200_000
    assert queued > (10_000 if text == "😀" else 40_000)
