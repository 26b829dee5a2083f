"""Waits that end in time whatever signals come, and wakeups that get through from anywhere."""

from __future__ import annotations

import threading

import pytest

from codex_otel_logging.delivery.wakeup import Wakeup
from support.fixtures import RunPython
from support.paths import read_program


def test_a_wakeup_ends_one_wait() -> None:
    wakeup = Wakeup()
    assert wakeup.wait(0) is False
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(0) is True
    assert wakeup.wait(0) is False
    threading.Timer(0.05, wakeup.set).start()
    assert wakeup.wait(20) is True


@pytest.mark.parametrize("timeout_s", [-1.0, 1e-9, 0.01])
def test_without_one_the_wait_ends_in_time(timeout_s: float) -> None:
    assert Wakeup().wait(timeout_s) is False


def test_no_wait_is_too_short_for_python() -> None:
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


def test_a_signals_handler_that_outlasts_a_flush_ends_it(run_python: RunPython) -> None:
    done = run_python(INTERRUPTED + "print(handler.flush(1.0), flush=True); os._exit(0)")
    assert done.stdout == "False\n"


def test_a_signals_handler_that_outlasts_the_exit_ends_it(run_python: RunPython) -> None:
    done = run_python(INTERRUPTED)
    assert done.returncode == 0
    assert "1 event not exported at exit" in done.stderr
