"""Covers the cost of a logging call without a clock: calls made, locks taken, modules imported."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Conversation
from support.fixtures import HandlerFactory, RunPython
from support.parts import pipeline_of, worker_of
from support.paths import read_program

LOGGER = logging.getLogger("codex_otel.tools")
EXTRA = {
    "tool_name": "shell",
    "call_id": "call_1",
    "arguments": '{"command": ["ls"]}',
    "duration_ms": 177,
    "success": "true",
    "output": "README.md",
}

PYTHON_CALLS = [
    "handler.handle",
    "handler.emit",
    "reader.read",
    "queue.put",
]
"""The package's functions that run for an event, once each. No others may run."""

C_CALLS = 9
"""Maximum number of C functions that they call, in addition to one per field."""

NOT_ALWAYS_REPORTED = {"isinstance", "__enter__"}
"""C functions whose calls Python before 3.14 stops reporting once it has specialized the caller."""


@pytest.fixture
def handler(attach: HandlerFactory) -> Iterator[CodexOtelHandler]:
    """A handler whose worker never starts, and that has cached the layout of the event."""
    handler = attach({"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}})
    worker_of(handler).start = lambda: True  # type: ignore[method-assign]
    LOGGER.info("codex.tool_result", extra=EXTRA)
    yield handler
    pipeline_of(handler).reset()


def calls_of_one_event() -> tuple[list[str], Counter[str]]:
    """Return the package's Python functions that ran, and the C functions that they called."""
    python: list[str] = []
    c: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("codex_otel_logging."):
            return
        if event == "call":
            python.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}")
        elif event == "c_call" and argument.__name__ not in NOT_ALWAYS_REPORTED:
            c[argument.__name__] += 1

    sys.setprofile(profile)
    try:
        LOGGER.info("codex.tool_result", extra=EXTRA)
    finally:
        sys.setprofile(None)
    return python, c


@pytest.mark.usefixtures("handler")
def test_event_takes_a_bounded_number_of_calls() -> None:
    with Conversation("c", "m").bind():
        calls_of_one_event()
        python, c = calls_of_one_event()
    spans = python.count("reader._span_context")  # where the tests have imported OpenTelemetry
    assert [name for name in python if name != "reader._span_context"] == PYTHON_CALLS
    assert spans <= 1
    assert c["__sizeof__"] <= len(EXTRA)
    assert sum(c.values()) - c["__sizeof__"] <= C_CALLS + spans


def test_full_queue_takes_no_more_calls(handler: CodexOtelHandler) -> None:
    worker_of(handler).queue._max_size = 1
    calls_of_one_event()
    python, c = calls_of_one_event()
    assert set(python) <= {*PYTHON_CALLS, "reader._span_context"}
    assert sum(c.values()) - c["__sizeof__"] <= C_CALLS + 1
    assert handler.stats().dropped == 2


def test_event_is_not_formatted(handler: CodexOtelHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    def formatted(*_: object) -> str:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger("codex_otel"), "handlers", [handler])  # not pytest's
        patch.setattr(logging.LogRecord, "getMessage", formatted)
        patch.setattr(logging.Formatter, "format", formatted)
        patch.setattr(logging.Formatter, "formatTime", formatted)
        LOGGER.info("codex.tool_result", extra=EXTRA)
    assert handler.stats().accepted == 2


def test_event_takes_the_queues_lock_once_and_no_other(handler: CodexOtelHandler) -> None:
    """`logging.shutdown` holds the handler's lock while it flushes; logging calls must not wait."""
    queue = worker_of(handler).queue

    class Counted:
        def __init__(self, lock: Any) -> None:
            self.lock, self.times = lock, 0

        def __enter__(self) -> None:
            self.times += 1
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

        acquire, release = __enter__, __exit__

    queues, own = Counted(queue.lock), Counted(handler.lock)
    queue.lock, handler.lock = queues, own  # type: ignore[assignment]
    LOGGER.info("codex.tool_result", extra=EXTRA)
    queue.lock, handler.lock = queues.lock, own.lock
    assert (queues.times, own.times) == (1, 0)


def test_handler_and_first_event_import_no_heavy_module(run_python: RunPython) -> None:
    """The worker imports the exporter's libraries, not the application thread."""
    program = read_program("imports_of_a_start")
    assert run_python(program).stdout == "[] True\n"
