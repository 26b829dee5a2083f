"""The end of a process: what was logged just before arrives, and nothing hangs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from conftest import RunPython

PROGRAM = """
import json, logging, sys
import codex_otel_logging

handler = codex_otel_logging.from_table(json.loads(sys.argv[1]))
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
with codex_otel_logging.Conversation("c", "m").bind():
    for number in range(int(sys.argv[2])):
        logger.info("codex.turn_ttft", extra={"duration_ms": number})
exec(sys.argv[3])
"""


def otel(exporter: dict[str, Any]) -> str:
    return json.dumps({"exporter": exporter})


@pytest.mark.parametrize(
    ("count", "end", "status"),
    [
        (1, "", 0),
        (1000, "", 0),
        (1, "sys.exit(3)", 3),
        (1, "raise ValueError('x')", 1),
    ],
    ids=["one event", "a thousand", "sys.exit", "exception"],
)
def test_events_logged_just_before_the_end_arrive(
    run_python: RunPython,
    receiver: Receiver,
    exporter: dict[str, Any],
    count: int,
    end: str,
    status: int,
) -> None:
    """Also when the main thread has ended before the worker has imported OpenTelemetry."""
    done = run_python(PROGRAM, otel(exporter), str(count), end)
    assert done.returncode == status
    assert [event.attributes["duration_ms"] for event in receiver.events] == list(range(count))
    lines = done.stderr.splitlines()
    assert lines[-1:] == (["ValueError: x"] if status == 1 else [])
    assert "Exception ignored" not in done.stderr


def test_events_of_exit_functions_arrive(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """Whatever was registered first: they, logging or the package; also as the very first event."""
    register = "atexit.register(lambda: logger.info('codex.turn_ttft', extra={'duration_ms': %d}))"
    program = "\n".join(
        [
            "import atexit",
            register % 1,
            "import logging",
            register % 2,
            PROGRAM,
            register % 3,
        ]
    )
    done = run_python(program, otel(exporter), "0", "")
    assert done.returncode == 0
    assert [event.attributes["duration_ms"] for event in receiver.events] == [3, 2, 1]
    assert "Traceback" not in done.stderr


def test_without_a_collector_the_end_is_near_and_says_what_is_left(run_python: RunPython) -> None:
    with Receiver() as receiver:
        endpoint = receiver.http_endpoint
    started = time.monotonic()
    done = run_python(PROGRAM, otel({"otlp-http": {"endpoint": endpoint}}), "100", "")
    assert time.monotonic() - started < 30  # the figure is another test's; this one must end
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == (
        f"otlp-http {endpoint}: 100 events not delivered before the end "
        "(no connection: Connection refused)"
    )
    assert "Traceback" not in done.stderr


SIGTERM_PROGRAM = PROGRAM.replace(
    "exec(", "codex_otel_logging.flush_on_sigterm()\nprint('ready', flush=True)\nexec("
)


@pytest.fixture
def terminated(tmp_path: Path) -> Any:
    """Runs a program until it says it is ready, terminates it, and returns how it ended."""

    def terminated(program: str, *arguments: str) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parent.parent)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=30)[0]
        return process.returncode, output

    return terminated


def test_flush_on_sigterm_delivers_and_then_terminates(
    terminated: Any, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    wait = "import signal; signal.pause()"
    status, _ = terminated(SIGTERM_PROGRAM, otel(exporter), "10", wait)
    assert status == -signal.SIGTERM
    assert len(receiver.events) == 10


def test_flush_on_sigterm_lets_the_applications_own_handler_run(
    terminated: Any, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    own = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('own'), sys.exit(5)))\n"
    wait = "codex_otel_logging.flush_on_sigterm(); signal.pause()"  # twice changes nothing
    status, output = terminated(
        own + SIGTERM_PROGRAM.replace("import json", "import json, sys"),
        otel(exporter),
        "10",
        "import signal; " + wait,
    )
    assert (status, output) == (5, "own\n")
    assert len(receiver.events) == 10


def test_flush_on_sigterm_is_for_the_main_thread(run_python: RunPython) -> None:
    program = """
import threading, codex_otel_logging
def call():
    try: codex_otel_logging.flush_on_sigterm()
    except ValueError as error: print(error)
thread = threading.Thread(target=call); thread.start(); thread.join()
"""
    assert "main thread" in run_python(program).stdout
