"""The files of one process: names, sizes, the end of each, and what a failed write costs."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codex_otel_logging import Receiver
from codex_otel_logging.delivery import queue as queue_module
from codex_otel_logging.delivery.spool import cold, disk, journal
from codex_otel_logging.delivery.spool.records import RecordEncoder
from codex_otel_logging.delivery.spool.segment import Header, Segment
from support.collectors import Gate
from support.dying import SHARED, SHORT, Fault, Machine, Process, World, deliver_rest, error
from support.events import numbers
from support.fixtures import RunPython
from support.kills import export_leftovers, otel_table
from support.paths import read_program
from support.queued_events import turns
from support.spools import SpooledQueue, segments, settings_of

pytestmark = pytest.mark.thorough


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(monkeypatch)
    yield machine
    machine.die()


@pytest.fixture
def world(machine: Machine, spool: Path) -> World:
    return World(machine, spool)


@contextmanager
def held_append(spooled: SpooledQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the descriptor that another thread is about to append an event to."""
    append = disk.append
    descriptors: list[int] = []
    is_about_to_append, may_append = threading.Event(), threading.Event()

    def hold(descriptor: int, data: bytes) -> int:
        if threading.current_thread() is thread and data.startswith(b"\n"):  # not the header
            descriptors.append(descriptor)
            is_about_to_append.set()
            assert may_append.wait(20)
        return append(descriptor, data)

    thread = threading.Thread(target=spooled.put)
    monkeypatch.setattr(disk, "append", hold)
    thread.start()
    try:
        assert is_about_to_append.wait(20)
        yield descriptors[0]
    finally:
        may_append.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("before", [0, 2], ids=["new segment", "current segment"])
def test_segment_is_removed_only_when_no_thread_appends_to_it(
    spool: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """The worker exports and settles an event whose logging call has not written it yet.

    If the descriptor were closed, the late write could reach a file that was opened since.
    """
    spooled = SpooledQueue(settings_of(spool))
    spooled.put(before)
    with held_append(spooled, monkeypatch) as descriptor:
        assert spooled.export_all() == list(range(before + 1))
        (path,) = segments(spool)
        assert os.path.samestat(os.fstat(descriptor), path.stat())
    assert not segments(spool)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_removed_segment_is_closed_only_when_no_thread_appends_to_it(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes the file, and the worker writes its events again."""
    spooled = SpooledQueue(settings_of(spool))
    spooled.put(2)
    (path,) = segments(spool)
    status = path.stat()
    with held_append(spooled, monkeypatch) as descriptor:
        path.unlink()
        spooled.queue.restore()
        assert spooled.export_all() == [0, 1, 2]
        assert os.path.samestat(os.fstat(descriptor), status)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_segments_are_not_left_to_others_while_a_thread_appends_to_one(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = SpooledQueue(settings_of(spool))
    with held_append(spooled, monkeypatch) as descriptor:
        assert not spooled.queue.leave_on_disk()
        os.fstat(descriptor)
    assert spooled.queue.leave_on_disk()


CLOCKS: dict[str, Callable[[], Callable[[], int]]] = {
    "stands": lambda: lambda: 1_800_000_000_000_000_000,
    "goes back": lambda: count(1_800_000_000_000_000_000, -1_000_000_000).__next__,
    "begins at zero": lambda: count().__next__,
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_names_increase_strictly_whatever_the_clock_does(
    spool: Path, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    """Cold events are read back in the order of the names, and leftovers are exported in it."""
    monkeypatch.setattr(journal, "time", SimpleNamespace(time_ns=CLOCKS[clock]()))
    monkeypatch.setattr(journal, "_names", journal._Names())
    monkeypatch.setattr(journal, "FIRST_LIMIT", 1500)
    monkeypatch.setattr(journal, "_SHARE", 1 << 40)
    monkeypatch.setattr(queue_module, "WARM_BYTES", 1 << 12)
    monkeypatch.setattr(cold, "_CHUNK", 1 << 10)
    names: list[str] = []
    rename = disk.rename

    def note_name(path: str, to: str) -> None:
        names.append(Path(to).name)
        rename(path, to)

    monkeypatch.setattr(disk, "rename", note_name)
    spooled, other = SpooledQueue(settings_of(spool)), SpooledQueue(settings_of(spool))
    exported = []
    for _ in range(3):
        spooled.put(60)
        other.put(3)
        exported += spooled.export()
        other.export_all()
        spooled.put(10)
        assert len(spooled.queue.waiting) < 60  # the others are cold
        exported += spooled.export_all()
    assert exported == list(range(210))
    assert not segments(spool)
    created = [int(name.partition("-")[0]) for name in names]
    assert len(created) > 20
    assert all(earlier < later for earlier, later in pairwise(created))
    assert names == sorted(names)  # as text, too: that is how a directory is listed


def test_segments_double_in_size_during_an_outage_up_to_a_share_of_the_spool(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a long outage needs few files, and one file never takes most of the spool."""
    monkeypatch.setattr(journal, "FIRST_LIMIT", 2000)
    spooled = SpooledQueue(settings_of(spool, max_bytes=16 * 16_000))
    expected = [2000, 4000, 8000, 16_000, 16_000, 16_000]
    while len(segments(spool)) <= len(expected):
        spooled.put()
    sizes = [path.stat().st_size for path in segments(spool)[:-1]]
    record = len(RecordEncoder().encode(10**6, turns(1)[0]))
    assert all(
        limit <= size < limit + record for size, limit in zip(sizes, expected, strict=True)
    ), sizes
    spooled.export_all()
    assert not segments(spool)
    while len(segments(spool)) < 3:
        spooled.put()
    sizes = [path.stat().st_size for path in segments(spool)[:-1]]
    assert sizes[0] < 2000 + record < sizes[1] < 4000 + record


@pytest.mark.parametrize(
    "fault", [SHORT, error(errno.EFBIG), error(errno.EIO)], ids=["short", "too large", "error"]
)
@pytest.mark.parametrize("before", [0, 2], ids=["first record", "later record"])
def test_failed_write_costs_a_segment_and_neither_an_event_nor_a_warning(
    world: World, caplog: pytest.LogCaptureFixture, fault: Fault, before: int
) -> None:
    """The next record must not follow a torn one; the file may also have reached its limit."""
    process = Process(world)
    process.put(before)
    appended = count()

    def fail_once(_: int, name: str) -> Fault | None:
        first_record = 1 if before == 0 else 0  # a new segment begins with its header
        return fault if name == "append" and next(appended) == first_record else None

    world.machine.fault = fail_once
    process.put(3)
    stats = process.queue.stats()
    assert (stats.accepted, stats.spooled) == (before + 3, before + 3)
    assert len(world.files()) == 2
    assert not [message for message in caplog.messages if message.startswith("spool ")]

    deliver_rest(world)  # the process has died
    assert world.delivered == list(range(before + 3))
    assert not world.files()


@pytest.mark.processes
@pytest.mark.parametrize("exporter", ["otlp-http"], indirect=True)
def test_file_that_reaches_the_size_limit_of_the_process_is_followed_by_another(
    run_python: RunPython, receiver: Receiver, gated: dict[str, Any], gate: Gate, spool: Path
) -> None:
    """The limit ends a write in the middle of a record."""
    pytest.importorskip("resource")
    reach_limit = """
import os, pathlib, resource
sys.dont_write_bytecode = True
(path,) = pathlib.Path("spool").iterdir()
limit = path.stat().st_size + 100
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for number in range(10, 13):
    extra = {"duration_ms": number, "conversation.id": "c"}
    logger.info("codex.turn_ttft", extra=extra)
sizes = [path.stat().st_size for path in sorted(pathlib.Path("spool").iterdir())]
print(json.dumps([handler.stats().spooled, len(sizes), sizes[0] == limit]), flush=True)
os._exit(0)
"""
    gate.refuse()
    otel = otel_table(gated, spool, schedule_delay_ms=600_000)
    done = run_python(read_program("log_then_run"), json.dumps(otel), "10", reach_limit)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [13, 2, True]
    gate.open()
    assert export_leftovers(otel, spool)
    events = [event for event in receiver.events if event.attributes["conversation.id"] == "c"]
    assert numbers(events) == list(range(13))


@pytest.mark.parametrize("settled", range(5))
@pytest.mark.parametrize("position", range(5))
def test_records_that_a_dead_process_wrote_out_of_order_are_exported_in_order(
    world: World, settled: int, position: int
) -> None:
    """Threads swap records, and events may be settled before their records are written."""
    header = Header("owner", world.settings().destination, SHARED)
    world.directory.mkdir(mode=0o700)
    segment = Segment(str(world.directory / "1-owner.spool"), header, 1, 1 << 20)
    segment.open()
    encoder, events = RecordEncoder(), turns(5)
    for index, number in enumerate([2, 1, 4, 3]):
        if index == position:
            segment.settle(settled)
        segment.append(encoder.encode(number, events[number]))
    if position == 4:
        segment.settle(settled)
    world.machine.start()  # the process has died
    process = Process(world)
    process.leftovers.scan()
    for _ in range(4):
        process.leftovers.step()
    assert world.delivered == list(range(settled + 1, 5))
    assert not world.files()
