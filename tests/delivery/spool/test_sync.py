"""Syncing: when records are forced to the storage device, on which thread, and what if it fails."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver, Stats
from codex_otel_logging.delivery.flushing import flush_at_exit
from codex_otel_logging.delivery.spool import disk, journal
from codex_otel_logging.delivery.worker import Worker
from codex_otel_logging.native import get_ident
from support.collectors import Gate, HttpCollector, over_http
from support.events import log, numbers
from support.fixtures import HandlerFactory
from support.parts import worker_of
from support.spools import SpooledQueue, segments, settings_of, until

pytestmark = pytest.mark.thorough

MAIN = "main"
WORKER = "worker"


class Calls(list[tuple[str, str]]):
    """The names of synced files and the threads that synced them; the directory's name is `/`.

    `parents` are the paths of other synced directories.
    """

    def __init__(self, spool: Path) -> None:
        super().__init__()
        self.spool = str(spool)
        self.parents: list[str] = []
        self.error: OSError | None = None

    def sync(self, descriptor: int) -> None:
        self._add(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def sync_directory(self, path: str) -> None:
        if path == self.spool:
            self._add("/")
        else:
            self.parents.append(path)

    def _add(self, name: str) -> None:
        self.append((name, MAIN if get_ident() == threading.main_thread().ident else WORKER))
        if self.error is not None:
            raise self.error


@pytest.fixture
def calls(spool: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    calls = Calls(spool)
    monkeypatch.setattr(disk, "sync", calls.sync)
    monkeypatch.setattr(disk, "sync_directory", calls.sync_directory)
    return calls


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def gate(receiver: Receiver) -> Iterator[Gate]:
    (settings,) = over_http(receiver).values()
    gate = Gate(settings["endpoint"])
    yield gate
    gate.close()


@pytest.fixture
def handler(attach: HandlerFactory, gate: Gate, spool: Path) -> CodexOtelHandler:
    return attach(otel_of(gate.endpoint, spool))


def otel_of(endpoint: str, spool: Path, **batch: int) -> dict[str, Any]:
    return {
        "exporter": {"otlp-http": {"endpoint": endpoint}},
        "spool": {"path": str(spool)},
        "batch": {"schedule_delay_ms": 0, **batch},
    }


def names(spool: Path) -> list[str]:
    return [path.name for path in segments(spool)]


def test_healthy_process_syncs_nothing(
    handler: CodexOtelHandler, receiver: Receiver, calls: Calls
) -> None:
    for number in range(20):
        log(first=number)
        assert handler.flush(20)
    assert len(receiver.events) == 20
    assert calls == []


def test_failed_attempt_syncs_file_and_directory_before_its_backoff(
    handler: CodexOtelHandler, gate: Gate, spool: Path, calls: Calls, monkeypatch: Any
) -> None:
    synced: list[list[tuple[str, str]]] = []
    original = Worker._back_off

    def back_off(worker: Worker, *arguments: Any) -> None:
        synced.append([*calls])
        original(worker, *arguments)

    monkeypatch.setattr(Worker, "_back_off", back_off)
    gate.refuse()
    log(10)
    assert until(lambda: synced)
    (name,) = names(spool)
    assert synced[0] == [(name, WORKER), ("/", WORKER)]


def test_nothing_new_is_not_synced_again(spool: Path, calls: Calls) -> None:
    spooled = SpooledQueue(settings_of(spool))
    spooled.put(10)
    spooled.queue.sync()
    spooled.queue.sync()
    (name,) = names(spool)
    assert [synced for synced, _ in calls] == [name, "/"]
    spooled.put()
    spooled.queue.sync()
    assert [synced for synced, _ in calls] == [name, "/", name]


def test_new_directory_is_synced_with_its_parents_once(
    tmp_path: Path, spool: Path, calls: Calls
) -> None:
    """Otherwise a power loss removes it, with files that were synced."""
    calls.spool = str(spool / "missing" / "events")
    spooled = SpooledQueue(settings_of(spool / "missing" / "events"))
    spooled.put(10)
    assert not calls.parents
    spooled.queue.sync()
    expected = [*map(str, (spool / "missing", spool, tmp_path, *tmp_path.parents))]
    assert calls.parents == expected
    assert [name for name, _ in calls][1:] == ["/"]
    spooled.export_all()
    spooled.put(10)
    spooled.queue.sync()
    assert calls.parents == expected
    assert len(calls) == 4


def test_directory_that_is_created_again_is_synced_with_its_parents_again(
    spool: Path, calls: Calls
) -> None:
    spooled = SpooledQueue(settings_of(spool))
    for _ in range(2):
        calls.parents.clear()
        spooled.put(10)
        spooled.queue.sync()
        assert calls.parents == [*map(str, spool.parents)]
        spooled.export_all()
        spool.rmdir()


def test_parents_that_cannot_be_synced_are_ignored(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def sync_directory(path: str) -> None:
        tried.append(path)
        if path != str(spool):
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk, "sync_directory", sync_directory)
    spooled = SpooledQueue(settings_of(spool))
    reports: list[str] = []
    monkeypatch.setattr(spooled.journal._health, "_report", reports.append)
    spooled.put(10)
    spooled.queue.sync()
    assert tried == [*map(str, (spool, *spool.parents))]
    assert reports == []


def test_failed_sync_of_the_directory_is_repeated(
    spool: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = SpooledQueue(settings_of(spool))
    spooled.put(10)

    def fail(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_directory", fail)
        spooled.queue.sync()
    (name,) = names(spool)
    assert [synced for synced, _ in calls] == [name]
    spooled.queue.sync()
    assert [synced for synced, _ in calls] == [name, "/"]
    assert calls.parents == [*map(str, spool.parents)]
    spooled.queue.sync()
    assert len(calls) == 2


def test_batch_that_is_set_aside_is_synced_before_it_is_settled(
    spool: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = SpooledQueue(settings_of(spool), max_batch_size=5)
    spooled.put(10)
    spooled.queue.sync()
    calls.clear()
    overwrite = disk.overwrite

    def settle(descriptor: int, data: bytes, offset: int) -> int:
        calls._add("settled")
        return overwrite(descriptor, data, offset)

    monkeypatch.setattr(disk, "overwrite", settle)
    spooled.queue.take_batch()
    assert spooled.queue.set_aside()
    _, own = names(spool)
    assert [name for name, _ in calls] == [own, "/", "settled"]


def test_rotated_segment_with_unsettled_events_is_synced(
    spool: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", 2000)
    spooled = SpooledQueue(settings_of(spool), max_batch_size=1)
    spooled.put(10)
    *rotated, current = names(spool)
    assert len(rotated) == 1
    assert calls == []
    spooled.export()
    assert [name for name, _ in calls] == [*rotated, "/"]
    while spooled.queue.waiting:
        spooled.export()
    assert current not in dict(calls)


def test_segment_that_is_settled_is_not_synced(
    spool: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", 2000)
    spooled = SpooledQueue(settings_of(spool), max_batch_size=7)
    for _ in range(10):
        spooled.put(7)
        spooled.queue.take_batch()
        spooled.queue.account(spooled.queue.settled + 7, exported=7)
        spooled.queue.restore()
    assert calls == []


def test_application_thread_never_syncs(
    handler: CodexOtelHandler, gate: Gate, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", 2000)
    gate.refuse()
    log(500)
    assert until(lambda: calls)
    gate.open()
    log(500)
    assert handler.flush(20)
    assert calls
    assert {thread for _, thread in calls} == {WORKER}


def test_exit_syncs_the_leftovers_if_the_worker_is_stuck(
    attach: HandlerFactory,
    http_collector: Callable[..., HttpCollector],
    spool: Path,
    calls: Calls,
) -> None:
    collector = http_collector((200, {}, b""), delay_s=3.0)
    handler = attach(otel_of(collector.endpoint, spool, shutdown_timeout_ms=100))
    log(10)
    worker = worker_of(handler)
    assert until(lambda: worker.queue.taken)
    log(10)
    flush_at_exit([worker], for_good=False)
    assert [thread for _, thread in calls] == [MAIN, MAIN]
    assert [name for name, _ in calls] == [*names(spool), "/"]


def test_exit_without_leftovers_syncs_nothing(handler: CodexOtelHandler, calls: Calls) -> None:
    log(10)
    flush_at_exit([worker_of(handler)], for_good=False)
    assert handler.stats() == Stats(accepted=10, exported=10)
    assert calls == []


def test_error_of_sync_is_one_warning_and_costs_nothing(
    handler: CodexOtelHandler,
    receiver: Receiver,
    gate: Gate,
    calls: Calls,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls.error = OSError(errno.EIO, "Input/output error")
    gate.refuse()
    log(10)
    assert until(lambda: calls)
    log(10, first=10)
    count = len(calls)
    assert until(lambda: len(calls) > count)
    gate.open()
    assert handler.flush(20)
    assert numbers(receiver.events) == list(range(20))
    assert handler.stats() == Stats(accepted=20, exported=20)
    assert caplog.text.count("cannot sync the disk (Input/output error)") == 1


def test_segment_that_is_closed_while_it_is_synced_is_no_error(
    spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At exit the main thread syncs what the worker may be about to remove."""
    spooled = SpooledQueue(settings_of(spool))
    spooled.put(3)

    def sync(_: int) -> None:
        spooled.export_all()
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(disk, "sync", sync)
    reports: list[str] = []
    monkeypatch.setattr(spooled.journal._health, "_report", reports.append)
    spooled.queue.sync()
    assert reports == []
