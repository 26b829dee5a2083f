"""gevent and eventlet, patched at different moments: every event arrives, no greenlet is blocked.

A moment is a point of the application's start: before an import, after the first event, and so on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from codex_otel_logging import Receiver
from support.collectors import over_http
from support.fixtures import RunPython
from support.paths import PROGRAMS, ROOT, read_program
from support.recipes import (
    ENQUEUE_TURNS,
    GUNICORN,
    TURNS,
    append,
    check,
    lay_out,
    lay_out_applications,
    turns,
)
from support.servers import Program

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="the servers that use greenlets need a POSIX system"
)

MISSING = "needs codex_otel_logging[test-runtimes]"

MOMENTS = (
    "before import",
    "after import",
    "after configuration",
    "after first event",
    "after first event, imported before",
    "while the worker imports",
)

LONGEST_GAP_S = 1.0
"""Maximum pause of another greenlet while the worker competes with it for the GIL.

In these tests, a hanging request or a `flush` that blocks the greenlets would take longer.
"""


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    """The library that patches; skips the test if it is not installed."""
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(MISSING)
    return name


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Result(NamedTuple):
    gap_s: float
    flushed: bool
    took_s: float
    stderr: str


def run(
    folder: Path, library: str, moment: str, exporter: dict[str, Any], flush_s: float
) -> Result:
    """Run the program with greenlets until it exits."""
    arguments = (library, moment, json.dumps(exporter), str(flush_s))
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAMS / "greenlets.py", *arguments],
        cwd=folder,
        env={"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    gap_s, flushed, took_s = json.loads(done.stdout)
    return Result(gap_s, flushed, took_s, done.stderr)


@pytest.mark.parametrize("moment", MOMENTS)
def test_events_arrive_once_and_other_greenlets_keep_running(
    tmp_path: Path, receiver: Receiver, exporter: dict[str, Any], library: str, moment: str
) -> None:
    result = run(tmp_path, library, moment, exporter, 20)
    assert result.flushed
    assert sorted(e.attributes["duration_ms"] for e in receiver.events) == list(range(10))
    assert result.gap_s < LONGEST_GAP_S


@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_flush_and_exit_are_bounded_and_other_greenlets_keep_running(
    tmp_path: Path, silent: str, name: str, library: str, moment: str
) -> None:
    endpoint = silent + ("/v1/logs" if name == "otlp-http" else "")
    result = run(tmp_path, library, moment, {name: {"endpoint": endpoint}}, 2)
    assert not result.flushed
    assert 2 <= result.took_s < 2 + LONGEST_GAP_S
    assert result.gap_s < LONGEST_GAP_S
    assert "10 events not exported at exit" in result.stderr


IMPORTS = read_program("imports_by_moment")


@pytest.mark.parametrize("moment", MOMENTS[:3])
def test_exporter_is_imported_in_the_application_thread_if_patched(
    run_python: RunPython, library: str, moment: str
) -> None:
    """A greenlet that waits for the worker's import lock may never be woken."""
    done = run_python(IMPORTS, library, moment)
    assert done.stdout == f"{moment != 'after configuration'}\nTrue\n", done.stderr


REPORTS = read_program("greenlets_reports")


def test_worker_warnings_take_no_lock_that_greenlets_wait_for(
    run_python: RunPython, library: str
) -> None:
    """A greenlet that waits for a greenlet of another thread may never be woken."""
    done = run_python(REPORTS, library)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


OUTAGE = read_program("greenlets_outage")


def test_an_outage_is_reported_while_the_application_logs(
    run_python: RunPython, library: str
) -> None:
    done = run_python(OUTAGE, library)
    assert done.returncode == 0, done.stderr
    first, left = done.stdout.splitlines()
    assert first == "otlp-http http://127.0.0.1:9/v1/logs: export failing"
    assert left.endswith("not exported at exit")


LOGS_WHILE_IT_LOADS = """
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "load"})
"""


@pytest.mark.parametrize("preload", [False, True], ids=["no preload", "preload"])
def test_gunicorn_gevent_worker_delivers(tmp_path: Path, receiver: Receiver, preload: bool) -> None:
    """The worker patches at its start; with `preload_app` the application has then logged."""
    pytest.importorskip("gevent", reason=MISSING)
    lay_out_applications(tmp_path, over_http(receiver), preload=preload)
    append(tmp_path / "app.py", LOGS_WHILE_IT_LOADS)
    server = (*GUNICORN, "--worker-class=gevent")
    check(receiver, tmp_path, *server, application="app:app", processes=2)
    loads = [e for e in receiver.events if e.name == "codex.turn_ttft"]
    assert len(loads) == (1 if preload else 2)


def test_celery_pool_of_greenlets_delivers(
    tmp_path: Path, receiver: Receiver, library: str
) -> None:
    lay_out(tmp_path, over_http(receiver))
    (tmp_path / "queue").mkdir()
    shutil.copy(PROGRAMS / "celeryconfig.py", tmp_path)
    append(tmp_path / "tasks.py", ENQUEUE_TURNS.format(0, TURNS))
    command = ["-m", "celery", "-A", "tasks", "worker", f"--pool={library}", "--concurrency=4"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO"]
    with Program(tmp_path, *command, *quiet) as worker:
        worker.read_until(r"Task tasks\.turn\[[^]]*\] succeeded", TURNS)
        worker.signal(signal.SIGTERM)
        assert "Traceback" not in worker.wait()
    assert turns(receiver.events) == {f"conversation-{number}": number for number in range(TURNS)}
