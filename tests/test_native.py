"""Covers the native threads and the clock, which monkey patching does not replace."""

from __future__ import annotations

import threading
import time

import pytest

from codex_otel_logging import native
from codex_otel_logging.native import NativeThread


def test_replaced_clock_functions_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("monotonic", "perf_counter", "sleep"):
        monkeypatch.setattr(time, name, lambda *_: 0.0)
    started = native.monotonic()
    native.sleep(0.01)
    assert native.monotonic() - started >= 0.01


def test_native_thread_is_enumerated_by_threading() -> None:
    go = threading.Event()
    thread = NativeThread(go.wait, "listed")
    assert not thread.is_alive()
    thread.start()
    assert thread.is_alive()
    assert "listed" in {each.name for each in threading.enumerate()}
    assert not thread.is_current()
    go.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("listed", [True, False])
def test_native_thread_is_current_in_its_own_thread(listed: bool) -> None:
    found: list[bool] = []
    thread = NativeThread(lambda: found.append(thread.is_current()), "it")
    thread.start(listed=listed)
    thread.join(20)
    assert found == [True]
    assert NativeThread.current().is_current()


def test_native_thread_is_beside_greenlets_only_if_threads_are_greenlets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[bool] = []

    def run() -> None:
        thread = NativeThread(lambda: found.append(native.is_beside_greenlets()), "it")
        thread.start(listed=False)
        thread.join(20)

    run()
    monkeypatch.setattr("_thread.start_new_thread", lambda *_: None)
    run()
    assert found == [False, True]
    assert not native.is_beside_greenlets()
