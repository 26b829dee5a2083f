"""Covers processes that share a spool: forks, deaths, adoption, and who owns which segment."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver
from codex_otel_logging.delivery import worker as worker_module
from codex_otel_logging.delivery.spool import disk
from codex_otel_logging.delivery.spool.segment import adopt, remove_unfinished
from codex_otel_logging.receiver import ReceivedRequest, events_of
from support.collectors import Gate
from support.fixtures import HandlerFactory, RunPython
from support.kills import (
    export_leftovers,
    handler_of,
    otel_table,
    segments,
    until,
)
from support.parts import worker_of
from support.paths import PROGRAMS, read_program
from support.records import record
from support.servers import Program

pytestmark = pytest.mark.thorough

processes = pytest.mark.processes
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")

http_only = pytest.mark.parametrize("exporter", ["otlp-http"], indirect=True)
"""For cases in which the transport makes no difference."""

NEVER_MS = 600_000


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def arrived(receiver: Receiver) -> Counter[tuple[str, int]]:
    """Return how often each event has arrived, without those of `export_leftovers`."""
    return Counter(
        (event.attributes["conversation.id"], event.attributes["duration_ms"])
        for event in receiver.events
        if event.attributes["conversation.id"] != "next start"
    )


def log_to(handler: CodexOtelHandler, conversation: str, *numbers: int) -> None:
    for number in numbers:
        extra = {"duration_ms": number, "conversation.id": conversation}
        handler.handle(record("codex.turn_ttft", extra=extra))


def leave(otel: dict[str, Any], conversation: str, count: int) -> None:
    """Leave events in the spool, as `close` does while the collector is down."""
    with handler_of(otel) as handler:
        log_to(handler, conversation, *range(count))
        worker = worker_of(handler)
    assert until(lambda: worker.thread is None)
    assert handler.stats().queued == count


@processes
@forks
@pytest.mark.parametrize("state", ["down", "healthy"])
def test_events_of_a_preforking_server_arrive_however_its_workers_die(
    run_python: RunPython,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    state: str,
) -> None:
    """Nothing arrives twice, except for at most one batch per killed worker."""
    if state == "down":
        gate.refuse()
    otel = otel_table(gated, spool, schedule_delay_ms=0, max_batch_size=20)
    done = run_python(read_program("prefork"), json.dumps(otel), "100")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    gate.open()
    assert export_leftovers(otel, spool)
    found = arrived(receiver)
    expected = {(name, number) for name in json.loads(done.stdout) for number in range(100)}
    assert {*found} == expected
    killed = 0 if state == "down" else 5
    assert sum(found.values()) - len(found) <= killed * 20


@pytest.mark.parametrize("redirect", [False, True], ids=["", "third resource"])
def test_each_event_is_exported_with_the_resource_of_its_application(
    receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path, redirect: bool
) -> None:
    """The leftovers of several applications are in one directory, and one of them exports both."""
    gate.refuse()
    otel = otel_table(gated, spool)
    for name in ("first", "second"):
        leave({**otel, "service_name": name}, name, 30)
    gate.open()
    last = "third" if redirect else "second"
    with handler_of({**otel, "service_name": last}) as handler:
        log_to(handler, "last", 0)
        assert handler.flush(20)
        assert until(lambda: not segments(spool))
        assert handler.stats().recovered == 60
    found = Counter(
        (event.attributes["conversation.id"], event.resource["service.name"])
        for event in receiver.events
    )
    assert found == {("first", "first"): 30, ("second", "second"): 30, ("last", last): 1}


@processes
def test_eight_adopters_at_once_export_every_event_once(
    receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path, tmp_path: Path
) -> None:
    gate.refuse()
    otel = otel_table(gated, spool, max_batch_size=5)
    for number in range(24):
        leave(otel, f"left{number}", 20)
    gate.open()
    file = tmp_path / "go on"
    with ExitStack() as stack:
        adopters = [
            stack.enter_context(
                Program(
                    tmp_path, str(PROGRAMS / "adopter.py"), json.dumps(otel), f"own{n}", str(file)
                )
            )
            for n in range(8)
        ]
        for adopter in adopters:
            adopter.read_until("started")
        file.touch()
        outputs = [adopter.wait() for adopter in adopters]
    assert not any("spool" in output for output in outputs), outputs
    found = arrived(receiver)
    assert {*found} == {
        *((f"left{left}", number) for left in range(24) for number in range(20)),
        *((f"own{number}", 0) for number in range(8)),
    }
    assert set(found.values()) == {1}
    recovered = [int(output.splitlines()[-1]) for output in outputs]
    assert sum(recovered) == 24 * 20


@processes
@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_killed_adopter_costs_one_batch_twice(spool: Path, tmp_path: Path, name: str) -> None:
    """The next one continues where it was killed, right before it got the answer."""
    adopters: list[Program] = []
    requests: list[list[int]] = []
    dead = threading.Event()

    def take(request: ReceivedRequest) -> None:
        left = [
            event.attributes["duration_ms"]
            for event in events_of(request)
            if event.attributes["conversation.id"] == "left"
        ]
        if left:
            requests.append(left)
        if len(requests) == 5 and adopters:
            adopters.pop().signal(signal.SIGKILL)
            dead.wait(20)  # it must not get the answer

    with Receiver(on_request=take) as receiver:
        endpoint = receiver.http_endpoint if name == "otlp-http" else receiver.grpc_endpoint
        gate = Gate(endpoint)
        gate.refuse()
        otel = otel_table({name: {"endpoint": gate.endpoint}}, spool, max_batch_size=10)
        leave(otel, "left", 100)
        gate.open()
        command = (str(PROGRAMS / "adopter.py"), json.dumps(otel), "own", str(tmp_path))
        with Program(tmp_path, *command) as adopter:
            adopters.append(adopter)
            assert until(lambda: not adopters)
            adopter.wait(-signal.SIGKILL)
            dead.set()
        assert len(segments(spool)) == 1
        assert export_leftovers(otel, spool)
        gate.close()
    numbers = [number for request in requests for number in request]
    assert numbers == [*range(50), *range(40, 100)]


@processes
def test_nobody_takes_a_segment_of_a_living_process(
    receiver: Receiver, gated: dict[str, Any], spool: Path, tmp_path: Path
) -> None:
    """Another handler scans the directory meanwhile, in this process and in another one."""
    otel = otel_table(gated, spool, schedule_delay_ms=NEVER_MS)
    with handler_of(otel) as living:
        log_to(living, "living", *range(10))
        (segment,) = segments(spool)
        assert adopt(str(spool / segment)) is None
        with handler_of(otel) as other:
            log_to(other, "other", 0)
            assert other.flush(20)
            assert until(lambda: not worker_of(other).is_exporting_leftovers)
        command = (str(PROGRAMS / "log_then_run.py"), json.dumps(otel), "1", "")
        with Program(tmp_path, *command) as program:
            assert program.wait() == ""
        assert arrived(receiver) == {("other", 0): 1, ("c", 0): 1}
        assert segments(spool) == [segment]
        assert living.flush(20)
    assert arrived(receiver) == {
        ("other", 0): 1, ("c", 0): 1, **{("living", number): 1 for number in range(10)}
    }  # fmt: skip
    assert not segments(spool)


@http_only
@processes
@forks
@pytest.mark.parametrize(
    ("fork", "moment"),
    [
        ("python", "between"),
        ("native", "between"),
        ("python", "before"),
        ("native", "before"),
        ("python", "after"),
        ("native", "after"),
        # Not natively: if another thread waits for the GIL meanwhile, the child hangs anyway.
        ("python", "busy"),
    ],
)
def test_events_of_parent_and_forked_children_arrive_once(
    run_python: RunPython,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    fork: str,
    moment: str,
) -> None:
    """Both die without exporting. Each has segments of its own."""
    gate.refuse()
    delay_ms = NEVER_MS if fork == "native" else 50
    otel = otel_table(gated, spool, schedule_delay_ms=delay_ms)
    program = "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
    done = run_python(program + read_program("fork_into_spool"), json.dumps(otel), fork, moment)
    assert done.returncode == 0
    # On a busy machine the outage may last long enough to be reported.
    assert "Traceback" not in done.stderr
    gate.open()
    assert export_leftovers(otel, spool)
    expected = {
        (conversation, number)
        for conversation, count in json.loads(done.stdout).items()
        for number in range(1, count + 1)
    }
    found = arrived(receiver)
    assert {*found} == expected
    assert set(found.values()) == {1}


@http_only
@processes
@forks
@pytest.mark.parametrize(
    "holds",
    [
        "own segments",
        "a leftover",
        "all descriptors",
        "a new segment",
        pytest.param("a new descriptor", marks=needs_proc),
    ],
)
def test_idle_child_does_not_lock_what_its_parent_has_left(
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    tmp_path: Path,
    holds: str,
) -> None:
    """A lock is freed when the last process that has the file open closes it."""
    gate.refuse()
    gated["otlp-http"]["timeout_ms"] = NEVER_MS
    otel = otel_table(gated, spool, shutdown_timeout_ms=0)
    adopts = holds in ("a leftover", "all descriptors")
    if adopts:
        leave(otel, "left", 10)
    with Program(tmp_path, str(PROGRAMS / "fork_and_die.py"), json.dumps(otel), holds) as program:
        if adopts:
            gate.open()
        child = int(program.read_until("child ([0-9]+)")[1])
        try:
            program.wait(-signal.SIGKILL)
            gate.open()
            assert export_leftovers(otel, spool, 10)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
    expected = [("left", n) for n in range(10)] if holds == "a leftover" else [("parent", 0)]
    found = arrived(receiver)
    assert {*expected} <= {*found}


@http_only
@processes
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_events_of_multiprocessing_workers_arrive(
    tmp_path: Path, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    gate.refuse()
    otel = otel_table(gated, spool)
    with Program(
        tmp_path, str(PROGRAMS / "spool_processes.py"), json.dumps(otel), method
    ) as program:
        output = program.wait()
    assert "[0, 7, 0]\n" in output
    assert "Traceback" not in output
    gate.open()
    assert export_leftovers(otel, spool)
    assert arrived(receiver) == {("c", number): 1 for number in range(4)}


@pytest.mark.parametrize("closes", [False, True], ids=["", "closed"])
def test_outages_and_recoveries_leak_no_descriptor(
    attach: HandlerFactory,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    closes: bool,
) -> None:
    """If the handler is closed in an outage, it recovers its own events later."""
    monkeypatch.setattr(worker_module, "RESCAN_S", 0.0)
    opened: list[int] = []
    closed: list[int] = []
    monkeypatch.setattr(disk, "create", _noting(disk.create, opened))
    monkeypatch.setattr(disk, "open_existing", _noting(disk.open_existing, opened))
    close = disk.close

    def noting_close(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    monkeypatch.setattr(disk, "close", noting_close)
    handler = attach(otel_table(gated, spool, schedule_delay_ms=0))
    for cycle in range(20):
        gate.refuse()
        log_to(handler, "c", 2 * cycle)
        if closes:
            handler.close()
            assert until(lambda: worker_of(handler).thread is None)
        else:
            assert not handler.flush(0.01)
        gate.open()
        log_to(handler, "c", 2 * cycle + 1)
        assert until(lambda: not segments(spool)), cycle
    assert until(lambda: handler.stats().exported == 40)
    assert handler.stats().recovered == 0
    assert opened
    assert until(lambda: Counter(opened) == Counter(closed))
    assert arrived(receiver) == {("c", number): 1 for number in range(40)}


def _noting(function: Any, noted: list[int]) -> Any:
    def call(*arguments: Any) -> Any:
        noted.append(descriptor := function(*arguments))
        return descriptor

    return call


def test_scan_between_creation_and_lock_costs_nothing(
    attach: HandlerFactory,
    receiver: Receiver,
    gated: dict[str, Any],
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another process removes the file, because nobody has locked it yet."""
    create = disk.create
    scans = iter(range(2))

    def create_and_scan(path: str) -> int:
        descriptor = create(path)
        if next(scans, None) is not None:
            remove_unfinished(path)
        return descriptor

    monkeypatch.setattr(disk, "create", create_and_scan)
    handler = attach(otel_table(gated, spool, schedule_delay_ms=NEVER_MS))
    log_to(handler, "c", 0)
    assert next(scans, None) is None
    assert handler.stats().spooled == 1
    assert handler.flush(20)
    assert caplog.records == []
    assert not segments(spool)
