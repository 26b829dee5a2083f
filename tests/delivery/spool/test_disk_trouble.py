"""A disk that fails, is full or read-only, and works again.

Meanwhile events are exported from memory, as without a spool. One warning says that the disk fails,
one line that it works again, and what was in memory only is then written first. The application
notices nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from codex_otel_logging.delivery.spool import disk, health, journal
from codex_otel_logging.delivery.spool.records import RecordDecoder
from codex_otel_logging.delivery.spool.segment import Segment
from support.dying import RETRY, SHORT, Fault, Machine, Process, World, deliver_rest, error
from support.paths import PROGRAMS
from support.queued_events import numbers, turns
from support.servers import Program
from support.spools import held_write, until

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


def test_a_directory_that_is_removed_while_a_thread_writes_leaks_no_descriptor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(world)
    for round_ in range(3):
        process.put(1)
        with held_write(monkeypatch, process.put):
            shutil.rmtree(world.directory)
            process.queue.restore()
            assert stored(world) == [2 * round_, 2 * round_ + 1]
        while process.export_batch():
            pass
        assert not world.files()
        assert not world.machine.descriptors
    assert world.delivered == [*range(6)]


def test_files_that_are_removed_again_and_again_in_an_outage_leak_no_descriptor(
    world: World,
) -> None:
    process = Process(world)
    for round_ in range(1, 6):
        process.put(3)
        for path in world.directory.iterdir():
            path.unlink()
        process.queue.restore()
        assert stored(world) == [*range(3 * round_)]
        assert len(world.machine.descriptors) == 2 * len(world.files())
    while process.export_batch():
        pass
    assert world.delivered == [*range(15)]
    assert not world.machine.descriptors


@pytest.mark.parametrize("is_written_during_restoration", [False, True])
def test_a_cold_event_that_is_written_while_its_file_is_removed_is_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_written_during_restoration: bool
) -> None:
    """Its file stays open until then, because the event is nowhere else."""
    process = Process(world)
    process.queue._warm_bytes = turns(1)[0].size
    process.put(2)
    (segment,) = process.journal._segments
    close_removed = process.journal._close_removed

    def close_late() -> None:
        if is_written_during_restoration:
            let_go()
            assert until(lambda: not segment.writers)
        close_removed()

    with held_write(monkeypatch, process.put) as let_go, monkeypatch.context() as patch:
        patch.setattr(process.journal, "_close_removed", close_late)
        for path in world.directory.iterdir():
            path.unlink()
        process.queue.restore()
    process.queue.restore()
    assert sorted(stored(world)) == [0, 1, 2]
    stats = process.queue.stats()
    assert (stats.queued, stats.spooled) == (3, 3)
    while process.export_batch():
        pass
    assert world.delivered == [0, 1, 2]
    assert not world.machine.descriptors


def test_a_thread_that_ends_its_write_while_others_are_repeated_is_no_disk_failure(
    world: World,
) -> None:
    """Threads leave a segment without a lock."""

    class Leaving(set[int]):
        def __iter__(self) -> Iterator[int]:
            for number in super().__iter__():
                yield number
                self.discard(number)

    process = Process(world)
    process.put(3)
    journal = process.queue.journal
    assert journal is not None
    journal._segments[0].writers = Leaving({2, 3})
    shutil.rmtree(world.directory)
    process.queue.restore()
    assert journal.is_working
    assert stored(world) == [0, 1, 2]


def test_a_settled_file_that_another_thread_removes_is_not_reported_as_removed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last thread that writes to a settled file removes it, perhaps during a check for that."""
    process = Process(world)
    remove, status = disk.remove, disk.status
    is_removed, may_close = threading.Event(), threading.Event()

    def remove_slowly(path: str) -> None:
        remove(path)
        if threading.current_thread() is not threading.main_thread():
            is_removed.set()
            assert may_close.wait(20)

    def status_late(descriptor: int) -> os.stat_result:
        let_go()
        assert is_removed.wait(20)
        return status(descriptor)

    with held_write(monkeypatch, process.put) as let_go:
        assert process.export_batch()
        assert len(world.files()) == 1
        monkeypatch.setattr(disk, "remove", remove_slowly)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "status", status_late)
            process.queue.restore()
        may_close.set()
    assert is_removed.is_set()
    assert not lines(caplog)
    assert not world.files()
    assert not world.machine.descriptors


def test_only_the_worker_writes_which_events_are_settled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread could write an older number, or to a descriptor that is closed by then."""
    process = Process(world)
    writers: set[threading.Thread] = set()
    overwrite = disk.overwrite

    def noted(descriptor: int, data: bytes, offset: int) -> int:
        writers.add(threading.current_thread())
        return overwrite(descriptor, data, offset)

    monkeypatch.setattr(disk, "overwrite", noted)
    with held_write(monkeypatch, process.put):
        process.journal._segments[0].sealed = True  # later events go to another file
        process.put(6)
        process.export_batch()
        process.export_batch()
        assert len(world.files()) == 2
    assert len(world.files()) == 1  # the thread has removed the other one
    assert writers == {threading.main_thread()}


@pytest.mark.skipif(os.name != "posix", reason="no permissions on this system")
def test_a_directory_that_is_opened_to_others_is_one_warning_until_it_is_closed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(world)
    process.put(2)
    world.directory.chmod(0o755)
    world.outcomes.extend([RETRY] * 3)
    assert not process.export_batch()
    process.put(2)
    assert not process.export_batch()
    assert process.queue.stats().spooled == 2
    (warning,) = lines(caplog)
    assert "the directory is open to other users; run: chmod 700" in warning
    assert stored(world) == [0, 1]
    caplog.clear()

    world.directory.chmod(0o700)
    assert not process.export_batch()
    assert process.queue.stats().spooled == 4
    (line,) = lines(caplog)
    assert line.endswith(WORKS)
    assert stored(world) == [0, 1, 2, 3]


def test_a_disk_that_often_writes_only_half_opens_a_bounded_number_of_files(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure seals a file whose other events are not exported yet."""

    def half_of_all_but_the_first(position: int, name: str) -> Fault | None:
        is_first = world.machine.calls[position - 1] in ("status", "rename")  # header, record
        return SHORT if name == "append" and not is_first else None

    world.machine.fault = half_of_all_but_the_first
    process = Process(world)
    for _ in range(2 * journal.MAX_OPEN):
        process.put()
        assert len(world.files()) <= journal.MAX_OPEN
    assert len(world.files()) == journal.MAX_OPEN
    assert process.queue.stats().spooled == journal.MAX_OPEN
    (warning,) = lines(caplog)
    assert "too many unfinished files" in warning
    world.machine.fault = lambda *_: None
    while process.export_batch():
        pass
    assert world.delivered == [*range(2 * journal.MAX_OPEN)]
    assert not world.files()
    assert not world.machine.descriptors


def test_an_event_logged_while_a_file_is_created_is_written_even_if_the_next_file_fails(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal handler that logs cannot use the file, which says nothing about the disk."""
    process = Process(world)
    made: list[str] = []

    def fault(position: int, name: str) -> Fault | None:
        before = world.machine.calls[position - 1]
        if name == "create" and not made:
            made.append(name)
            process.put()
        elif name == "append" and before == "rename" and len(made) == 1:
            made.append(name)
            return error(errno.EFBIG)
        return None

    world.machine.fault = fault
    process.put()
    assert made == ["create", "append"]
    assert process.spooled() == {0, 1}
    assert sorted(stored(world)) == [0, 1]
    assert not lines(caplog)
    while process.export_batch():
        pass
    assert world.delivered == [0, 1]
    assert not world.files()


def test_a_settled_file_that_cannot_be_removed_is_not_exported_again(world: World) -> None:
    process = Process(world)
    process.put(7)
    world.machine.fault = lambda _, name: error(errno.EACCES) if name == "remove" else None
    while process.export_batch():
        pass
    assert len(world.files()) == 1
    deliver_rest(world)
    assert world.delivered == [*range(7)]
    assert not world.files()


def test_an_unfinished_copy_of_a_postponed_batch_that_cannot_be_removed_is_not_exported(
    world: World,
) -> None:
    process = Process(world)
    process.put(6)
    with process.queue.lock:
        process.queue.take_batch()
    appended = world.machine.calls.count("append")

    def fail(_: int, name: str) -> Fault | None:
        if name == "remove":
            return error(errno.EACCES)
        # The header and the first two records of the copy are written.
        is_late = world.machine.calls.count("append") > appended + 3
        return error(errno.ENOSPC) if name == "append" and is_late else None

    world.machine.fault = fail
    assert not process.queue.set_aside()
    assert len(stored(world)) == 6 + 2
    deliver_rest(world)
    assert world.delivered == [*range(6)]
    assert not world.files()


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


@pytest.mark.parametrize("kind", [RecursionError, MemoryError])
def test_an_error_of_the_encoder_says_nothing_about_the_disk(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    """An application that logs at the end of the stack must not switch its spool off."""

    def fail(*_: object) -> bytes:
        raise kind

    process = Process(world)
    with monkeypatch.context() as patch:
        patch.setattr(process.journal, "_encode", fail)
        process.put(1)
    assert process.journal.is_working
    process.put(1)
    assert process.spooled() == {1}
    world.outcomes.append(RETRY)
    assert not process.export_batch()
    assert process.spooled() == {0, 1}
    assert sorted(stored(world)) == [0, 1]
    assert not lines(caplog)


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


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/local ext4 rw 0 0
me@server:/ /home/local/far fuse.sshfs rw,nosuid 0 0
//server/share /mnt/with\\040space\\134 cifs rw 0 0
host /mnt/host 9p rw,trans=virtio 0 0
tmpfs /mnt/host tmpfs rw 0 0
server:/mnt /mnt nfs rw 0 0
"""

FILE_SYSTEMS = {
    "/var/spool": "",
    "/home": "nfs4",
    "/home/me/spool": "nfs4",
    "/homeless/spool": "",
    "/home/local/spool": "",
    "/home/local/far/spool": "fuse.sshfs",
    "/home/local/farther": "",
    "/mnt/with space\\/spool": "cifs",
    "/mnt/with": "nfs",
    "/mnt/host/spool": "",
}


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of mounted file systems."""
    path = tmp_path / "mounts"
    monkeypatch.setattr(disk, "MOUNTS", str(path))
    return path


@pytest.mark.skipif(os.name != "posix", reason="paths of another form")
@pytest.mark.parametrize(("path", "kind"), FILE_SYSTEMS.items())
def test_the_innermost_mount_tells_whether_a_file_system_is_remote(
    mounts: Path, path: str, kind: str
) -> None:
    mounts.write_text(MOUNTS)
    assert disk.remote_file_system(path) == kind


def test_a_mount_covers_an_earlier_one_at_the_same_place(mounts: Path) -> None:
    mounts.write_text("tmpfs / tmpfs rw 0 0\nhost / 9p rw 0 0\n")
    assert disk.remote_file_system("/spool") == "9p"


@pytest.mark.parametrize("contents", [None, "", "nonsense\n", "x /home\n"])
def test_a_file_system_counts_as_local_if_the_mounts_cannot_be_read(
    mounts: Path, contents: str | None
) -> None:
    if contents is not None:
        mounts.write_text(contents)
    assert disk.remote_file_system("/home/spool") == ""


def test_a_remote_file_system_is_one_warning_and_is_used(
    world: World, mounts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mounts.write_text(f"server:/ {world.directory.parent} nfs4 rw 0 0\n")
    process = Process(world)
    for _ in range(3):
        process.put(3)
        while process.export_batch():
            pass
    process.put(1)
    (warning,) = lines(caplog)
    assert warning.endswith("not a local disk; locks are unreliable (nfs4)")
    assert stored(world) == [9]


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
