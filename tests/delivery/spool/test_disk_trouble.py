"""A disk that fails, is full or read-only, and works again.

Meanwhile events are exported from memory, as without a spool. One warning says that the disk fails,
one line that it works again, and what was in memory only is then written first. The application
notices nothing.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from codex_otel_logging.delivery.spool import health, journal
from codex_otel_logging.delivery.spool.records import RecordDecoder
from codex_otel_logging.delivery.spool.segment import Segment
from support.dying import RETRY, SHORT, Fault, Machine, Process, World, deliver_rest, error
from support.paths import PROGRAMS
from support.queued_events import numbers, turns
from support.servers import Program

FAILS = "cannot write events"
WORKS = "events are written to disk again"

FAULTS = [
    *(
        pytest.param(call, error(getattr(errno, name)), name, id=f"{call}-{name}")
        for call, name in [
            ("make_directory", "EROFS"),
            ("make_directory", "EACCES"),
            ("create", "ENOSPC"),
            ("create", "EDQUOT"),
            ("create", "EMFILE"),
            ("lock", "ENOLCK"),
            ("open_existing", "EMFILE"),
            ("rename", "EIO"),
            ("append", "ENOSPC"),
            ("append", "EDQUOT"),
            ("append", "EFBIG"),
            ("append", "EIO"),
        ]
    ),
    pytest.param("append", SHORT, None, id="append-short"),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    machine = Machine(monkeypatch)
    yield machine
    machine.die()


@pytest.fixture
def world(machine: Machine, tmp_path: Path) -> World:
    return World(machine, tmp_path / "spool")


def stored(world: World) -> list[int]:
    """Return the events on disk in the order in which they were written."""
    found: list[int] = []
    for name in world.files():
        for line in (world.directory / name).read_bytes().split(b"\n"):
            if (decoded := RecordDecoder().decode(line)) is not None:
                found += numbers([decoded[1]])
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("spool ")]


@pytest.mark.parametrize(("call", "fault", "name"), FAULTS)
@pytest.mark.parametrize("before", [0, 2], ids=["at-start", "later"])
def test_events_stay_in_memory_while_the_disk_fails_and_are_written_first_afterwards(
    world: World,
    caplog: pytest.LogCaptureFixture,
    call: str,
    fault: Fault,
    name: str | None,
    before: int,
) -> None:
    process = Process(world)
    process.put(before)
    if call not in ("append", "make_directory"):
        # The current segment needs none of these calls.
        world.machine.fault = lambda position, made: (
            fault if made == call else error(errno.EIO) if made == "append" else None
        )
    else:
        world.machine.fault = lambda _, made: fault if made in (call, "append") else None
    process.put(3)
    world.outcomes.append(RETRY)
    assert not process.export_batch()
    process.put(2)
    stats = process.queue.stats()
    assert (stats.accepted, stats.queued, stats.spooled) == (before + 5, before + 5, before)
    (warning,) = lines(caplog)
    assert FAILS in warning
    caplog.clear()

    world.machine.fault = lambda *_: None
    world.outcomes.append(RETRY)
    assert not process.export_batch()
    process.put(2)
    (line,) = lines(caplog)
    assert line.endswith(WORKS)
    assert stored(world) == list(range(before + 7))
    assert process.queue.stats().spooled == before + 7

    last = deliver_rest(world)  # the process has died
    assert world.delivered == list(range(before + 7))
    assert last.queue.stats().recovered == before + 7


def test_events_are_exported_from_memory_while_the_disk_fails(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.machine.fault = lambda _, name: error(errno.EIO) if name != "export" else None
    process = Process(world)
    process.put(7)
    while process.export_batch():
        pass
    process.put(2)
    stats = process.queue.stats()
    assert (stats.accepted, stats.exported, stats.queued, stats.spooled) == (9, 7, 2, 0)
    assert world.delivered == list(range(7))
    assert len(lines(caplog)) == 1


def test_a_full_queue_drops_the_newest_events_while_the_disk_fails(
    machine: Machine, tmp_path: Path
) -> None:
    world = World(machine, tmp_path / "spool", max_queue_size=3)
    machine.fault = lambda *_: error(errno.ENOSPC)
    process = Process(world)
    process.put(5)
    stats = process.queue.stats()
    assert (stats.accepted, stats.dropped, stats.queued, stats.spooled) == (5, 2, 3, 0)


def test_an_outage_that_begins_soon_after_another_is_reported_while_it_lasts(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(health, "monotonic", lambda: now)
    process = Process(world)

    def outage() -> None:
        world.machine.fault = lambda _, name: error(errno.EIO) if name == "append" else None
        process.put()

    def attempt() -> None:
        world.outcomes.append(RETRY)
        process.export_batch()

    outage()
    world.machine.fault = lambda *_: None
    attempt()
    assert len(lines(caplog)) == 2
    now += 10
    outage()
    attempt()
    assert len(lines(caplog)) == 2
    now += 60
    attempt()
    attempt()
    assert len(lines(caplog)) == 3
    assert FAILS in lines(caplog)[-1]
    now += 70
    attempt()
    assert len(lines(caplog)) == 3
    world.machine.fault = lambda *_: None
    attempt()
    assert lines(caplog)[-1].endswith(WORKS)


@pytest.mark.parametrize("call", ["overwrite", "remove", "close"])
def test_a_disk_that_fails_while_events_are_settled_costs_no_event(
    world: World, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    process = Process(world)
    process.put(7)
    world.machine.fault = lambda _, name: error(errno.EIO) if name == call else None
    while process.export_batch():
        pass
    stats = process.queue.stats()
    assert (stats.exported, stats.queued, stats.spooled) == (7, 0, 0)
    assert len(lines(caplog)) == (call == "overwrite")
    deliver_rest(world)
    assert set(world.delivered) == set(range(7))
    assert not world.files()
    if call == "remove":  # at most the batch that was not marked yet
        assert world.twice() <= 3


def test_a_removed_directory_is_one_warning_and_its_events_are_written_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(world)
    process.put(2)
    world.machine.fault = lambda *_: error(errno.EIO)
    process.put(1)
    world.machine.fault = lambda *_: None
    process.put(1)
    caplog.clear()
    for path in world.directory.iterdir():
        path.unlink()
    world.directory.rmdir()
    world.outcomes.append(RETRY)
    assert not process.export_batch()
    removed = [line for line in lines(caplog) if "files of a running process were removed" in line]
    assert len(removed) == 1
    stats = process.queue.stats()
    assert (stats.queued, stats.spooled) == (4, 4)
    assert stored(world) == [0, 1, 2, 3]


def test_a_status_that_cannot_be_read_does_not_look_like_a_removed_file(world: World) -> None:
    process = Process(world)
    process.put(4)
    world.machine.fault = lambda _, name: error(errno.EIO) if name == "status" else None
    process.export_batch()
    deliver_rest(world)
    assert world.delivered == [0, 1, 2, 3]


@pytest.mark.parametrize("field", ["levelname", "logger_name", "levelno", "created"])
def test_an_event_with_replaced_fields_is_written(world: World, field: str) -> None:
    process = Process(world)
    (odd,) = turns(1, duration_ms=100)
    setattr(odd, field, ["unhashable"])
    process.queue.put(odd)
    process.put(3)
    assert process.queue.stats().spooled == 4
    while process.export_batch():
        pass
    assert process.queue.stats().exported == 4
    assert world.delivered == [100, 0, 1, 2]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


def test_an_event_that_cannot_be_encoded_stays_in_memory_and_costs_no_other_event(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(world)
    (odd,) = turns(1, duration_ms=100, odd=True)
    values: list[Any] = [Unspeakable() if value is True else value for value in odd.values]
    odd.values = tuple(values)
    process.queue.put(odd)
    world.outcomes.append(RETRY)
    assert not process.export_batch()
    process.put(3)
    while process.export_batch():
        pass
    process.put(1)
    stats = process.queue.stats()
    assert (stats.exported, stats.queued, stats.spooled) == (4, 1, 1)
    assert world.delivered == [100, 0, 1, 2]
    assert len(lines(caplog)) == 2


def test_an_event_logged_while_others_are_written_again_is_written_after_them(
    world: World,
) -> None:
    process = Process(world)
    world.machine.fault = lambda *_: error(errno.ENOSPC)
    process.put(3)

    made: list[str] = []

    def log_one(_position: int, name: str) -> None:
        made.append(name)
        # After the probe, and once the segment has a name, the first event is written.
        if name == "append" and made.count("rename") == 2:
            world.machine.fault = lambda *_: None
            process.put()

    world.machine.fault = log_one
    world.outcomes.append(RETRY)
    assert not process.export_batch()
    assert process.queue.stats().spooled == 4
    assert stored(world) == [0, 1, 2, 3]


def test_an_interrupted_restoration_is_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(world)
    world.machine.fault = lambda *_: error(errno.ENOSPC)
    process.put(3)
    world.machine.fault = lambda *_: None
    choose = process.journal._segment_for

    def choose_interrupted(number: int, writer: int) -> Segment:
        choose(number, writer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process.journal, "_segment_for", choose_interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.queue.restore()
    process.journal._segments[0].sealed = True  # then another one is chosen
    process.queue.restore()
    assert process.queue.is_on_disk()
    while process.export_batch():
        pass
    assert not world.files()


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_raising_signal_handler_leaves_journal_and_queue_in_agreement(tmp_path: Path) -> None:
    directory = str(tmp_path / "spool")
    with Program(tmp_path, str(PROGRAMS / "interrupted_spool.py"), "60", directory) as program:
        assert program.wait() == ""


IN_TROUBLE = str(PROGRAMS / "spool_in_trouble.py")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    monkeypatch.setattr(health, "start_in_application", lambda target, _name: target())


class Untouched(Machine):
    """A machine that leaves all system calls to the operating system."""

    def __init__(self) -> None:
        self.calls = []
        self.descriptors = set()
        self.is_dead = False
        self.fault = lambda *_: None


@pytest.mark.usefixtures("usual")
def test_a_full_file_system_is_one_warning_until_there_is_room_again(
    mounted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(Untouched(), mounted / "spool", max_batch_size=100)
    ballast = mounted / "ballast"
    ballast.write_bytes(bytes(100_000))
    process = Process(world)
    process.put(1000)
    stats = process.queue.stats()
    assert (stats.accepted, stats.queued) == (1000, 1000)
    assert 0 < stats.spooled < 1000
    # A write may lack nothing but the last line feed; then the record is there all the same.
    assert process.spooled() <= {*stored(world)}
    assert len({*stored(world)} - process.spooled()) <= 1
    assert len(lines(caplog)) == 1
    ballast.unlink()
    caplog.clear()
    while process.export_batch():
        pass
    process.put(5)
    stats = process.queue.stats()
    assert (stats.exported, stats.queued, stats.spooled) == (1000, 5, 5)
    assert world.delivered == list(range(1000))
    (line,) = lines(caplog)
    assert line.endswith(WORKS)
    process.journal.release()


@pytest.mark.usefixtures("usual")
def test_a_file_system_that_becomes_read_only_is_one_warning(
    mounted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(Untouched(), mounted / "spool")
    process = Process(world)
    process.put(2)
    process.journal.release()  # a file system with a file open for writing stays writable
    process = Process(world)
    remount = ["mount", "-o", "remount,ro", str(mounted)]
    if subprocess.run(remount, check=False, capture_output=True).returncode:
        pytest.skip("the file system stays writable")
    process.put(4)
    while process.export_batch():
        pass
    process.put(1)
    stats = process.queue.stats()
    assert (stats.exported, stats.queued, stats.spooled) == (4, 1, 0)
    (line,) = lines(caplog)
    assert "Read-only file system" in line
    caplog.clear()
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    process.export_batch()
    process.put(1)
    assert process.queue.stats().spooled == 1
    assert process.export_leftovers()
    assert len(world.delivered) == 7
    process.journal.release()


@pytest.mark.processes
@pytest.mark.parametrize("trouble", ["file-size", "not-writable"])
def test_program_with_a_limited_disk_loses_nothing(tmp_path: Path, trouble: str) -> None:
    if trouble == "not-writable" and (not hasattr(os, "geteuid") or os.geteuid() != 0):
        pytest.skip("only root may become an unprivileged user")
    with TemporaryDirectory() as folder:  # the parents of `tmp_path` are open to root only
        Path(folder).chmod(0o711)
        with Program(tmp_path, IN_TROUBLE, trouble, f"{folder}/spool") as program:
            assert program.wait() == ""
