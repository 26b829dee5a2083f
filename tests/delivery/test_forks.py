"""Forks by Python, by native code and by process pools: each event is exported exactly once."""

from __future__ import annotations

import json
import os
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from support.collectors import over_http
from support.fixtures import RunPython
from support.paths import PROGRAMS
from support.servers import Program

pytestmark = pytest.mark.processes

UWSGI = ("-c", "import pyuwsgi; pyuwsgi.run()")
BOUND = r"bound to TCP address 127\.0\.0\.1:(\d+)"
REQUESTS = 20


def call_ids(receiver: Receiver) -> list[str]:
    return sorted(event.attributes["call_id"] for event in receiver.events)


def exporter_json(receiver: Receiver) -> str:
    return json.dumps(over_http(receiver))


@pytest.mark.parametrize("moment", ["idle", "queued", "locked"])
def test_child_of_native_fork_exports_its_own_events(
    tmp_path: Path, receiver: Receiver, exporter: dict[str, Any], moment: str
) -> None:
    """The child has neither the parent's worker nor the thread that holds the queue's lock."""
    program = str(PROGRAMS / "fork_natively.py")
    with Program(tmp_path, program, json.dumps(exporter), moment, "log") as parent:
        assert parent.wait() == ""
    assert call_ids(receiver) == ["child", "parent", "parent again"]


@pytest.mark.parametrize("action", ["flush", "stats", "close"])
def test_child_of_native_fork_that_logs_nothing_inherits_nothing(
    tmp_path: Path, receiver: Receiver, action: str
) -> None:
    program = str(PROGRAMS / "fork_natively.py")
    with Program(tmp_path, program, exporter_json(receiver), "locked", action) as parent:
        assert parent.wait() == ""
    assert call_ids(receiver) == ["parent", "parent again"]


@pytest.mark.parametrize("load", [True, False], ids=["event in the master", "no event there"])
@pytest.mark.parametrize("option", ["", "--py-call-uwsgi-fork-hooks", "--lazy-apps"])
def test_uwsgi_exports_each_event_of_master_and_workers_once(
    tmp_path: Path, receiver: Receiver, option: str, load: bool
) -> None:
    """Its master process loads the application, which may log, and then forks the workers.

    The test does not wait for exit hooks: uWSGI runs none in a worker that it believes to be busy.
    """
    pytest.importorskip("pyuwsgi")
    options = [
        "--http-socket=127.0.0.1:0", "--master", "--processes=2", "--enable-threads",
        "--die-on-term", f"--wsgi-file={PROGRAMS / 'uwsgi_application.py'}",
        *filter(None, [option]),
    ]  # fmt: skip
    loads = 0 if not load else 2 if option == "--lazy-apps" else 1
    expected = ["load"] * loads + [f"/{number}" for number in range(REQUESTS)]
    environment = {"EXPORTER": exporter_json(receiver)} | ({"LOG_AT_LOAD": "1"} if load else {})
    with Program(tmp_path, *UWSGI, *options, **environment) as server:
        port = int(server.read_until(BOUND)[1])
        server.read_until("WSGI app 0 .* ready", 2 if option == "--lazy-apps" else 1)
        for number in range(REQUESTS):
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", f"/{number}")
            assert connection.getresponse().status == 204
            connection.close()
        assert len(receiver.wait_for(len(expected), timeout=30)) == len(expected)
    assert call_ids(receiver) == sorted(expected)


@pytest.mark.parametrize(
    ("package", "method"),
    [
        ("multiprocess", "fork"),
        ("multiprocess", "spawn"),
        ("multiprocess", "forkserver"),
        ("billiard", "fork"),
        ("billiard", "spawn"),
        ("loky", "reusable executor"),
    ],
)
def test_processes_of_packages_like_multiprocessing_flush_at_exit(
    tmp_path: Path, receiver: Receiver, package: str, method: str
) -> None:
    """They run finalizers instead of exit hooks."""
    pytest.importorskip(package)
    program = str(PROGRAMS / "multiprocessing_alikes.py")
    with Program(tmp_path, program, exporter_json(receiver), package, method) as main:
        assert "Traceback" not in main.wait()
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 1, 2]


PROCESS_ID = """
import os
from codex_otel_logging.delivery.forks import _ProcessIdMark
mark = _ProcessIdMark()
mark[0] = 1
assert mark[0]
child = os.fork()
if not child:
    os._exit(bool(mark[0]))
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_process_id_mark_detects_a_forked_child(run_python: RunPython) -> None:
    assert run_python(PROCESS_ID).stdout == "0\n"
