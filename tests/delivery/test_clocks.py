"""Frozen, jumping and patched clocks: waits end in time, and exports are retried."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.collectors import OK, UNAVAILABLE, GrpcCollector
from support.fixtures import Scripted
from support.paths import PROGRAMS, ROOT
from support.servers import Program

pytestmark = pytest.mark.processes

CLOCKS = {
    "freezegun": "freezegun",
    "freezegun that ticks": "freezegun",
    "freezegun that ignores nothing": "freezegun",
    "time-machine": "time_machine",
    "time-machine that ticks": "time_machine",
    "monotonic stands still": None,
    "no sleep": None,
    "an hour back and forth": None,
    "an hour ahead at each look": None,
}
"""The package that each clock needs."""

NOBODY = {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}

MUCH_LONGER_S = 5.0
"""Tolerance of a bounded wait, in seconds; an unbounded one would run into the test's timeout."""


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> str:
    """The clock of the program; skips the test if its package is not installed."""
    name: str = request.param
    package = CLOCKS[name]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip("needs codex_otel_logging[test-runtimes]")
    return name


class Result(NamedTuple):
    flushed: bool
    took_s: float
    created: float


def run(folder: Path, clock: str, moment: str, exporter: dict[str, Any], flush_s: float) -> Result:
    """Run the program with the clock until it ends."""
    done = subprocess.run(
        [sys.executable, PROGRAMS / "clocks.py", clock, moment, json.dumps(exporter), str(flush_s)],
        cwd=folder,
        env={"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return Result(*json.loads(done.stdout))


MOMENTS = pytest.mark.parametrize("moment", ["before import", "after configuration"])


@MOMENTS
def test_export_is_retried_and_events_keep_the_time_of_their_record(
    tmp_path: Path, scripted: Scripted, clock: str, moment: str
) -> None:
    collector = scripted(UNAVAILABLE, OK)
    if isinstance(collector, GrpcCollector) and CLOCKS[clock] == "time_machine":
        pytest.skip("gRPC's deadlines come from time.time, which time-machine replaces everywhere")
    result = run(tmp_path, clock, moment, collector.exporter, 20)
    assert result.flushed
    (event,) = collector.events
    assert event.time_unix_nano == pytest.approx(result.created * 1e9, abs=1e6)


@MOMENTS
def test_changed_clock_does_not_prolong_flush_or_exit(
    tmp_path: Path, clock: str, moment: str
) -> None:
    started = time.monotonic()
    result = run(tmp_path, clock, moment, NOBODY, 0.5)
    assert not result.flushed
    assert 0.45 < result.took_s < 0.5 + MUCH_LONGER_S
    assert time.monotonic() - started < 10 + MUCH_LONGER_S


def test_changed_clock_does_not_prolong_flush_on_sigterm(tmp_path: Path, clock: str) -> None:
    arguments = (clock, "after configuration", json.dumps(NOBODY), "0", "sigterm")
    with Program(tmp_path, str(PROGRAMS / "clocks.py"), *arguments) as program:
        program.read_until(r"\[false")
        program.signal(signal.SIGTERM)
        assert "1 event not exported at exit" in program.wait(-signal.SIGTERM)
