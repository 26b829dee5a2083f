"""Counts stay exact when signal handlers raise in the middle of calls, as Ctrl-C does."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.paths import PROGRAMS
from support.servers import Program


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_signal_handler_that_raises_leaves_queue_and_its_bytes_exact(tmp_path: Path) -> None:
    with Program(tmp_path, str(PROGRAMS / "interrupted_calls.py"), "2000") as program:
        assert program.wait() == ""
