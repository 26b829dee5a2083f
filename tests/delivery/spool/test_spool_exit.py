"""Covers how a process with a spool ends: what is exported, what is kept, and what is reported."""

from __future__ import annotations

import errno
import json
import logging
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver, Stats
from codex_otel_logging.delivery import flushing
from codex_otel_logging.delivery.flushing import flush_at_exit
from codex_otel_logging.delivery.spool import disk
from codex_otel_logging.delivery.spool.leftovers import Leftovers
from codex_otel_logging.delivery.wakeup import Wakeup
from codex_otel_logging.delivery.worker import State, Worker
from codex_otel_logging.native import monotonic
from codex_otel_logging.receiver import ReceivedRequest, events_of
from support.collectors import HANG_UP, OK, UNAVAILABLE, Gate, HttpCollector, over_http
from support.fixtures import HandlerFactory, RunPython, Scripted
from support.kills import export_leftovers, handler_of, otel_table, segments, until
from support.parts import worker_of
from support.paths import PROGRAMS, read_program
from support.recipes import LISTENING, UVICORN, append, lay_out_applications, start
from support.records import record
from support.servers import Program, Prompts

pytestmark = pytest.mark.thorough

LOG_THEN = read_program("log_then_run")


def with_time_for_leftovers(program: str, seconds: float) -> str:
    """Return a program whose exit exports leftovers for so long: half a second may be too short."""
    patch = "from codex_otel_logging.delivery import flushing; flushing.LEFTOVERS_AT_EXIT_S ="
    return f"{patch} {seconds}\n{program}"


LOG_AGAIN = """
assert handler.flush(20)
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
"""

LOG_OTHER = """
logger.info("codex.turn_ttft", extra={"duration_ms": 0, "conversation.id": "other"})
"""

http_only = pytest.mark.parametrize("exporter", ["otlp-http"], indirect=True)
"""For cases in which the transport makes no difference."""

NEVER_MS = 600_000
"""Longer than a test may take."""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def numbers(events: list[Any]) -> list[int]:
    """Return the numbers of the events of the programs, in order of arrival."""
    return [
        event.attributes["duration_ms"]
        for event in events
        if event.attributes["conversation.id"] == "c"
    ]


def log(number: int) -> None:
    extra = {"duration_ms": number, "conversation.id": "c"}
    logging.getLogger("codex_otel").info("codex.turn_ttft", extra=extra)


@pytest.mark.processes
def test_exit_without_collector_keeps_all_events_and_reports_them_in_one_line(
    run_python: RunPython, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    gate.refuse()
    otel = otel_table(gated, spool)
    done = run_python(LOG_THEN, json.dumps(otel), "300", "")
    assert done.returncode == 0
    ((name, settings),) = gated.items()
    kept = re.escape(f"300 events kept in {spool} ({name} {settings['endpoint']}: ")
    then = re.escape(
        "); the next process that logs exports them, or run: codex-otel-logging drain [PATH]\n"
    )
    assert re.fullmatch(f"{kept}.*{then}", done.stderr), done.stderr
    gate.open()
    assert export_leftovers(otel, spool)
    assert numbers(receiver.events) == list(range(300))


@pytest.mark.processes
def test_exit_leaves_after_one_failed_attempt(
    run_python: RunPython, scripted: Scripted, spool: Path
) -> None:
    collector = scripted(UNAVAILABLE)
    otel = otel_table(
        collector.exporter, spool, schedule_delay_ms=NEVER_MS, shutdown_timeout_ms=NEVER_MS
    )
    done = run_python(LOG_THEN, json.dumps(otel), "10", "")
    assert done.returncode == 0
    assert len(collector.requests) == 1
    assert done.stderr.startswith(f"10 events kept in {spool} (")


@pytest.mark.processes
def test_sigterm_handler_leaves_after_one_failed_attempt(
    run_python: RunPython, scripted: Scripted, spool: Path
) -> None:
    collector = scripted(UNAVAILABLE)
    otel = otel_table(
        collector.exporter, spool, schedule_delay_ms=NEVER_MS, shutdown_timeout_ms=NEVER_MS
    )
    terminate = """
import os, signal
codex_otel_logging.flush_on_sigterm()
os.kill(os.getpid(), signal.SIGTERM)
while True: signal.pause()
"""
    done = run_python(LOG_THEN, json.dumps(otel), "10", terminate)
    assert done.returncode == -signal.SIGTERM
    assert len(collector.requests) == 1
    assert done.stderr.startswith(f"10 events kept in {spool} (")


@http_only
@pytest.mark.processes
def test_handlers_that_share_a_directory_report_their_events_in_one_line(
    run_python: RunPython, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    gate.refuse()
    otel = otel_table(gated, spool, schedule_delay_ms=NEVER_MS)
    twice = "logger.addHandler(codex_otel_logging.from_table(json.loads(sys.argv[1])))"
    done = run_python(LOG_THEN, json.dumps(otel), "1", f"{twice}; {LOG_OTHER.strip()}")
    warning, kept = done.stderr.splitlines()
    assert "are exported 2 times" in warning
    assert kept.startswith(f"3 events kept in {spool} (")
    gate.open()
    assert export_leftovers(otel, spool)
    assert numbers(receiver.events) == [0]
    assert len(receiver.events) == 4


@pytest.mark.processes
def test_exit_leaves_after_one_more_attempt_during_an_outage(
    run_python: RunPython, scripted: Scripted, spool: Path
) -> None:
    """The worker backs off when the process ends."""
    collector = scripted(UNAVAILABLE)
    otel = otel_table(collector.exporter, spool, schedule_delay_ms=0, shutdown_timeout_ms=NEVER_MS)
    backs_off = """
from codex_otel_logging.delivery.worker import State
import time
sender = handler._pipeline.worker.sender
while handler._pipeline.worker.state is not State.BACKING_OFF: time.sleep(0.001)
sender.backoff_s = lambda *_, **__: 600.0
failures = sender._failures
while sender._failures == failures or handler._pipeline.worker.state is not State.BACKING_OFF:
    time.sleep(0.001)
before = sender._failures
import atexit, sys
"""
    done = run_python(LOG_THEN, json.dumps(otel), "10", backs_off + "print(before)")
    assert len(collector.requests) == int(done.stdout) + 1
    assert "10 events kept in " in done.stderr


@pytest.mark.processes
def test_exit_does_not_wait_for_retry_after(
    run_python: RunPython, http_collector: Callable[..., HttpCollector], spool: Path
) -> None:
    """The events are on disk, and nothing is exported before that time."""
    collector = http_collector((503, {"Retry-After": "600"}, b""))
    otel = otel_table(collector.exporter, spool, schedule_delay_ms=0, shutdown_timeout_ms=NEVER_MS)
    backs_off = """
from codex_otel_logging.delivery.worker import State
import time
while handler._pipeline.worker.state is not State.BACKING_OFF: time.sleep(0.001)
"""
    done = run_python(LOG_THEN, json.dumps(otel), "1", backs_off)
    assert len(collector.requests) == 1
    assert done.stderr.startswith(f"1 event kept in {spool} (")


@pytest.mark.processes
def test_hanging_collector_delays_the_exit_by_shutdown_timeout_ms(
    run_python: RunPython, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    gate.hang()
    next(iter(gated.values()))["timeout_ms"] = NEVER_MS
    otel = otel_table(gated, spool, shutdown_timeout_ms=200)
    done = run_python(LOG_THEN, json.dumps(otel), "10", "")
    assert done.returncode == 0
    assert done.stderr.startswith(f"10 events kept in {spool} (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.processes
def test_events_that_a_slow_collector_has_not_accepted_at_exit_are_kept(
    run_python: RunPython,
    receiver: Receiver,
    http_collector: Callable[..., HttpCollector],
    spool: Path,
) -> None:
    """The exit waits for at most five times `shutdown_timeout_ms`, here for fewer than all."""
    gate = Gate(http_collector(OK, delay_s=0.2).endpoint)
    slow = http_collector(OK, delay_s=0.2)
    gate.lead_to(slow.endpoint)
    exporter = {"otlp-http": {"endpoint": gate.endpoint}}
    otel = otel_table(exporter, spool, shutdown_timeout_ms=300, max_batch_size=10)
    done = run_python(LOG_THEN, json.dumps(otel), "200", "")
    assert done.returncode == 0
    kept = re.match("([0-9]+) events kept in ", done.stderr)
    assert kept, done.stderr
    gate.lead_to(receiver.http_endpoint)
    assert export_leftovers(otel, spool)
    gate.close()
    before, after = numbers(slow.events), numbers(receiver.events)
    assert len(after) == int(kept[1])
    assert sorted({*before, *after}) == list(range(200))
    # The last request was answered after the process had ended.
    assert len(before) + len(after) - 200 <= 10


@pytest.mark.processes
@pytest.mark.parametrize("failure", [UNAVAILABLE, HANG_UP], ids=["unavailable", "hung up"])
def test_first_failure_on_a_used_connection_earns_one_retry_at_exit(
    run_python: RunPython,
    http_collector: Callable[..., HttpCollector],
    spool: Path,
    failure: Any,
) -> None:
    """The collector may have closed the connection while it was idle."""
    collector = http_collector(OK, failure, OK)
    otel = otel_table(collector.exporter, spool, shutdown_timeout_ms=NEVER_MS)
    done = run_python(LOG_THEN, json.dumps(otel), "1", LOG_AGAIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(collector.events) == [0, 1]
    assert not segments(spool)


@pytest.mark.processes
def test_exit_gives_up_after_that_retry(
    run_python: RunPython, scripted: Scripted, spool: Path
) -> None:
    collector = scripted(OK, UNAVAILABLE)
    otel = otel_table(
        collector.exporter, spool, schedule_delay_ms=NEVER_MS, shutdown_timeout_ms=NEVER_MS
    )
    done = run_python(LOG_THEN, json.dumps(otel), "1", LOG_AGAIN)
    assert done.stderr.startswith(f"1 event kept in {spool} (")
    assert len(collector.requests) == 3


@http_only
@pytest.mark.processes
@pytest.mark.parametrize("state", ["healthy", "down"])
def test_events_of_all_exit_hooks_arrive(
    run_python: RunPython,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    state: str,
) -> None:
    """Hooks that were registered before this package's hook run after it."""
    if state == "down":
        gate.refuse()
    register = """
atexit.register(lambda: logger.info('codex.turn_ttft', extra={'duration_ms': %d, **conversation}))
"""
    program = "\n".join(
        [
            "import atexit\nconversation = {'conversation.id': 'c'}",
            register % 1,
            "import logging",
            register % 2,
            LOG_THEN,
            register % 3,
        ]
    )
    otel = otel_table(gated, spool, shutdown_timeout_ms=NEVER_MS)
    done = run_python(program, json.dumps(otel), "0", "")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    gate.open()
    if state == "down":
        assert export_leftovers(otel, spool)
    assert numbers(receiver.events) == [3, 2, 1]
    assert not segments(spool)


@http_only
@pytest.mark.processes
@pytest.mark.parametrize("before", [0, 1], ids=["first event", "later event"])
@pytest.mark.parametrize("state", ["healthy", "down"])
@pytest.mark.parametrize("locked", [False, True], ids=["", "locked"])
def test_events_logged_during_interpreter_finalization_are_written(
    run_python: RunPython,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    before: int,
    state: str,
    locked: bool,
) -> None:
    """No thread runs then, and one may have stopped while holding the queue's lock."""
    if state == "down":
        gate.refuse()
    late = f"""
import threading
class Late:
    def __del__(self, log=logger.info, print=print):
        for number in range(-3, 0):
            log("codex.turn_ttft", extra={{"duration_ms": number, "conversation.id": "c"}})
        print("logged", flush=True)
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
    otel = otel_table(gated, spool)
    done = run_python(last + LOG_THEN, json.dumps(otel), str(before), late)
    assert (done.returncode, done.stdout) == (0, "logged\n"), done.stderr
    assert "Traceback" not in done.stderr
    gate.open()
    assert export_leftovers(otel, spool)
    assert sorted(numbers(receiver.events)) == [-3, -2, -1, *range(before)]


@http_only
@pytest.mark.processes
@pytest.mark.parametrize("state", ["healthy", "down"])
def test_events_of_daemon_threads_that_log_until_the_end_arrive(
    run_python: RunPython,
    receiver: Receiver,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    tmp_path: Path,
    state: str,
) -> None:
    """Each thread notes in a file how many of its logging calls have returned."""
    if state == "down":
        gate.refuse()
    endless = f"""
import itertools, os, threading
counts = os.open({str(tmp_path / "counts")!r}, os.O_RDWR | os.O_CREAT, 0o600)
def endless(thread):
    for number in itertools.count(1):
        extra = {{"duration_ms": thread * 1_000_000 + number, "conversation.id": "c"}}
        logger.info("codex.turn_ttft", extra=extra)
        os.pwrite(counts, number.to_bytes(8, "little"), 8 * thread)
        started.set()
started = threading.Event()
for thread in range(3):
    threading.Thread(target=endless, args=(thread,), daemon=True).start()
started.wait()
"""
    otel = otel_table(gated, spool, shutdown_timeout_ms=NEVER_MS)
    done = run_python(LOG_THEN, json.dumps(otel), "0", endless)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    gate.open()
    assert export_leftovers(otel, spool)
    found = numbers(receiver.events)
    data = (tmp_path / "counts").read_bytes().ljust(24, b"\0")
    counts = [int.from_bytes(data[8 * thread :][:8], "little") for thread in range(3)]
    logged = {t * 1_000_000 + n for t, count in enumerate(counts) for n in range(1, count + 1)}
    assert logged - {*found} == set()
    if state == "down":
        assert len({*found}) == len(found)


@pytest.mark.processes
def test_exit_exports_what_an_earlier_run_has_left(
    run_python: RunPython, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    """A program that runs for a moment only would otherwise never export it."""
    gate.refuse()
    otel = otel_table(gated, spool)
    run_python(LOG_THEN, json.dumps(otel), "20", "")
    assert segments(spool)
    gate.open()
    done = run_python(with_time_for_leftovers(LOG_THEN, 20), json.dumps(otel), "1", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(receiver.events) == [0, *range(20)]
    assert not segments(spool)


@http_only
@pytest.mark.processes
def test_exit_exports_own_events_before_those_of_an_earlier_run(
    run_python: RunPython, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    """The time for them is short, and that for own events ends if there is no progress."""
    gate.refuse()
    otel = otel_table(gated, spool, schedule_delay_ms=NEVER_MS, max_batch_size=10)
    run_python(LOG_THEN, json.dumps(otel), "30", "")
    gate.open()
    log_later_numbers = LOG_THEN.replace('"duration_ms": number', '"duration_ms": 100 + number')
    done = run_python(with_time_for_leftovers(log_later_numbers, 20), json.dumps(otel), "30", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(receiver.events) == [*range(100, 130), *range(30)]


@pytest.mark.processes
def test_exit_cuts_no_export_short_that_takes_as_long_as_the_last_one(
    run_python: RunPython,
    receiver: Receiver,
    http_collector: Callable[..., HttpCollector],
    spool: Path,
) -> None:
    """Its events would be exported again by the next start, although nobody was killed."""
    slow = http_collector(OK, delay_s=0.8)
    gate = Gate(slow.endpoint)
    gate.refuse()
    exporter = {"otlp-http": {"endpoint": gate.endpoint}}
    otel = otel_table(exporter, spool, max_batch_size=10)
    run_python(LOG_THEN, json.dumps(otel), "100", "")
    gate.lead_to(slow.endpoint)
    # Three requests take 2.4 seconds, and there is no time for a fourth.
    program = with_time_for_leftovers(LOG_THEN, 3)
    assert run_python(program, json.dumps(otel), "0", LOG_OTHER).stderr == ""
    gate.lead_to(receiver.http_endpoint)
    assert export_leftovers(otel, spool)
    gate.close()
    assert sorted(numbers(slow.events) + numbers(receiver.events)) == list(range(100))


@pytest.mark.processes
def test_exit_does_not_wait_long_for_what_an_earlier_run_has_left(
    run_python: RunPython, spool: Path
) -> None:
    """Here the collector never answers the request with the leftovers."""
    hangs = threading.Event()
    arrived: list[int] = []

    def take(request: ReceivedRequest) -> None:
        events = list(events_of(request))
        if len(events) > 1:
            hangs.wait(50)
        arrived.extend(numbers(events))

    with Receiver(on_request=take) as receiver:
        gate = Gate(receiver.http_endpoint)
        exporter = {"otlp-http": {"endpoint": gate.endpoint, "timeout_ms": NEVER_MS}}
        otel = otel_table(exporter, spool, shutdown_timeout_ms=NEVER_MS)
        gate.refuse()
        run_python(LOG_THEN, json.dumps(otel), "20", "")
        gate.open()
        done = run_python(LOG_THEN, json.dumps(otel), "1", "")
        assert (done.returncode, done.stderr) == (0, "")
        assert arrived == [0]
        assert len(segments(spool)) == 1
        gate.close()
        hangs.set()


class SimulatedWaits:
    """A clock of the thread that flushes; only its waits move it, as if nothing ever happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = self.now = monotonic()
        simulated = self

        class Waiter(Wakeup):
            def wait(self, timeout_s: float) -> bool:
                simulated.now += timeout_s
                return False

        monkeypatch.setattr(flushing, "monotonic", lambda: self.now)
        monkeypatch.setattr(flushing, "Wakeup", Waiter)


def test_exit_waits_for_shutdown_timeout_ms_for_a_hanging_collector(
    attach: HandlerFactory,
    gated: dict[str, Any],
    gate: Gate,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate.hang()
    next(iter(gated.values()))["timeout_ms"] = NEVER_MS
    handler = attach(otel_table(gated, spool, schedule_delay_ms=0, shutdown_timeout_ms=200))
    log(0)
    assert gate.wait_for_connection()
    worker = worker_of(handler)
    assert until(lambda: worker.sender._progressed_at is not None)
    waits = SimulatedWaits(monkeypatch)
    flush_at_exit([worker])
    assert waits.now - waits.started == pytest.approx(0.2)
    assert handler.stats() == Stats(accepted=1, queued=1, spooled=1)


@http_only
def test_events_that_are_exported_while_the_exit_syncs_do_not_count_as_kept(
    attach: HandlerFactory, gated: dict[str, Any], spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy disk may take a second, and the worker does not stop meanwhile."""
    worker = worker_of(attach(otel_table(gated, spool, schedule_delay_ms=NEVER_MS)))
    for number in range(3):
        log(number)
    queue = worker.queue

    def export_one() -> None:
        with queue.lock:
            queue.batch = [queue.waiting.popleft()]
        queue.account(queue.settled + 1, exported=1)

    monkeypatch.setattr(queue, "sync", export_one)
    worker.begin_shutdown(for_good=False)
    undelivered = worker.end_shutdown()
    assert undelivered is not None
    assert (undelivered.lost, undelivered.kept) == (0, 2)


@http_only
def test_exit_exports_leftovers_for_half_a_second_at_most(
    attach: HandlerFactory,
    gated: dict[str, Any],
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = attach(otel_table(gated, spool, schedule_delay_ms=0))
    log(0)
    assert handler.flush(20)
    worker = worker_of(handler)
    deadlines: list[float] = []
    monkeypatch.setattr(worker, "export_leftovers_at_exit", deadlines.append)
    monkeypatch.setattr(Worker, "is_exporting_leftovers", True)  # without an end
    waits = SimulatedWaits(monkeypatch)
    flush_at_exit([worker])
    assert deadlines == [pytest.approx(waits.started + 0.5)]
    assert waits.now == pytest.approx(waits.started + 0.5)


@http_only
def test_flush_waits_again_in_a_process_that_has_survived_sigterm(
    attach: HandlerFactory, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    """Its own signal handler may flush last, and the collector may work again by then."""
    gate.refuse()
    handler = attach(otel_table(gated, spool, schedule_delay_ms=NEVER_MS))
    log(0)
    flush_at_exit([worker_of(handler)], for_good=False)
    assert handler.stats() == Stats(accepted=1, queued=1, spooled=1)
    gate.open()
    assert handler.flush(20)
    assert numbers(receiver.events) == [0]


@pytest.mark.processes
def test_exit_leaves_the_leftovers_that_a_slow_collector_has_not_accepted(
    run_python: RunPython, http_collector: Callable[..., HttpCollector], spool: Path
) -> None:
    """Their export would take six seconds."""
    slow = http_collector(OK, delay_s=0.1)
    gate = Gate(slow.endpoint)
    gate.refuse()
    exporter = {"otlp-http": {"endpoint": gate.endpoint}}
    otel = otel_table(exporter, spool, max_batch_size=5, schedule_delay_ms=NEVER_MS)
    run_python(LOG_THEN, json.dumps(otel), "300", "")
    gate.open()
    done = run_python(LOG_THEN, json.dumps(otel), "0", LOG_OTHER)
    gate.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(segments(spool)) == 1
    assert len(slow.requests) < 30


def test_closed_handler_leaves_its_events_to_another_one(
    attach: HandlerFactory, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    """The first one still counts them as queued, because it has not exported them."""
    gate.refuse()
    otel = otel_table(gated, spool)
    closed = attach(otel)
    for number in range(30):
        log(number)
    worker = worker_of(closed)
    closed.close()
    logging.getLogger("codex_otel").removeHandler(closed)
    assert until(lambda: worker.thread is None)
    stats = closed.stats()
    assert (stats.accepted, stats.queued, stats.spooled) == (30, 30, 30)
    gate.open()
    with handler_of(otel) as other:
        other.handle(record("codex.turn_ttft", extra={"duration_ms": -1, "conversation.id": "c"}))
        assert other.flush(20)
        assert until(lambda: other.stats().recovered == 30)
        assert until(lambda: not segments(spool))
        assert other.stats().accepted == other.stats().exported == 1
    assert numbers(receiver.events) == [-1, *range(30)]
    assert closed.stats() == stats


def test_close_retries_once_on_a_used_connection(
    attach: HandlerFactory, http_collector: Callable[..., HttpCollector], spool: Path
) -> None:
    collector = http_collector(OK, HANG_UP, OK)
    handler = attach(otel_table(collector.exporter, spool, schedule_delay_ms=NEVER_MS))
    log(0)
    assert handler.flush(20)
    log(1)
    worker = worker_of(handler)
    handler.close()
    assert until(lambda: worker.thread is None)
    assert numbers(collector.events) == [0, 1]
    assert handler.stats().queued == 0
    assert not segments(spool)


def test_close_does_not_wait_for_retry_after(
    attach: HandlerFactory, http_collector: Callable[..., HttpCollector], spool: Path
) -> None:
    """The segments would be locked until then."""
    collector = http_collector((503, {"Retry-After": "600"}, b""))
    handler = attach(otel_table(collector.exporter, spool, schedule_delay_ms=0))
    log(0)
    worker = worker_of(handler)
    assert until(lambda: worker.state.name == "BACKING_OFF")
    handler.close()
    assert until(lambda: worker.thread is None)
    assert (handler.stats().queued, handler.stats().spooled) == (1, 1)


def test_worker_is_idle_if_the_collector_fails_before_all_leftovers_are_exported(
    attach: HandlerFactory,
    receiver: Receiver,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It exports the others after its next success."""
    gate = Gate(receiver.http_endpoint)
    gate.refuse()
    exporter = {"otlp-http": {"endpoint": gate.endpoint}}
    otel = otel_table(exporter, spool, schedule_delay_ms=0, max_batch_size=10, retry_for_ms=1)
    earlier = attach(otel)
    for number in range(30):
        log(number)
    earlier_worker = worker_of(earlier)
    earlier.close()
    logging.getLogger("codex_otel").removeHandler(earlier)
    assert until(lambda: earlier_worker.thread is None)
    gate.open()
    worker = worker_of(attach(otel))
    step = Leftovers.step

    def step_and_fail(leftovers: Leftovers, **options: bool) -> bool:
        exported = step(leftovers, **options)
        gate.refuse()
        monkeypatch.setattr(disk, "create", no_space)
        log(100)
        return exported

    def no_space(path: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Leftovers, "step", step_and_fail)
    log(99)
    assert until(lambda: worker.queue.stats().dropped == 1)
    assert until(lambda: worker.state is State.IDLE)
    assert numbers(receiver.events) == [99, *range(10)]
    gate.close()


@pytest.mark.processes
def test_handler_configured_again_recovers_the_events_of_its_predecessor(
    receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path, tmp_path: Path
) -> None:
    """`dictConfig` closes the old handler. The exit reports nothing, because nothing is left."""
    gate.refuse()
    table = json.dumps(otel_table(gated, spool))
    file = tmp_path / "go on"
    command = (str(PROGRAMS / "configured_while_down.py"), table, str(file))
    with Program(tmp_path, *command) as program:
        program.read_until("ended")
        gate.open()
        file.touch()
        _, first, second = program.wait().splitlines()
    assert json.loads(first) == Stats(accepted=3, queued=3, spooled=3)._asdict()
    assert json.loads(second) == Stats(accepted=1, exported=1, recovered=3)._asdict()
    assert sorted(numbers(receiver.events)) == [0, 1, 2, 3]
    assert not segments(spool)


@pytest.mark.processes
def test_uvicorn_keeps_all_events_at_sigterm_without_the_lifespan(
    tmp_path: Path, receiver: Receiver, spool: Path
) -> None:
    """The server ends by the signal, so no exit hook runs."""
    pytest.importorskip("fastapi")
    exporter = over_http(receiver)
    lay_out_applications(tmp_path, exporter, lifespan=False)
    append(
        tmp_path / ".codex" / "config.toml", f"\n[otel.spool]\npath = {json.dumps(str(spool))}\n"
    )
    prompts = Prompts()
    with start(tmp_path, *UVICORN, "service:app") as server:
        prompts.post(int(server.read_until(LISTENING)[1]), 10)
        server.signal(signal.SIGTERM)
        assert "Traceback" not in server.wait(-signal.SIGTERM)
    assert receiver.events == []
    assert export_leftovers(otel_table(exporter, spool), spool)
    prompts.assert_arrived(receiver.events)
