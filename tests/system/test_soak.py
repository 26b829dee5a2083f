"""A short run of the soak: outages, reconfigurations, forks and kills at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

SOAK = ROOT / "tests" / "benchmarks" / "soak.py"


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_twenty_seconds_of_soaking_lose_no_event() -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "--seconds", "20"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
