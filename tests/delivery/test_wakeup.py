"""`Wakeup`: `set` ends a wait from any place; waits end in time in spite of signals."""

from __future__ import annotations

import threading

import pytest

from codex_otel_logging.delivery.wakeup import Wakeup
from support.fixtures import RunPython
from support.paths import read_program


def test_set_ends_exactly_one_wait() -> None:
    wakeup = Wakeup()
    assert wakeup.wait(0) is False
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(0) is True
    assert wakeup.wait(0) is False
    threading.Timer(0.05, wakeup.set).start()
    assert wakeup.wait(20) is True


@pytest.mark.parametrize("timeout_s", [-1.0, 1e-9, 0.01])
def test_wait_ends_at_its_timeout(timeout_s: float) -> None:
    assert Wakeup().wait(timeout_s) is False


def test_very_short_waits_never_hang() -> None:
    wakeup = Wakeup()

    def wait() -> None:
        for number in range(20_000):
            wakeup.set()
            wakeup.wait(0)
            wakeup.wait(number % 30 * 1e-7)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(timeout=20)
    assert not waiting.is_alive()


INTERRUPTED = read_program("interrupted_waits")


def test_flush_ends_after_a_signal_handler_that_outlasts_its_timeout(run_python: RunPython) -> None:
    done = run_python(INTERRUPTED + "print(handler.flush(1.0), flush=True); os._exit(0)")
    assert done.stdout == "False\n"


def test_exit_ends_after_a_signal_handler_that_outlasts_its_timeout(run_python: RunPython) -> None:
    done = run_python(INTERRUPTED)
    assert done.returncode == 0
    assert "1 event not exported at exit" in done.stderr
