"""Signal handlers that raise inside calls of this package, as Ctrl-C does."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.paths import PROGRAMS
from support.servers import Program


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_raising_signal_handler_leaves_queue_counts_and_bytes_exact(tmp_path: Path) -> None:
    with Program(tmp_path, str(PROGRAMS / "interrupted_calls.py"), "2000") as program:
        assert program.wait() == ""
