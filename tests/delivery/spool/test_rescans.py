"""When the worker looks for leftovers, and in which order it exports them and its own events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver
from codex_otel_logging.delivery import worker as worker_module
from codex_otel_logging.delivery.spool.leftovers import Leftovers
from codex_otel_logging.delivery.wakeup import Wakeup
from codex_otel_logging.delivery.worker import RESCAN_S
from codex_otel_logging.native import monotonic
from codex_otel_logging.receiver import events_of
from support.collectors import Gate, over_http
from support.events import LOGGER, log
from support.fixtures import HandlerFactory
from support.parts import worker_of
from support.spools import segments, until

pytestmark = pytest.mark.thorough

NEVER_MS = 600_000


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


class WorkerClock:
    """The clock of the worker; the test sets it forward. Counts how often the worker looks."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WorkerClock:
    clock = WorkerClock()
    monkeypatch.setattr(worker_module, "monotonic", clock)
    return clock


@pytest.fixture
def scans(clock: WorkerClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Notes how far the clock was set forward at each scan."""
    scans: list[float] = []
    scan = Leftovers.scan

    def note(leftovers: Leftovers) -> None:
        scans.append(clock.ahead_s)
        scan(leftovers)

    monkeypatch.setattr(Leftovers, "scan", note)
    return scans


def otel_of(endpoint: str, spool: Path, **batch: int) -> dict[str, Any]:
    return {
        "exporter": {"otlp-http": {"endpoint": endpoint}},
        "spool": {"path": str(spool)},
        "batch": {"schedule_delay_ms": 0, **batch},
    }


def log_to(conversation: str, count: int) -> None:
    fields: dict[str, Any] = {"conversation.id": conversation}
    log(count, **fields)


def leave(attach: HandlerFactory, otel: dict[str, Any], count: int) -> None:
    """Leave events in the spool, as `close` does while the collector is down."""
    handler = attach(otel)
    log_to("left", count)
    LOGGER.removeHandler(handler)
    handler.close()
    assert until(lambda: worker_of(handler).thread is None)
    assert handler.stats().queued == count


def export_two(handler: CodexOtelHandler) -> None:
    """Export two events. When the second one is exported, a scan after the first one is over."""
    for _ in range(2):
        log()
        assert handler.flush(20)


def test_worker_looks_for_leftovers_every_minute(
    attach: HandlerFactory,
    receiver: Receiver,
    spool: Path,
    clock: WorkerClock,
    scans: list[float],
) -> None:
    assert RESCAN_S == 60.0
    handler = attach(otel_of(receiver.http_endpoint, spool))
    export_two(handler)
    for minutes in range(1, 4):
        assert len(scans) == minutes
        clock.ahead_s = minutes * 61.0 - 31.0
        export_two(handler)
        assert len(scans) == minutes
        clock.ahead_s = minutes * 61.0
        export_two(handler)
        assert len(scans) == minutes + 1


def test_idle_worker_exports_what_a_process_has_left_after_a_minute(
    attach: HandlerFactory,
    receiver: Receiver,
    spool: Path,
    clock: WorkerClock,
    scans: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It logs nothing itself. Here its longest sleep is short."""
    monkeypatch.setattr(worker_module, "LONGEST_WAIT_S", 0.001)
    gate = Gate(receiver.http_endpoint)
    otel = otel_of(gate.endpoint, spool)
    handler = attach(otel)
    log()
    assert handler.flush(20)
    assert until(lambda: len(scans) == 1)
    LOGGER.removeHandler(handler)
    gate.refuse()
    leave(attach, otel, 3)
    gate.open()
    looks = clock.looks
    assert until(lambda: clock.looks > looks + 20)
    assert len(scans) == 1
    assert len(segments(spool)) == 1
    clock.ahead_s = 61.0
    assert until(lambda: handler.stats().recovered == 3)
    assert until(lambda: not segments(spool))
    assert len(scans) == 2
    gate.close()


def test_idle_worker_sleeps_no_longer_than_until_it_looks_again(
    attach: HandlerFactory, receiver: Receiver, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps: list[float] = []
    wait: Callable[[Wakeup, float], bool] = Wakeup.wait
    handler = attach(otel_of(receiver.http_endpoint, spool))
    wakeup = worker_of(handler)._wakeup

    def note(waiting: Wakeup, timeout_s: float) -> bool:
        if waiting is wakeup:
            sleeps.append(timeout_s)
        return wait(waiting, timeout_s)

    monkeypatch.setattr(Wakeup, "wait", note)
    log()
    assert handler.flush(20)
    assert until(lambda: len(sleeps) > 1)
    assert max(sleeps) <= 60.0


def test_batches_of_own_events_and_of_leftovers_alternate(
    attach: HandlerFactory, spool: Path
) -> None:
    """Neither a long backlog nor much that is left delays the other."""
    requests: list[str] = []

    def note(request: Any) -> None:
        (conversation,) = {event.attributes["conversation.id"] for event in events_of(request)}
        requests.append(str(conversation))

    with Receiver(on_request=note) as receiver:
        (settings,) = over_http(receiver).values()
        gate = Gate(settings["endpoint"])
        gate.refuse()
        otel = otel_of(gate.endpoint, spool, max_batch_size=10, schedule_delay_ms=NEVER_MS)
        leave(attach, otel, 50)
        handler = attach(otel)
        log_to("own", 50)
        gate.open()
        assert handler.flush(20)
        assert until(lambda: not segments(spool))
        gate.close()
    assert requests == ["own", "left"] * 5
    assert (handler.stats().exported, handler.stats().recovered) == (50, 50)
