"""Covers the promise of the spool: an event is durable when its logging call returns.

The processes die in every way that leaves no time to export, and the next start exports all events.
`tests/benchmarks/kills.py` kills many more.
"""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from support.collectors import Gate
from support.fixtures import RunPython
from support.kills import (
    STATES,
    TRANSPORTS,
    Kills,
    Result,
    Transport,
    export_leftovers,
    otel_table,
    segments,
)
from support.paths import read_program
from support.servers import Program

pytestmark = pytest.mark.processes

LOG_THEN = read_program("log_then_run")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_event_of_a_killed_process_arrives(tmp_path: Path, transport: Transport) -> None:
    """At most one batch per kill arrives twice."""
    if transport == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    kills = Kills(transport, tmp_path, seed=15, longest_s=0.2)
    total = Result()
    for state in STATES:
        total.add(kills.run(state))
    assert total.faults == []
    assert (total.kills, total.lost) == (16, 0)
    assert total.counted > 0


NO_CORE = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"

DEATHS = {
    "exit without hooks": ("os._exit(3)", 3),
    "segmentation fault": ("import faulthandler; faulthandler._sigsegv()", -signal.SIGSEGV),
    "abort": ("os.abort()", -signal.SIGABRT),
    "exec": ("os.execv('/bin/sh', ['sh', '-c', 'exit 4'])", 4),
    "SIGTERM": ("import signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGKILL": ("import signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "end": ("", 0),
}


@pytest.mark.parametrize(("death", "count"), [("end", 1), *((death, 200) for death in DEATHS)])
def test_every_event_of_a_dead_process_arrives_once(
    run_python: RunPython,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    tmp_path: Path,
    death: str,
    count: int,
) -> None:
    """It dies right after the last logging call."""
    gate.refuse()
    otel = otel_table(gated, tmp_path / "spool", schedule_delay_ms=0)
    code, status = DEATHS[death]
    done = run_python(LOG_THEN, json.dumps(otel), str(count), NO_CORE + code)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    gate.open()
    assert export_leftovers(otel, tmp_path / "spool")
    found = [
        event.attributes["duration_ms"]
        for event in receiver.events
        if event.attributes["conversation.id"] == "c"
    ]
    assert found == list(range(count))


LIVES_ON = """
from pathlib import Path
from codex_otel_logging.delivery import worker
worker.RESCAN_S = 0.0
assert handler.flush(20)
logger.info("codex.turn_ttft", extra={"duration_ms": 30, "conversation.id": "c"})
assert handler.flush(20)
print("recovered", handler.stats().recovered, flush=True)
while not Path("is dead").exists():
    time.sleep(0.001)
while handler.stats().recovered < 30:
    logger.info("codex.turn_ttft", extra={"duration_ms": 31, "conversation.id": "again"})
    assert handler.flush(20)
print("recovered", handler.stats().recovered, flush=True)
"""


def test_living_process_exports_what_a_killed_one_of_another_application_has_left(
    receiver: Receiver, exporter: dict[str, Any], tmp_path: Path
) -> None:
    """Both run at the same time. Each event keeps the attributes of the application that logged it.

    While the second one still runs, its events are left alone.
    """
    never_exports = {"schedule_delay_ms": 600_000}
    spool = tmp_path / "spool"
    with ExitStack() as stack:

        def start(name: str, code: str, **batch: int) -> Program:
            otel = {**otel_table(exporter, spool, **batch), "service_name": name}
            otel["environment"] = f"environment of {name}"
            # What all events share also comes from the environment of the process.
            command = ("-c", LOG_THEN, json.dumps(otel), "30", f"import time\n{code}")
            return stack.enter_context(Program(tmp_path, *command, TERM_PROGRAM=name))

        killed = start("killed", "print('logged', flush=True); time.sleep(60)", **never_exports)
        killed.read_until("logged")
        (left,) = segments(spool)
        living = start("living", LIVES_ON)
        living.read_until("recovered 0")
        assert segments(spool) == [left]
        killed.signal(signal.SIGKILL)
        killed.wait(-signal.SIGKILL)
        (tmp_path / "is dead").touch()
        living.read_until("recovered 30")
        living.wait()
    assert segments(spool) == []
    found: dict[tuple[Any, ...], list[Any]] = {}
    for event in receiver.events:
        if event.attributes["conversation.id"] == "c":
            origin = (event.resource["service.name"], event.resource["env"])
            terminal = event.attributes["terminal.type"]
            found.setdefault((*origin, terminal), []).append(event.attributes["duration_ms"])
    assert found == {
        ("killed", "environment of killed", "killed"): list(range(30)),
        ("living", "environment of living", "living"): list(range(31)),
    }
