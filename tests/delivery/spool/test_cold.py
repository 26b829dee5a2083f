"""Cold events: those that are on disk only, because the memory for events is full.

Nothing is lost, the order is that of the sequence numbers, and the counts are exact at every
moment: in outages, while the disk fails, when records are damaged or removed, across forks, exits
and deaths. The memory and the segments are small here; the benchmark has the real ones.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from codex_otel_logging import CodexOtelHandler, Receiver, Stats, diagnostics
from codex_otel_logging.delivery import queue as queue_module
from codex_otel_logging.delivery.lifecycle import Pipeline
from codex_otel_logging.delivery.spool import cold, disk, journal
from codex_otel_logging.delivery.spool.records import RecordDecoder
from codex_otel_logging.events.event import Event
from codex_otel_logging.native import NativeThread
from codex_otel_logging.receiver import ReceivedEvent
from support.collectors import Gate
from support.events import log, numbers
from support.fixtures import HandlerFactory
from support.parts import worker_of
from support.paths import PROGRAMS, ROOT
from support.queued_events import turns
from support.records import record
from support.spools import (
    SpooledQueue,
    ThreadlessWorker,
    held_write,
    on_disk,
    segments,
    settings_of,
    until,
)

pytestmark = pytest.mark.thorough

WARM_BYTES = 1 << 15
WARM = 150
"""More events than memory holds, and fewer than `MANY`."""
MANY = 3000

PROTOCOLS = ["binary", "json", "grpc"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "WARM_BYTES", WARM_BYTES)
    monkeypatch.setattr(journal, "FIRST_LIMIT", 1 << 14)
    monkeypatch.setattr(cold, "_CHUNK", 1 << 12)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spooled(spool: Path) -> SpooledQueue:
    return SpooledQueue(settings_of(spool))


@pytest.fixture(params=PROTOCOLS)
def exporter(request: pytest.FixtureRequest, receiver: Receiver) -> dict[str, Any]:
    if request.param == "grpc":
        return {"otlp-grpc": {"endpoint": receiver.grpc_endpoint}}
    return {"otlp-http": {"endpoint": receiver.http_endpoint, "protocol": request.param}}


@pytest.fixture
def gated(exporter: dict[str, Any], gate: Gate) -> dict[str, Any]:
    ((name, own),) = exporter.items()
    return {name: {**own, "endpoint": gate.endpoint}}


@pytest.fixture
def handler(attach: HandlerFactory, gated: dict[str, Any], spool: Path) -> CodexOtelHandler:
    batch = {"max_batch_size": 100, "schedule_delay_ms": 0}
    return attach({"exporter": gated, "spool": {"path": str(spool)}, "batch": batch})


over_http = pytest.mark.parametrize("exporter", ["binary"], indirect=True)


def log_to(conversation: str, count: int, first: int = 0) -> None:
    fields: dict[str, Any] = {"conversation.id": conversation}
    log(count, first=first, **fields)


def by_conversation(events: list[ReceivedEvent]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(str(event.attributes["conversation.id"]), []).append(
            int(event.attributes["duration_ms"])
        )
    return found


def failing(error: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


def out_of_memory(*_: object) -> bytes:
    raise MemoryError


def break_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "append", failing(errno.ENOSPC))


def test_outage_costs_neither_an_event_nor_their_order(
    handler: CodexOtelHandler, receiver: Receiver, gate: Gate, spool: Path
) -> None:
    queue = worker_of(handler).queue
    gate.refuse()
    log(MANY)
    assert handler.stats() == Stats(accepted=MANY, queued=MANY, spooled=MANY)
    assert len(queue.waiting) + queue.taken < WARM
    assert queue.queued_bytes <= WARM_BYTES
    gate.open()
    assert handler.flush(30)
    assert numbers(receiver.events) == list(range(MANY))
    assert handler.stats() == Stats(accepted=MANY, exported=MANY)
    assert until(lambda: not segments(spool))


@over_http
@pytest.mark.parametrize("threads", [1, 8])
def test_threads_log_while_cold_events_are_read_back(
    handler: CodexOtelHandler, receiver: Receiver, gate: Gate, threads: int
) -> None:
    gate.refuse()
    log(MANY)
    recovered = threading.Event()
    counts: Counter[str] = Counter()

    def write(name: str) -> None:
        while not recovered.is_set():
            log_to(name, 1, first=counts[name])
            counts[name] += 1
            time.sleep(0.001)

    writers = [threading.Thread(target=write, args=(f"t{number}",)) for number in range(threads)]
    for writer in writers:
        writer.start()
    assert until(lambda: min(counts[f"t{number}"] for number in range(threads)) > 10)
    gate.open()
    assert until(lambda: handler.stats().exported > MANY)
    recovered.set()
    for writer in writers:
        writer.join()
    assert handler.flush(30)
    found = by_conversation(receiver.events)
    assert found == {"c": list(range(MANY)), **{name: list(range(n)) for name, n in counts.items()}}
    total = MANY + sum(counts.values())
    assert handler.stats() == Stats(accepted=total, exported=total)


@over_http
def test_events_get_cold_again_and_again(
    handler: CodexOtelHandler, receiver: Receiver, gate: Gate
) -> None:
    for outage in range(5):
        gate.refuse()
        log(600, first=600 * outage)
        assert len(worker_of(handler).queue.waiting) < WARM
        gate.open()
        assert handler.flush(30)
    assert numbers(receiver.events) == list(range(3000))


@over_http
def test_flush_succeeds_only_when_cold_events_are_exported(
    handler: CodexOtelHandler, receiver: Receiver, gate: Gate
) -> None:
    gate.refuse()
    log(1000)
    assert not handler.flush(0.2)
    gate.open()
    assert handler.flush(30)
    assert len(receiver.events) == 1000


@over_http
def test_cold_events_are_exported_on_the_thread_that_flushes_if_no_other_can_start(
    handler: CodexOtelHandler, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: NativeThread) -> None:
        raise RuntimeError("no thread")

    monkeypatch.setattr(NativeThread, "start", start)
    log(1000)
    assert handler.stats() == Stats(accepted=1000, queued=1000, spooled=1000)
    assert handler.flush(30)
    assert numbers(receiver.events) == list(range(1000))


@over_http
def test_flush_on_the_calling_thread_waits_for_a_cold_event_that_is_being_written(
    handler: CodexOtelHandler, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: NativeThread) -> None:
        raise RuntimeError("no thread")

    monkeypatch.setattr(NativeThread, "start", start)
    queue = worker_of(handler).queue
    log(1000)

    def let_go_when_it_is_the_last() -> None:
        if until(lambda: len(queue) == 1 and not queue.taken):
            let_go()

    with held_write(monkeypatch, lambda: log(1, first=1000)) as let_go:
        thread = threading.Thread(target=let_go_when_it_is_the_last)
        thread.start()
        assert handler.flush(20)
        thread.join(20)
    assert numbers(receiver.events) == list(range(1001))


@over_http
def test_closed_handler_leaves_cold_events_to_the_next(
    handler: CodexOtelHandler,
    attach: HandlerFactory,
    receiver: Receiver,
    gate: Gate,
    gated: dict[str, Any],
    spool: Path,
) -> None:
    gate.refuse()
    log(1000)
    handler.close()
    assert until(lambda: worker_of(handler).thread is None)
    assert handler.stats() == Stats(accepted=1000, queued=1000, spooled=1000)
    gate.open()
    next_handler = attach({"exporter": gated, "spool": {"path": str(spool)}})
    extra = {"duration_ms": 0, "conversation.id": "next"}
    next_handler.handle(record("codex.turn_ttft", extra=extra))
    assert next_handler.flush(30)
    assert until(lambda: next_handler.stats().recovered == 1000)
    assert by_conversation(receiver.events) == {"next": [0], "c": list(range(1000))}
    assert until(lambda: not segments(spool))


@pytest.mark.processes
@over_http
@pytest.mark.parametrize("end", ["exit", "kill", "fork"])
def test_next_start_exports_the_cold_events_of_an_earlier_one(
    attach: HandlerFactory,
    receiver: Receiver,
    gate: Gate,
    gated: dict[str, Any],
    spool: Path,
    tmp_path: Path,
    end: str,
) -> None:
    gate.refuse()
    otel = {"exporter": gated, "spool": {"path": str(spool)}}
    done = subprocess.run(
        [sys.executable, PROGRAMS / "cold_events.py", end, json.dumps(otel), "1000"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr
    names = ["child", "parent"] if end == "fork" else ["parent"]
    counts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(c["accepted"], c["spooled"]) for c in counts] == [(1000, 1000)] * len(names)
    kept = done.stderr.count(f"1000 events kept in {spool}")
    assert kept == (0 if end == "kill" else len(names)), done.stderr
    gate.open()
    handler = attach(otel)
    log_to("next", 1)
    assert handler.flush(30)
    assert until(lambda: handler.stats().recovered == 1000 * len(names))
    expected = {name: list(range(1000)) for name in names}
    assert by_conversation(receiver.events) == {"next": [0], **expected}


def test_child_that_inherits_the_queue_gets_the_cold_events(
    spooled: SpooledQueue, spool: Path
) -> None:
    spooled.put(500)
    assert len(spooled.queue.waiting) < WARM
    child = SpooledQueue(settings_of(spool), spooled.queue.unsent())
    spooled.journal.leave_to_parent(inherited=True)
    assert child.queue.stats() == Stats(accepted=500, queued=500, spooled=500)
    assert child.export_all() == list(range(500))
    assert not segments(spool)


@pytest.mark.parametrize("failures", [1, 1000], ids=["once", "always"])
def test_child_that_cannot_read_all_cold_events_leaves_its_parents_files(
    spool: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """An error must not end the hook of the fork, nor cost what only the parent's files hold."""
    worker_settings = settings_of(spool)
    pipeline = Pipeline(lambda events: ThreadlessWorker(worker_settings, NotImplemented, events))
    for event in turns(500):
        pipeline.worker.queue.put(event)
    before = segments(spool)
    failing_inode = before[3].stat().st_ino
    read = disk.read

    def fail_there(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal failures
        if offset == cold._CHUNK and os.fstat(descriptor).st_ino == failing_inode and failures:
            failures -= 1
            raise OSError(errno.EIO, "broken")
        return read(descriptor, size, offset)

    monkeypatch.setattr(disk, "read", fail_there)
    pipeline.reset(keep_queue=True)
    stats = pipeline.worker.queue.stats()
    assert stats == Stats(accepted=stats.accepted, queued=stats.accepted, spooled=stats.accepted)
    can_read_all = not failures
    assert (stats.accepted == 500) == can_read_all
    assert stats.accepted > 450
    assert [path.exists() for path in before] == [not can_read_all] * len(before)
    assert {*on_disk(spool)} == {*range(500)}


def test_cold_events_that_cannot_be_written_stay_in_memory_and_in_order(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled.put(300)
    with monkeypatch.context() as patch:
        break_disk(patch)
        spooled.put(200)
        assert spooled.queue.stats() == Stats(accepted=500, queued=500, spooled=300)
        assert not spooled.queue.is_on_disk()
        assert spooled.export_all() == list(range(500))
    spooled.put(300)
    assert spooled.export_all() == list(range(500, 800))
    assert spooled.journal.parked_bytes == 0


def test_parked_events_are_written_when_the_disk_works_again(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    spooled.put(300)
    with monkeypatch.context() as patch:
        break_disk(patch)
        spooled.put(200)
    spooled.queue.restore()
    assert spooled.queue.stats() == Stats(accepted=500, queued=500, spooled=500)
    assert sorted(on_disk(spool)) == list(range(500))
    spooled.put(100)
    assert spooled.export_all() == list(range(600))
    assert not segments(spool)


@pytest.mark.parametrize("bound", [{"max_queue_size": 400}, {"max_queue_bytes": 100_000}])
def test_parked_events_are_bounded_as_without_a_spool(
    spool: Path, monkeypatch: pytest.MonkeyPatch, bound: dict[str, Any]
) -> None:
    spooled = SpooledQueue(settings_of(spool), **bound)
    queue = spooled.queue
    monkeypatch.setattr(queue._overflow, "report_begin", lambda: None)
    spooled.put(900)
    assert queue.stats() == Stats(accepted=900, queued=900, spooled=900)
    break_disk(monkeypatch)
    spooled.put(1000)
    stats = queue.stats()
    in_memory = len(queue.waiting) + spooled.journal.parked
    assert in_memory <= bound.get("max_queue_size", in_memory)
    assert queue.queued_bytes + spooled.journal.parked_bytes <= bound.get("max_queue_bytes", 1e9)
    assert stats.dropped == queue.overflowed > 0
    assert stats == Stats(
        accepted=1900, dropped=stats.dropped, queued=1900 - stats.dropped, spooled=900
    )
    assert spooled.export_all() == list(range(1900 - stats.dropped))


@pytest.mark.parametrize("step", ["write", "_leave"])
def test_worker_waits_for_a_cold_event_that_is_not_written_yet(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It looks for the event before and after each step of the thread whose write fails."""
    journal_ = spooled.journal
    spooled.put(300)
    queue = spooled.queue

    def take_all() -> None:
        """Take all events, except for those that are being written."""
        while True:
            queue.refill()
            batch = queue.take_batch()
            if not batch:
                return
            queue.account(queue.settled + len(batch), exported=len(batch))

    original = getattr(journal_, step)

    def between(*arguments: Any, **options: Any) -> None:
        take_all()
        original(*arguments, **options)
        take_all()

    monkeypatch.setattr(journal_, step, between)
    break_disk(monkeypatch)
    spooled.put(2)
    take_all()
    assert queue.stats() == Stats(accepted=302, exported=302)


def test_cold_event_whose_write_fails_while_the_worker_looks_for_it_is_found(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_ = spooled.journal
    spooled.put(1)
    number = 2
    with spooled.queue.lock:
        segment = journal_.admit(number)
    (event,) = turns(1)
    reader = journal_._reader
    while reader.advance(journal_._segments, journal_._current, number):
        pass  # up to the end, so that there is nothing left to read
    monkeypatch.setattr(journal_, "_encode", out_of_memory)
    take = reader.take
    taken: list[Event | None] = []

    def take_then_fail(*arguments: Any) -> Event | None:
        taken.append(take(*arguments))
        if len(taken) == 1:
            journal_.write(number, segment, event, is_cold=True)
        return taken[-1]

    monkeypatch.setattr(reader, "take", take_then_fail)
    assert journal_.read_back(number, 1) == [event]
    assert taken == [None, event]


@pytest.mark.parametrize("call", [1, 37, 150])
def test_interrupted_read_back_is_repeated(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """A signal handler may raise while the main thread flushes, as Ctrl-C does."""
    spooled.put(500)
    decoder = spooled.journal._reader._decoder
    decode, lines = decoder.decode, []

    def interrupted(line: bytes) -> tuple[int, Event] | None:
        lines.append(line)
        if len(lines) == call:
            raise KeyboardInterrupt
        return decode(line)

    monkeypatch.setattr(decoder, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spooled.export_all()
    spooled.export_all()
    assert spooled.queue.stats() == Stats(accepted=500, exported=500)


def test_event_that_is_parked_twice_counts_once(spooled: SpooledQueue) -> None:
    (event,) = turns(1)
    spooled.journal.park(1, event)
    spooled.journal.park(1, event)
    assert (spooled.journal.parked, spooled.journal.parked_bytes) == (1, event.size)


def test_cold_events_whose_files_were_removed_are_written_again_and_arrive(
    spooled: SpooledQueue, spool: Path
) -> None:
    spooled.put(500)
    shutil.rmtree(spool)
    spooled.queue.restore()
    assert sorted(on_disk(spool)) == [*range(500)]
    assert spooled.queue.stats() == Stats(accepted=500, queued=500, spooled=500)
    spooled.put(500)
    assert spooled.export_all() == [*range(1000)]
    assert spooled.queue.stats() == Stats(accepted=1000, exported=1000)
    assert not segments(spool)


def test_removed_cold_events_arrive_while_the_disk_is_full(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled.put(500)
    shutil.rmtree(spool)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "create", fail)
    spooled.queue.restore()
    assert spooled.queue.stats() == Stats(accepted=500, queued=500)
    assert spooled.export_all() == [*range(500)]
    assert spooled.queue.stats() == Stats(accepted=500, exported=500)


def test_removed_cold_events_that_are_damaged_are_dropped_in_one_step(
    spooled: SpooledQueue, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One by one with a pause in between, a million of them would take hours."""
    spooled.put(500)
    while spooled.queue.waiting:
        spooled.queue.take_batch()
        spooled.queue.account(
            spooled.queue.settled + spooled.queue.taken, exported=spooled.queue.taken
        )
    for path in segments(spool):
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    shutil.rmtree(spool)
    spooled.queue.restore()
    spooled.queue.refill()
    assert not len(spooled.queue)
    assert until(lambda: "cannot read events back" in caplog.text)
    assert caplog.text.count("cannot read events back (damaged or removed)") == 1


def test_damaged_cold_event_is_dropped_and_the_rest_arrives_in_order(
    spooled: SpooledQueue, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spooled.put(MANY)
    damaged = []
    for path in segments(spool)[2:]:  # the events of the first ones are in memory, too
        content = bytearray(path.read_bytes())
        place = content.index(b'"values"', len(content) // 2)
        content[place] ^= 1
        begin = content.rindex(b'{"number":', 0, place) + len(b'{"number":')
        damaged.append(int(content[begin : content.index(b",", begin)]) - 1)
        path.write_bytes(content)
    assert len(damaged) > 3
    assert spooled.export_all() == [n for n in range(MANY) if n not in damaged]
    stats = Stats(accepted=MANY, exported=MANY - len(damaged), dropped=len(damaged))
    assert spooled.queue.stats() == stats
    assert until(lambda: "cannot read events back" in caplog.text)
    assert caplog.text.count("cannot read events back") == 1
    assert not segments(spool)


def test_search_for_a_damaged_event_ends_with_its_segment(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is read on the way stays in memory."""
    spooled.put(MANY)
    first, *later = segments(spool)
    content = bytearray(first.read_bytes())
    number = content.count(b'{"number":')
    content[content.rindex(b'"values"')] ^= 1
    first.write_bytes(content)
    read: Counter[int] = Counter()
    original = disk.read

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        found = original(descriptor, size, offset)
        read[os.fstat(descriptor).st_ino] += len(found)
        return found

    monkeypatch.setattr(disk, "read", counting)
    assert spooled.journal.read_back(number, 1 << 30) is None
    assert read == {first.stat().st_ino: first.stat().st_size}
    assert later


@pytest.mark.parametrize("damage", ["one record", "many records", "zeros"])
def test_damaged_cold_events_bound_what_is_read_ahead(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The rest of the file was kept in memory while the event was looked for."""
    monkeypatch.setattr(cold, "MAX_AHEAD", WARM_BYTES)
    spooled.put(MANY)
    before = on_disk(spool)
    path = max(segments(spool), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    begin = content.index(b"\n", len(content) // 8)
    end = {"one record": begin + 20, "many records": begin + 20_000, "zeros": begin + 60_000}[
        damage
    ]
    middle = content[begin:end].replace(b'"', b"'") if damage != "zeros" else bytes(end - begin)
    path.write_bytes(content[:begin] + middle + content[end:])
    intact = on_disk(spool)
    assert len(content) - end > 4 * WARM_BYTES
    assert (
        len(before) - len(intact)
        in {"one record": range(1, 2), "many records": range(30, 100), "zeros": range(100, 300)}[
            damage
        ]
    )
    reader = spooled.journal._reader
    original, read, largest, bytes_read = cold.ColdReader.advance, disk.read, 0, 0

    def advance(*arguments: Any) -> bool:
        nonlocal largest
        found = original(*arguments)
        ahead = sum(event.size for event in reader._ahead.values())
        assert ahead == reader._ahead_bytes
        largest = max(largest, ahead + len(reader._cursor.rest))
        return found

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal bytes_read
        found = read(descriptor, size, offset)
        bytes_read += len(found)
        return found

    monkeypatch.setattr(cold.ColdReader, "advance", advance)
    monkeypatch.setattr(disk, "read", counting)
    size = sum(path.stat().st_size for path in segments(spool))
    assert spooled.export_all() == intact
    assert largest < WARM_BYTES + 3 * cold._CHUNK
    assert bytes_read < 2 * size
    assert spooled.queue.stats() == Stats(
        accepted=MANY, exported=len(intact), dropped=MANY - len(intact)
    )


@pytest.mark.parametrize("max_queue_size", [1, 3, 20])
def test_memory_never_holds_more_than_max_queue_size_events(
    spool: Path, max_queue_size: int
) -> None:
    spooled = SpooledQueue(
        settings_of(spool), max_queue_size=max_queue_size, max_batch_size=min(max_queue_size, 7)
    )
    spooled.put(WARM)
    found = []
    while batch := spooled.export():
        found += batch
        spooled.queue.refill()
        assert 0 < len(spooled.queue.waiting) <= max_queue_size or len(found) == WARM
    assert found == [*range(WARM)]
    assert spooled.queue.stats() == Stats(accepted=WARM, exported=WARM)


def test_long_cold_event_takes_few_reads(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each, all that was read of it is searched again; one of 40 MiB took 17 s."""
    spooled.put(WARM)
    spooled.put(1, model="m" * 1_000_000)
    long = max(segments(spool), key=lambda path: path.stat().st_size).stat()
    read, reads = disk.read, 0

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal reads
        reads += os.fstat(descriptor).st_ino == long.st_ino
        return read(descriptor, size, offset)

    monkeypatch.setattr(disk, "read", counting)
    found = spooled.journal.read_back(WARM + 1, 1)
    assert found is not None
    assert len(found) == 1
    assert found[0].fields["duration_ms"] == WARM
    assert long.st_size > 1_000_000
    assert reads < 20


def test_long_cold_event_whose_file_was_removed_is_written_again(
    spooled: SpooledQueue, spool: Path
) -> None:
    spooled.put(200)
    for _ in range(2):
        spooled.put(1, model="m" * 200_000)
        spooled.put(1)
    shutil.rmtree(spool)
    spooled.queue.restore()
    assert sorted(on_disk(spool)) == [*range(204)]
    assert spooled.export_all() == [*range(204)]


def export_patiently(spooled: SpooledQueue) -> list[int]:
    """Export all events, also if reading some of them back fails for a while."""
    found = []
    for _ in range(MANY):
        if not len(spooled.queue):
            break
        found += spooled.export()
    return found


@pytest.mark.parametrize("failing_read", [1, 2, 3, 7])
def test_failed_read_of_cold_events_is_repeated_and_costs_nothing(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch, failing_read: int
) -> None:
    monkeypatch.setattr(cold, "REREAD_S", 0.0)
    spooled.put(MANY)
    read, calls = disk.read, 0

    def fail_once(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == failing_read:
            raise OSError(errno.EIO, "broken")
        return read(descriptor, size, offset)

    monkeypatch.setattr(disk, "read", fail_once)
    assert export_patiently(spooled) == [*range(MANY)]
    assert spooled.queue.stats() == Stats(accepted=MANY, exported=MANY)


def test_failed_read_of_cold_events_is_not_repeated_at_once(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device may need a moment to be reset, and events count as damaged after a few reads."""
    now = 1000.0
    for module in (cold, journal):
        monkeypatch.setattr(module, "monotonic", lambda: now)
    spooled.put(MANY)
    reads: list[float] = []

    def fail(*_: object) -> bytes:
        reads.append(now)
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "read", fail)
        for _ in range(WARM):
            spooled.export()
        assert reads == [1000.0]
        now += cold.REREAD_S
        for _ in range(WARM):
            spooled.export()
        assert reads == [1000.0, 1000.0 + cold.REREAD_S]
    now += cold.REREAD_S
    export_patiently(spooled)
    assert spooled.queue.stats() == Stats(accepted=MANY, exported=MANY)
    assert until(lambda: "cannot read events back; trying again (broken)" in caplog.text)
    assert caplog.text.count("cannot read events back") == 1


def test_part_of_a_file_that_cannot_be_read_costs_only_its_events(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "REREAD_S", 0.0)
    spooled.put(MANY)
    path = segments(spool)[3]
    begin = cold._CHUNK
    end = begin + cold._CHUNK
    lost, offset = [], 0
    for line in path.read_bytes().split(b"\n"):
        # The line feed at its end belongs to a line.
        is_hit = offset < end and offset + len(line) >= begin
        if is_hit and (decoded := RecordDecoder().decode(line)) is not None:
            lost.append(decoded[1].fields["duration_ms"])
        offset += len(line) + 1
    read = disk.read

    def fail_there(descriptor: int, size: int, offset: int) -> bytes:
        if offset == begin and os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, "broken")
        return read(descriptor, size, offset)

    inode = path.stat().st_ino
    monkeypatch.setattr(disk, "read", fail_there)
    assert export_patiently(spooled) == [n for n in range(MANY) if n not in lost]
    assert 5 < len(lost) < 30
    assert spooled.queue.stats() == Stats(
        accepted=MANY, exported=MANY - len(lost), dropped=len(lost)
    )


def test_failing_reads_at_the_end_of_a_file_cost_no_event_that_is_logged_later(
    spooled: SpooledQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is skipped, but not what other threads append meanwhile."""
    monkeypatch.setattr(cold, "REREAD_S", 0.0)
    monkeypatch.setattr(journal, "FIRST_LIMIT", 1 << 20)
    spooled.put(WARM)
    first = spooled.journal.read_back(1, 1 << 30)
    assert first is not None
    spooled.journal.forget_read(WARM + 1)
    spooled.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "read", failing(errno.EIO))
        for _ in range(2 * cold.MAX_READS):
            assert not spooled.journal.read_back(WARM + 1, 1 << 30)
    spooled.put(5)
    assert not spooled.journal.read_back(WARM + 1, 1 << 30)
    found = spooled.journal.read_back(WARM + 2, 1 << 30)
    assert found is not None
    assert [event.fields["duration_ms"] for event in found] == [*range(WARM + 1, WARM + 6)]


@pytest.mark.parametrize("is_torn", [False, True], ids=["whole", "torn"])
def test_failing_reads_at_the_end_of_a_segment_do_not_hold_up_the_next_one(
    spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch, *, is_torn: bool
) -> None:
    """If its size cannot be read either, a torn record seems to be behind the end."""
    monkeypatch.setattr(cold, "REREAD_S", 0.0)
    spooled.put(WARM)
    segment, *others = spooled.journal._segments
    assert others
    if is_torn:
        with Path(segment.path).open("ab") as file:
            file.write(b"\n0123")
        monkeypatch.setattr(disk, "status", failing(errno.EIO))
    end = Path(segment.path).stat().st_size
    read = disk.read

    def fail_at_the_end(descriptor: int, size: int, offset: int) -> bytes:
        if descriptor == segment._descriptor and offset >= end:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, size, offset)

    monkeypatch.setattr(disk, "read", fail_at_the_end)
    found: list[Event] = []
    for _ in range(2 * cold.MAX_READS):
        found += spooled.journal.read_back(len(found) + 1, 1 << 30) or ()
    assert [event.fields["duration_ms"] for event in found] == [*range(WARM)]


def test_segments_are_read_in_the_order_of_their_names(spooled: SpooledQueue) -> None:
    """A signal handler that logs may add a later one to the list before an earlier one."""
    spooled.put(MANY)
    files = spooled.journal._segments
    assert len(files) > 2
    reader = cold.ColdReader()
    for number in range(1, MANY + 1):
        while reader.take(number, {}) is None:
            assert reader.advance(files[::-1], None, number)


class Model(RuleBasedStateMachine):
    """One queue on one thread, and what must have become of its events."""

    monkeypatch: pytest.MonkeyPatch

    @initialize(
        limit=st.sampled_from([1, 3000, 1 << 14]),
        chunk=st.sampled_from([100, 1 << 12]),
        ahead=st.sampled_from([1, cold.MAX_AHEAD]),
        bound=st.sampled_from([{}, {"max_queue_size": 30}, {"max_queue_bytes": 9000}]),
    )
    def start(self, limit: int, chunk: int, ahead: int, bound: dict[str, Any]) -> None:
        self.monkeypatch.setattr(journal, "FIRST_LIMIT", limit)
        self.monkeypatch.setattr(cold, "MAX_AHEAD", ahead)
        self.monkeypatch.setattr(cold, "_CHUNK", chunk)
        self.folder = tempfile.mkdtemp()
        self.spool = Path(self.folder) / "spool"
        self.spooled = SpooledQueue(settings_of(self.spool), max_batch_size=7, **bound)
        self.queue = self.spooled.queue
        self.monkeypatch.setattr(self.spooled.journal._health, "_report", lambda _: None)
        self.monkeypatch.setattr(diagnostics, "warn", lambda *_: None)
        self.monkeypatch.setattr(self.queue._overflow, "report_begin", lambda: None)
        self.bytes = bound.get("max_queue_bytes", 110 << 20)
        self.accepted: list[int] = []
        self.dropped = 0
        self.exported: list[int] = []
        self.calls_left = sys.maxsize
        self.has_failed = False
        self.append = disk.append
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(disk, "append", self.appending)

    def appending(self, descriptor: int, data: bytes) -> int:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise OSError(errno.ENOSPC, "no space")
        if self.calls_left == 0:
            return self.append(descriptor, data[: len(data) // 2])
        return self.append(descriptor, data)

    @rule(count=st.integers(1, 30), size=st.sampled_from([0, 0, 300]))
    def put(self, count: int, size: int) -> None:
        for _ in range(count):
            overflowed = self.queue.overflowed
            number = self.spooled.logged
            self.spooled.put(model="m" * size)
            if self.queue.overflowed == overflowed:
                self.accepted.append(number)
            else:
                assert not self.spooled.journal.is_working
                self.dropped += 1

    @rule()
    def export(self) -> None:
        self.exported += self.spooled.export()

    @rule()
    def fail_to_export(self) -> None:
        self.queue.refill()
        with self.queue.lock:
            self.queue.take_batch()
        self.queue.restore()
        self.queue.sync()
        self.queue.put_back()

    @rule()
    def read_back(self) -> None:
        self.queue.refill()

    @rule(calls=st.integers(0, 20))
    def break_disk(self, calls: int) -> None:
        self.calls_left = calls
        self.has_failed = True

    @rule()
    def mend_disk(self) -> None:
        self.calls_left = sys.maxsize

    @invariant()
    def counts_are_exact(self) -> None:
        stats = self.queue.stats()
        queued = self.accepted[len(self.exported) :]
        assert stats == Stats(
            accepted=len(self.accepted) + self.dropped,
            exported=len(self.exported),
            dropped=self.dropped,
            queued=len(queued),
            spooled=stats.spooled,
        )
        written = {*on_disk(self.spool)} if self.spool.exists() else set()
        assert stats.spooled == len(written & {*queued})
        assert self.exported == self.accepted[: len(self.exported)]
        assert self.queue.is_on_disk() == (stats.spooled == stats.queued)

    @invariant()
    def memory_is_bounded(self) -> None:
        parked = self.spooled.journal.parked_bytes
        # One event may be written to disk, and fail, when there is no room in memory any more.
        assert self.queue.queued_bytes + parked <= self.bytes + 1000
        if not self.has_failed:
            assert self.queue.queued_bytes <= queue_module.WARM_BYTES

    def teardown(self) -> None:
        try:
            self.calls_left = sys.maxsize
            self.exported += self.spooled.export_all()
            self.counts_are_exact()
            assert self.exported == self.accepted
            assert not segments(self.spool)
            assert self.spooled.journal.parked_bytes == 0
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)


def test_counts_are_exact_and_the_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    monkeypatch.setattr(queue_module, "WARM_BYTES", 4000)
    Model.monkeypatch = monkeypatch
    run_state_machine_as_test(
        Model,
        settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True),
    )
