"""Process exit, forks and SIGTERM: the last events are exported or reported; nothing hangs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from codex_otel_logging.delivery.outages import DIAGNOSE
from support.collectors import (
    BAD_REQUEST,
    BUSY,
    OK,
    PARTIAL,
    REDIRECT,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Gate,
    GrpcCollector,
    HttpCollector,
    over_http,
)
from support.fixtures import RunPython, Scripted
from support.paths import ROOT, read_program

pytestmark = pytest.mark.processes

PROGRAM = read_program("log_then_run")


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
def test_events_logged_just_before_exit_are_exported(
    run_python: RunPython,
    receiver: Receiver,
    exporter: dict[str, Any],
    count: int,
    end: str,
    status: int,
) -> None:
    """Even if the main thread ends before the worker has imported OpenTelemetry."""
    done = run_python(PROGRAM, otel(exporter), str(count), end)
    assert done.returncode == status
    assert [event.attributes["duration_ms"] for event in receiver.events] == list(range(count))
    lines = done.stderr.splitlines()
    assert lines[-1:] == (["ValueError: x"] if status == 1 else [])
    assert "Exception ignored" not in done.stderr


def test_events_logged_by_exit_functions_are_exported(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """In any order of registration, before or after `logging` and this package."""
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


def test_exit_without_collector_is_bounded_and_reports_undelivered_events(
    run_python: RunPython, absent: str
) -> None:
    endpoint = f"http://{absent}/v1/logs"
    started = time.monotonic()
    done = run_python(PROGRAM, otel({"otlp-http": {"endpoint": endpoint}}), "100", "")
    assert time.monotonic() - started < 30  # generous: other tests check the timeout itself
    assert done.returncode == 0
    assert done.stderr == (
        "100 events not exported at exit "
        f"(otlp-http {endpoint}: no connection: Connection refused); {DIAGNOSE}\n"
    )


HANGING = """
import atexit, socket
hanging = socket.create_server(("127.0.0.1", 0))
atexit.register(hanging.close)
endpoint = f"http://127.0.0.1:{hanging.getsockname()[1]}/"
"""


def test_exit_waits_for_a_slow_collector_that_makes_progress(
    run_python: RunPython, http_collector: Callable[..., HttpCollector]
) -> None:
    """Exit waits as long as there is progress: here three times `shutdown_timeout_ms`."""
    collector = http_collector(OK, delay_s=0.5)
    settings = {
        "exporter": {"otlp-http": {"endpoint": collector.endpoint}},
        "batch": {"max_batch_size": 5, "shutdown_timeout_ms": 2000},
    }
    done = run_python(PROGRAM, json.dumps(settings), "60", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(collector.requests) == 12
    assert [event.attributes["duration_ms"] for event in collector.events] == list(range(60))


def test_exit_waits_for_a_slow_import_of_the_exporter(
    run_python: RunPython, receiver: Receiver
) -> None:
    """On a slow machine the import may take longer than `shutdown_timeout_ms`."""
    program = (
        """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "opentelemetry.sdk._logs": time.sleep(3.5)
sys.meta_path.insert(0, Slow())
"""
        + PROGRAM
    )
    settings = {
        "exporter": over_http(receiver),
        "batch": {"shutdown_timeout_ms": 3000},
    }
    done = run_python(program, json.dumps(settings), "1", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(receiver.events) == 1


def test_events_of_daemon_threads_and_finalizers_at_exit_cause_no_traceback(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """Events logged before finalization are exported; later ones have no effect."""
    late = """
import itertools, threading
class Late:
    def __del__(self): logger.info("codex.turn_ttft", extra={"duration_ms": -1})
late = Late()
late.itself = late
def endless():
    for number in itertools.count(1):
        logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
        started.set()
started = threading.Event()
threading.Thread(target=endless, daemon=True).start()
started.wait()
"""
    done = run_python(PROGRAM, otel(exporter), "1", late)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    numbers = [event.attributes["duration_ms"] for event in receiver.events]
    assert 0 in numbers
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("before", [0, 1], ids=["first event", "later event"])
@pytest.mark.parametrize("locked", [False, True], ids=["", "locked"])
def test_events_logged_during_interpreter_finalization_are_counted_as_dropped(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any], before: int, locked: bool
) -> None:
    """No thread runs or starts then, and one may have stopped while holding the queue's lock."""
    end = f"""
import threading
class Late:
    def __del__(self, log=logger.info, stats=handler.stats, print=print):
        log("codex.turn_ttft", extra={{"duration_ms": -1}})
        handler._pipeline.worker.queue.lock = threading.RLock()
        print(stats().dropped, flush=True)
late = Late()
late.itself = late
if {locked}:
    at_the_end, held = threading.Event(), threading.Event()
    names = {{"at_the_end": at_the_end, "held": held, "lock": handler._pipeline.worker.queue.lock}}
    hold = "at_the_end.wait(); lock.acquire(); held.set(); at_the_end.__class__().wait()"
    # With its own globals: otherwise its frame would keep `late` alive forever.
    threading.Thread(target=exec, args=(hold, names), daemon=True).start()
    last.append(lambda: (at_the_end.set(), held.wait()))
"""
    last = "import atexit\nlast = []\natexit.register(lambda: [call() for call in last])\n"
    done = run_python(last + PROGRAM, otel(exporter), str(before), end)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert len(receiver.events) == before


@pytest.mark.parametrize("end", ["KeyboardInterrupt", "SystemExit"])
def test_interrupted_asyncio_tasks_export_their_last_events(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any], end: str
) -> None:
    program = f"""
import asyncio, os, signal
async def turn(number):
    with codex_otel_logging.Conversation(f"task-{{number}}", "m").bind():
        logger.info("codex.turn_ttft", extra={{"duration_ms": number}})
        try:
            await asyncio.sleep(60)
        finally:
            logger.info("codex.turn_ttft", extra={{"duration_ms": 100 + number}})
async def main():
    tasks = [asyncio.create_task(turn(number)) for number in range(3)]
    await asyncio.sleep(0)
    if "{end}" == "SystemExit":
        raise SystemExit(4)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.gather(*tasks)
asyncio.run(main())
"""
    done = run_python(PROGRAM, otel(exporter), "0", program)
    # Before 3.14, Python exits with 1 instead of by SIGINT if an import at exit calls `exec`.
    interrupted = -signal.SIGINT if sys.version_info >= (3, 14) else 1
    assert done.returncode == (4 if end == "SystemExit" else interrupted)
    assert done.stderr.splitlines()[-1:] == ([] if end == "SystemExit" else [end])
    arrived = {
        (event.attributes["duration_ms"], event.attributes["conversation.id"])
        for event in receiver.events
    }
    assert arrived == {(n + more, f"task-{n}") for n in range(3) for more in (0, 100)}


def test_many_handlers_share_one_exit_timeout_and_one_report(run_python: RunPython) -> None:
    """One after the other, ten handlers would take twenty seconds."""
    program = (
        HANGING
        + """
import logging, codex_otel_logging
logger = logging.getLogger("codex_otel")
logger.setLevel("INFO")
for number in range(10):
    otel = {"exporter": {"otlp-http": {"endpoint": endpoint, "headers": {"n": str(number)}}}}
    logger.addHandler(codex_otel_logging.from_table(otel))
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
"""
    )
    started = time.monotonic()
    done = run_python(program)
    assert time.monotonic() - started < 15
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("10 events not exported at exit (otlp-http http://127.")


@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_first_event_at_exit_is_subject_to_the_exit_timeout(
    run_python: RunPython, name: str
) -> None:
    """Python 3.12 starts no threads at exit, so the main thread exports the event."""
    program = (
        HANGING
        + f"""
import atexit, logging, codex_otel_logging
logger = logging.getLogger("codex_otel")
logger.setLevel("INFO")
otel = {{"exporter": {{"{name}": {{"endpoint": endpoint, "timeout_ms": 25_000}}}}}}
logger.addHandler(codex_otel_logging.from_table(otel))
extra = {{"duration_ms": 1, "conversation.id": "c"}}
atexit.register(lambda: logger.info("codex.turn_ttft", extra=extra))
"""
    )
    started = time.monotonic()
    done = run_python(program)
    assert time.monotonic() - started < 15
    assert done.stderr.startswith("1 event not exported at exit (")
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_wait_at_exit(run_python: RunPython) -> None:
    """Here it arrives just before the main thread begins to wait."""
    program = (
        HANGING
        + """
import logging, os, signal, threading
import codex_otel_logging
from codex_otel_logging.delivery.wakeup import Wakeup

wait = Wakeup.wait
def interrupted(*arguments):
    if threading.current_thread() is threading.main_thread():
        os.kill(os.getpid(), signal.SIGINT)
    return wait(*arguments)
Wakeup.wait = interrupted

batch = {"shutdown_timeout_ms": 600_000}
otel = {"exporter": {"otlp-http": {"endpoint": endpoint}}, "batch": batch}
logger = logging.getLogger("codex_otel")
logger.addHandler(codex_otel_logging.from_table(otel))
logger.setLevel("INFO")
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
"""
    )
    done = run_python(program)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("1 event not exported at exit (")


PROCESSES = read_program("worker_processes")


@pytest.fixture
def run_processes(
    tmp_path: Path, exporter: dict[str, Any]
) -> Callable[[str, str], subprocess.CompletedProcess[str]]:
    """Runs a program from a file; spawned processes import it again."""

    def run_processes(program: str, method: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "processes.py").write_text(program)
        ((name, settings),) = exporter.items()
        return subprocess.run(
            [sys.executable, "processes.py", name, settings["endpoint"], method],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_processes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_flush_at_exit(
    run_processes: Callable[..., subprocess.CompletedProcess[str]],
    receiver: Receiver,
    method: str,
) -> None:
    """They run finalizers of `multiprocessing` instead of exit hooks."""
    done = run_processes(PROCESSES, method)
    assert (done.stdout, done.stderr) == ("[0, 0, 0]\n", "")
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 1, 2]


NESTED = (
    PROCESSES.partition("if __name__")[0]
    + """
def nest(number):
    work(number)
    event = {"duration_ms": number + 10, "conversation.id": "c"}
    arguments = ("codex.turn_ttft",)
    target = logging.getLogger("codex_otel").info
    process = multiprocessing.get_context("fork").Process(
        target=target, args=arguments, kwargs={"extra": event}
    )
    process.start()
    process.join()
    sys.exit(process.exitcode)

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[3]).Process(target=nest, args=(0,))
    process.start()
    process.join()
    print(process.exitcode)
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nested_multiprocessing_workers_flush_at_exit(
    run_processes: Callable[..., subprocess.CompletedProcess[str]],
    receiver: Receiver,
    method: str,
) -> None:
    """`multiprocessing` clears all finalizers in a forked child, so it must register its own."""
    done = run_processes(NESTED, method)
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 10]


POOL = (
    PROCESSES.partition("if __name__")[0]
    + """
if __name__ == "__main__":
    from concurrent.futures import ProcessPoolExecutor
    context = multiprocessing.get_context(sys.argv[3])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(work, range(4)))
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_process_pool_executor_flush_at_exit(
    run_processes: Callable[..., subprocess.CompletedProcess[str]],
    receiver: Receiver,
    method: str,
) -> None:
    done = run_processes(POOL, method)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 1, 2, 3]


def test_preforking_server_exports_each_event_of_parent_and_workers_once(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """The parent configures logging, and continues to log after each fork."""
    prefork = """
import os, warnings
warnings.simplefilter("ignore")
extra = lambda number: {"duration_ms": number, "conversation.id": "c"}
for worker in range(1, 4):
    if not os.fork():
        for number in range(50):
            logger.info("codex.turn_ttft", extra=extra(1000 * worker + number))
        sys.exit(0)
    for number in range(50):
        logger.info("codex.turn_ttft", extra=extra(1000 * worker + 500 + number))
assert [os.wait()[1] for _ in range(3)] == [0, 0, 0]
"""
    done = run_python(PROGRAM, otel(exporter), "5", prefork)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [*range(5)]
    for worker in range(1, 4):
        expected += range(1000 * worker, 1000 * worker + 50)
        expected += range(1000 * worker + 500, 1000 * worker + 550)
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == expected


def test_forked_child_starts_with_an_empty_queue_and_exports_its_own_events(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """Events queued before the fork belong to the parent."""
    fork = (
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "child = os.fork()\n"
        "if not child: logger.info('codex.turn_ttft', extra={'duration_ms': 10});"
        " assert handler.flush(20) and handler.stats().exported == 1; os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    done = run_python(PROGRAM, otel(exporter), "3", fork)
    assert done.returncode == 0
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 1, 2, 10]


TERMINATED_POOL = (
    PROCESSES.partition("if __name__")[0]
    + """
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[3])
    with context.Pool(2, initializer=codex_otel_logging.flush_on_sigterm) as pool:
        pool.map(work, range(4), chunksize=1)
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_terminated_pool_workers_with_flush_on_sigterm_export_their_events(
    run_processes: Callable[..., subprocess.CompletedProcess[str]],
    receiver: Receiver,
    method: str,
) -> None:
    """A `Pool` sends SIGTERM to its workers at the end of its `with` block."""
    done = run_processes(TERMINATED_POOL, method)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 1, 2, 3]


def test_child_forked_during_the_first_import_exports_its_events(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """A child forked while another thread imports a module can never finish that import."""
    slow = """
import sys, threading
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "concurrent.futures.thread":
            importing.set()
            threading.Event().wait(0.2)
importing = threading.Event()
sys.meta_path.insert(0, Slow())
"""
    fork = """
import os, warnings
warnings.simplefilter("ignore")
def log(number):
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
threading.Thread(target=log, args=(1,)).start()
importing.wait()
child = os.fork()
if not child:
    threading.Timer(40, os._exit, (2,)).start()
    log(2)
    os._exit(0 if handler.flush(30) else 1)
print(os.waitpid(child, 0)[1])
"""
    done = run_python(slow + PROGRAM, otel(exporter), "0", fork)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [1, 2]


FORK_UNDER_LOAD = """
import os, threading, warnings
warnings.simplefilter("ignore")
stop = threading.Event()
logged = [0, 0, 0, 0]
def extra(number): return {"duration_ms": number, "conversation.id": "c"}
def load(slot):
    while not stop.wait(0.0005):
        logger.info("codex.turn_ttft", extra=extra(slot * 100_000 + logged[slot]))
        logged[slot] += 1
        if logged[slot] % 10 == 0: handler.flush(0.01)
threads = [threading.Thread(target=load, args=(slot,)) for slot in range(4)]
for thread in threads: thread.start()
children = []
for child in range(30):
    stop.wait(0.01)
    pid = os.fork()
    if not pid:
        logger.info("codex.turn_ttft", extra=extra(1_000_000 + child))
        os._exit(0 if handler.flush(20) and handler.stats().exported == 1 else 1)
    children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
for thread in threads: thread.join()
print(statuses, *logged)
"""


def test_children_forked_during_exports_export_each_event_once(
    run_python: RunPython, scripted: Scripted
) -> None:
    """Without the fork gate, children forked during a gRPC call abort or hang."""
    collector = scripted(OK, delay_s=0.01)
    done = run_python(PROGRAM, otel(collector.exporter), "0", FORK_UNDER_LOAD)
    assert (done.returncode, done.stderr) == (0, "")
    statuses, _, logged = done.stdout.rpartition("] ")
    assert statuses == str([0] * 30).removesuffix("]")
    expected = [1_000_000 + child for child in range(30)]
    for slot, count in enumerate(logged.split()):
        expected += range(slot * 100_000, slot * 100_000 + int(count))
    assert sorted(event.attributes["duration_ms"] for event in collector.events) == sorted(expected)


def test_fork_interrupts_a_hanging_export_that_is_retried_afterwards(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any], gate: Gate
) -> None:
    """Child and parent both export their events afterwards."""
    ((name, settings),) = exporter.items()
    fork = f"""
import os, warnings
warnings.simplefilter("ignore")
import time
print("logged", flush=True)
sys.stdin.readline()  # until the export hangs
started = time.monotonic()
child = os.fork()
took = time.monotonic() - started
if not child:
    otel = {{"exporter": {{"{name}": {{"endpoint": "{settings["endpoint"]}"}}}}}}
    other = codex_otel_logging.from_table(otel)
    logger.handlers[:] = [other]
    logger.info("codex.turn_ttft", extra={{"duration_ms": 10, "conversation.id": "c"}})
    os._exit(0 if other.flush(20) else 1)
print(os.waitpid(child, 0)[1], took < 4, flush=True)
sys.stdin.read()
"""
    gate.hang()
    hanging = {
        name: {"endpoint": gate.endpoint, "timeout_ms": 30_000 if name == "otlp-grpc" else 1500}
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, otel(hanging), "3", fork],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "logged\n"
            assert gate.wait_for_connection()
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "0 True\n"
            gate.open()
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert sorted(event.attributes["duration_ms"] for event in receiver.events) == [0, 1, 2, 10]


def test_fork_waits_for_the_import_of_the_exporter(run_python: RunPython) -> None:
    """Otherwise the child could never import OpenTelemetry."""
    assert run_python(read_program("fork_while_importing")).stdout == "True 0\n"


@pytest.mark.parametrize("protocol", ["binary", "json", "grpc"])
def test_no_export_imports_a_module(run_python: RunPython, absent: str, protocol: str) -> None:
    """Forks do not wait for exports. A child could not finish an import that one has begun."""
    replies = (OK, PARTIAL, BUSY, UNAUTHENTICATED, BAD_REQUEST, REDIRECT)
    if protocol == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    collector: HttpCollector | GrpcCollector
    if protocol == "grpc":
        collector, path = GrpcCollector(*replies), ""
    else:
        collector, path = HttpCollector(*replies), "/v1/logs"
    (name,) = collector.exporter
    endpoints = [
        *(f"{scheme}://{absent}{path}" for scheme in ("http", "https")),
        collector.endpoint.replace("http:", "https:"),  # the collector has no TLS
        collector.endpoint.replace("127.0.0.1", "localhost"),
        *[collector.endpoint] * (len(replies) - 1),
    ]
    program = read_program("imports_of_an_export")
    done = run_python(program, name, protocol.replace("grpc", "binary"), *endpoints)
    collector.stop()
    lines = [line.partition("|") for line in done.stdout.splitlines()]
    outcomes, _, imported = zip(*lines, strict=True)
    assert len(outcomes) == len(endpoints), done.stderr
    assert {"retry", "delivered"} < {*outcomes}
    assert {*imported} == {""}


SIGTERM_PROGRAM = PROGRAM.replace(
    "exec(", "codex_otel_logging.flush_on_sigterm()\nprint('ready', flush=True)\nexec("
)


@pytest.fixture
def terminated(tmp_path: Path) -> Any:
    """Sends SIGTERM to a program that is ready; returns its exit status and its output."""

    def terminated(program: str, *arguments: str) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                process.send_signal(signal.SIGTERM)
                output = process.communicate(timeout=30)[0]
            finally:
                process.kill()
        return process.returncode, output

    return terminated


def test_flush_on_sigterm_exports_events_then_terminates(
    terminated: Any, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    wait = "import time\nwhile True: time.sleep(0.01)"
    status, _ = terminated(SIGTERM_PROGRAM, otel(exporter), "10", wait)
    assert status == -signal.SIGTERM
    assert len(receiver.events) == 10


def test_flush_on_sigterm_calls_the_handler_installed_before(
    terminated: Any, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    own = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('own'), sys.exit(5)))\n"
    again = "codex_otel_logging.flush_on_sigterm()"  # has no effect
    wait = f"import time\n{again}\nwhile True: time.sleep(0.01)"
    status, output = terminated(
        own + SIGTERM_PROGRAM.replace("import json", "import json, sys"),
        otel(exporter),
        "10",
        wait,
    )
    assert (status, output) == (5, "own\n")
    assert len(receiver.events) == 10


def test_flush_on_sigterm_during_a_logging_call_exports_events(
    terminated: Any, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """The call holds the queue's lock, so the signal handler must return before the flush ends."""
    interrupt = """
import collections, os, signal, time
class Interrupted(collections.deque):
    def append(self, event):
        super().append(event)
        if event.fields["duration_ms"] == 4:
            print("ready", flush=True)
            sys.stdin.read()
            os.kill(os.getpid(), signal.SIGTERM)
handler._pipeline.worker.queue.waiting = Interrupted()
for number in range(5):
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
while True: time.sleep(0.01)
"""
    program = SIGTERM_PROGRAM.replace("print('ready', flush=True)", "")
    status, _ = terminated(program, otel(exporter), "0", interrupt)
    assert status == -signal.SIGTERM
    assert [event.attributes["duration_ms"] for event in receiver.events] == list(range(5))


def test_sigterm_terminates_although_a_log_handler_exits_on_the_report(
    terminated: Any, http_collector: Callable[..., HttpCollector]
) -> None:
    """The exception ends the thread that flushes, on which the signal handler relies."""
    exiting = """
import logging, time
class Exiting(logging.Handler):
    def emit(self, record):
        if "not exported at exit" in record.getMessage():
            raise SystemExit
logging.getLogger("codex_otel_logging").addHandler(Exiting())
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
print("ready", flush=True)
while True: time.sleep(0.01)
"""
    program = SIGTERM_PROGRAM.replace("print('ready', flush=True)", "")
    exporter = http_collector(UNAVAILABLE).exporter
    table = json.dumps({"exporter": exporter, "batch": {"shutdown_timeout_ms": 1500}})
    status, _ = terminated(program, table, "0", exiting)
    assert status == -signal.SIGTERM


def test_flush_on_sigterm_outside_the_main_thread_raises(run_python: RunPython) -> None:
    program = """
import threading, codex_otel_logging
def call():
    try: codex_otel_logging.flush_on_sigterm()
    except ValueError as error: print(error)
thread = threading.Thread(target=call); thread.start(); thread.join()
"""
    assert "main thread" in run_python(program).stdout
