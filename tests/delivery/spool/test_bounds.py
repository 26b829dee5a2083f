"""The bounds of a spool: `max_bytes` and `keep_for_ms`."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery import queue as queue_module
from codex_otel_logging.delivery.exporter import DELIVERED, Exporter, Outcome
from codex_otel_logging.delivery.lifecycle import Pipeline
from codex_otel_logging.delivery.outages import OutageReporter
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.sender import Sender
from codex_otel_logging.delivery.spool import disk, journal, leftovers, policy
from codex_otel_logging.delivery.spool.journal import SpoolSettings
from codex_otel_logging.delivery.spool.leftovers import Leftovers
from codex_otel_logging.events.event import Event, SharedAttributes
from codex_otel_logging.native import wall_clock
from support.collectors import UNAVAILABLE, HttpCollector
from support.paths import PROGRAMS, ROOT
from support.queued_events import numbers, turns
from support.simulated_spool import Clock, Simulated
from support.spools import (
    SpooledQueue,
    ThreadlessWorker,
    on_disk,
    segments,
    settings_of,
    size_of,
    until,
)

RETRY = Outcome("retry", "unavailable")
TEN_YEARS_S = 315_576_000.0
DAY_S = 86_400.0
RECORD = 400
"""The size of a record at most, in bytes."""

SEGMENT = 1 << 14


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", SEGMENT)
    monkeypatch.setattr(queue_module, "WARM_BYTES", 1 << 14)
    monkeypatch.setattr(journal, "RETRY_S", 0.0)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock forth by a number of seconds, or back."""

    def set_clock(by_s: float) -> None:
        for module in (policy, leftovers):
            monkeypatch.setattr(module, "wall_clock", lambda: wall_clock() + by_s)

    return set_clock


# max_bytes


@pytest.mark.processes
@pytest.mark.parametrize("max_bytes", [1 << 17, 1 << 20])
def test_eight_processes_exceed_max_bytes_by_a_segment_each_at_most(
    http_collector: Callable[..., HttpCollector], spool: Path, tmp_path: Path, max_bytes: int
) -> None:
    otel = {
        "exporter": http_collector(UNAVAILABLE).exporter,
        "spool": {"path": str(spool), "max_bytes": max_bytes},
    }
    command = [sys.executable, str(PROGRAMS / "bounded_writer.py"), json.dumps(otel), "1500"]
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(8)
        ]
        counts = []
        for writer in writers:
            assert writer.stdout is not None
            counts.append(Stats(**json.loads(writer.stdout.readline())))
        size = size_of(spool)
        errors = [writer.communicate("\n", timeout=40)[1] for writer in writers]
    # A segment is at most a sixteenth of `max_bytes`, but at least as large as the first one.
    assert max_bytes <= size <= max_bytes + 8 * (max(max_bytes // 16, SEGMENT) + RECORD)
    assert [(stats.accepted, stats.queued) for stats in counts] == [(1500, 1500)] * 8
    assert sum(stats.spooled for stats in counts) == len(on_disk(spool))
    assert all(error.count("spool full; see max_bytes") <= 1 for error in errors), errors
    assert any("spool full; see max_bytes" in error for error in errors)


def test_two_handlers_share_max_bytes(spool: Path) -> None:
    both = [SpooledQueue(settings_of(spool, max_bytes=1 << 16)) for _ in range(2)]
    for _ in range(1000):
        for each in both:
            each.put()
    assert 1 << 16 <= size_of(spool) <= (1 << 16) + 2 * (SEGMENT + RECORD)
    for each in both:
        assert each.queue.stats().queued == 1000
        assert each.export_all() == list(range(1000))


def test_full_spool_keeps_events_in_memory_then_drops_the_newest(
    spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spooled = SpooledQueue(settings_of(spool, max_bytes=1 << 16), max_queue_bytes=100_000)
    queue = spooled.queue
    monkeypatch.setattr(queue._overflow, "report_begin", lambda: None)
    spooled.put(1000)
    queue.restore()
    stats = queue.stats()
    kept = 1000 - stats.dropped
    assert size_of(spool) <= (1 << 16) + SEGMENT + RECORD
    assert 0 < stats.spooled < kept < 1000
    assert queue.queued_bytes + spooled.journal.parked_bytes <= 100_000
    assert stats == Stats(
        accepted=1000, dropped=1000 - kept, queued=kept, spooled=len(on_disk(spool))
    )
    assert until(lambda: "spool full" in caplog.text)
    assert caplog.text.count("cannot write events (spool full; see max_bytes)") == 1
    assert spooled.export_all() == list(range(kept))


def test_spool_is_used_again_when_there_is_room(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool.mkdir(mode=0o700)
    full = spool / "x"
    full.write_bytes(bytes(1 << 16))
    spooled = SpooledQueue(settings_of(spool, max_bytes=1 << 16))
    spooled.put(10)
    assert spooled.queue.stats() == Stats(accepted=10, queued=10)
    assert until(lambda: "spool full" in caplog.text)
    full.unlink()
    spooled.queue.restore()
    spooled.put(10)
    assert spooled.queue.stats() == Stats(accepted=20, queued=20, spooled=20)
    assert sorted(on_disk(spool)) == list(range(20))
    assert caplog.text.count("events are written to disk again") == 1


def test_events_that_a_full_spool_had_no_room_for_are_written_within_its_bounds(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    max_bytes = 1 << 16
    spooled = SpooledQueue(settings_of(spool, max_bytes=max_bytes), max_batch_size=50)
    count = 3000
    spooled.put(count)
    in_memory = count - spooled.queue.stats().spooled
    assert in_memory > 2000
    found: list[int] = []
    files = {*segments(spool)}
    while batch := spooled.export():
        found += batch
        files |= {*segments(spool)}
        assert size_of(spool) <= max_bytes + SEGMENT + RECORD
        assert all(path.stat().st_size <= SEGMENT + RECORD for path in segments(spool))
    assert found == [*range(count)]
    assert len(files) > count * RECORD // 2 // SEGMENT
    assert not segments(spool)
    assert until(lambda: "events are written to disk again" in caplog.text)


@pytest.mark.parametrize("max_bytes", [1 << 16, 1 << 20], ids=["no-room", "room"])
def test_child_that_inherits_events_removes_its_parents_files_only_if_it_could_copy_all(
    spool: Path, max_bytes: int
) -> None:
    """The files of the parent count against `max_bytes` while the child writes its own."""
    settings = settings_of(spool, max_bytes=max_bytes)
    pipeline = Pipeline(lambda events: ThreadlessWorker(settings, Scripted(RETRY), events))
    for event in turns(150):
        pipeline.worker.queue.put(event)
    before = segments(spool)
    assert pipeline.worker.queue.stats().spooled == 150
    pipeline.reset(keep_queue=True)
    stats = pipeline.worker.queue.stats()
    assert (stats.accepted, stats.queued) == (150, 150)
    assert {*on_disk(spool)} == {*range(150)}
    has_room = stats.spooled == 150
    assert has_room == (max_bytes == 1 << 20)
    assert [path.exists() for path in before] == [not has_room] * len(before)


def test_files_with_damaged_headers_count(spool: Path) -> None:
    spool.mkdir(mode=0o700)
    (spool / "1.spool.damaged").write_bytes(bytes(1 << 16))
    spooled = SpooledQueue(settings_of(spool, max_bytes=1 << 16))
    spooled.put(10)
    assert spooled.queue.stats() == Stats(accepted=10, queued=10)


# keep_for_ms


class Scripted:
    """An exporter with the given outcomes; the last one repeats."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[list[int]] = []

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        if events:
            self.requests.append(numbers(events))
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]

    def export_leftovers(self, shared: SharedAttributes, events: Sequence[Event]) -> Outcome:
        return self.export(events)

    def shutdown(self) -> None:
        raise AssertionError


def sender_of(settings: SpoolSettings, exporter: Exporter, count: int) -> tuple[EventQueue, Sender]:
    reporter = OutageReporter("x")
    queue = EventQueue(BatchConfig(), reporter.overflow, lambda: None, turns(count), settings)
    sender = Sender(
        BatchConfig(),
        queue,
        reporter,
        connect=lambda: exporter,
        check=lambda _: None,
        spool=settings,
    )
    sender.begin(queue.take_batch())
    return queue, sender


def test_events_expire_only_when_an_attempt_fails(
    spool: Path, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Scripted(DELIVERED)
    settings = settings_of(spool, keep_for_s=DAY_S)
    clock(TEN_YEARS_S)
    queue, sender = sender_of(settings, exporter, 10)
    assert sender.send() is None
    assert queue.stats() == Stats(accepted=10, exported=10)

    exporter = Scripted(RETRY)
    queue, sender = sender_of(settings, exporter, 10)
    assert sender.send() is None
    assert sender.is_done
    assert queue.stats() == Stats(accepted=10, dropped=10)
    assert "10 events dropped (spool.keep_for_ms exceeded: unavailable)" in caplog.text
    assert not segments(spool)


@pytest.mark.parametrize(("keep_for_s", "by_s"), [(DAY_S, -TEN_YEARS_S), (0.0, TEN_YEARS_S)])
def test_events_do_not_expire_if_the_clock_is_set_back_or_without_a_limit(
    spool: Path, clock: Callable[[float], None], keep_for_s: float, by_s: float
) -> None:
    exporter = Scripted(RETRY, DELIVERED)
    clock(by_s)
    queue, sender = sender_of(settings_of(spool, keep_for_s=keep_for_s), exporter, 10)
    assert sender.send() is not None
    assert sender.send() is None
    assert queue.stats() == Stats(accepted=10, exported=10)


def test_younger_events_of_a_batch_are_kept(spool: Path, clock: Callable[[float], None]) -> None:
    exporter = Scripted(RETRY, DELIVERED)
    settings = settings_of(spool, keep_for_s=DAY_S)
    queue, sender = sender_of(settings, exporter, 0)
    old, young = turns(4), turns(6)
    for event in old:
        event.created = wall_clock() - 2 * DAY_S
    for event in (*old, *young):
        queue.put(event)
    sender.begin(queue.take_batch())
    clock(0.0)
    assert sender.send() is not None
    assert queue.stats() == Stats(accepted=10, dropped=4, queued=6, spooled=6)
    assert sender.send() is None
    assert queue.stats() == Stats(accepted=10, exported=6, dropped=4)
    assert exporter.requests == [[*range(4), *range(6)], [*range(6)]]


@pytest.mark.parametrize(
    ("outcome", "earliest_s"),
    [
        (Outcome("retry", "HTTP 429", status=429, retry_after_s=30.0), 30.0),
        (Outcome("refused", "HTTP 401", status=401), 30.0),
        (RETRY, 0.05),
    ],
    ids=["429", "401", "unavailable"],
)
@pytest.mark.parametrize("young", [0, 10])
def test_expired_batches_cost_one_attempt_and_the_next_waits_for_its_backoff(
    spool: Path,
    clock: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    earliest_s: float,
    young: int,
) -> None:
    """After a long outage thousands of batches expire, and a collector is to be left alone."""

    def put(count: int) -> None:
        for event in turns(count):
            event.created = wall_clock() + 2 * DAY_S
            delivery.queue.put(event)

    answers = iter([outcome])
    delivery = Simulated(
        spool,
        Clock(monkeypatch),
        lambda _: next(answers, DELIVERED),
        keep_for_s=DAY_S,
        max_batch_size=20,
    )
    delivery.put(520)
    put(young)
    clock(2 * DAY_S)
    delivery.run()
    put(10)
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=530 + young, exported=10 + young, dropped=520)
    (first, expired), (second, _), *_ = delivery.requests
    assert len(expired) == 20
    assert second - first >= earliest_s
    assert sum(len(found) for _, found in delivery.requests) == 30 + young


def leave(spool: Path, count: int, destination: str = "x") -> None:
    """Leave events as a dead process does."""
    spooled = SpooledQueue(settings_of(spool)._replace(destination=destination))
    spooled.put(count)
    assert spooled.queue.leave_on_disk()


def test_expired_leftovers_make_room_for_new_events_during_an_outage(spool: Path) -> None:
    leave(spool, 100, "elsewhere")
    elsewhere = segments(spool)
    leave(spool, 100)
    leave(spool, 50)
    *_, young = segments(spool)
    expired = [path for path in segments(spool) if path not in (*elsewhere, young)]
    damaged = spool / "1.spool.damaged"
    damaged.touch()
    for path in (*elsewhere, *expired, damaged):
        long_ago = wall_clock() - 2 * DAY_S
        os.utime(path, (long_ago, long_ago))

    class Down(Scripted):
        def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
            spooled.append(worker.queue.stats().spooled)
            damaged_left.append(damaged.exists())
            return super().export(events, timeout_s)

    spooled: list[int] = []
    damaged_left: list[bool] = []
    settings = settings_of(spool, keep_for_s=DAY_S, max_bytes=size_of(spool))
    worker = ThreadlessWorker(settings, Down(RETRY, RETRY, DELIVERED))
    for event in turns(3):
        worker.queue.put(event)
    worker._rescan_at = float("inf")  # as after a recent scan
    worker.export()
    assert spooled[:3] == [0, 3, 3]
    assert damaged_left[:3] == [True, False, False]
    assert worker.queue.stats() == Stats(accepted=3, exported=3, recovered=50, discarded=100)
    worker.export()  # there is nothing left, so the exported file is removed
    assert segments(spool) == elsewhere


def leftovers_of(
    spool: Path, exporter: Scripted, keep_for_s: float, **batch: int
) -> tuple[Leftovers, list[tuple[int, int]]]:
    """Return the leftovers, and a list of how many were exported and how many lost."""
    counts: list[tuple[int, int]] = []
    found = Leftovers(
        settings_of(spool, keep_for_s=keep_for_s),
        BatchConfig(**batch),
        export=exporter.export_leftovers,
        account=lambda _, found: counts.append((found.exported, found.rejected + found.dropped)),
    )
    found.scan()
    return found, counts


def test_leftovers_expire_only_when_an_attempt_fails(
    spool: Path, clock: Callable[[float], None]
) -> None:
    leave(spool, 20)
    clock(TEN_YEARS_S)
    exporter = Scripted(DELIVERED, RETRY)
    found, counts = leftovers_of(spool, exporter, DAY_S, max_batch_size=5)
    assert found.step()
    assert not found.step()
    assert found.failure == "unavailable"
    assert counts == [(5, 0), (0, 5)]
    exporter.outcomes = [DELIVERED]
    found.scan()
    while found.step():
        pass
    assert counts == [(5, 0), (0, 5), (5, 0), (5, 0)]
    assert not segments(spool)


@pytest.mark.parametrize(("keep_for_s", "by_s"), [(DAY_S, -TEN_YEARS_S), (0.0, TEN_YEARS_S)])
def test_leftovers_do_not_expire_if_the_clock_is_set_back_or_without_a_limit(
    spool: Path, clock: Callable[[float], None], keep_for_s: float, by_s: float
) -> None:
    leave(spool, 20)
    clock(by_s)
    exporter = Scripted(RETRY, DELIVERED)
    found, counts = leftovers_of(spool, exporter, keep_for_s)
    assert not found.step()
    found.scan()
    assert found.step()
    assert counts == [(20, 0)]


@pytest.mark.parametrize("keep_for_s", [DAY_S, 0.0])
def test_failed_attempt_unlocks_a_half_exported_leftover(spool: Path, keep_for_s: float) -> None:
    """During a long outage, `drain` may export it to another collector."""
    leave(spool, 20)
    found, _ = leftovers_of(spool, Scripted(DELIVERED), keep_for_s, max_batch_size=5)
    assert found.step()
    found.expire()
    other, counts = leftovers_of(spool, Scripted(DELIVERED), keep_for_s)
    assert other.step()
    assert counts == [(15, 0)]


@pytest.mark.parametrize(
    ("keep_for_s", "by_s", "is_left"),
    [
        (DAY_S, 0.0, True),
        (DAY_S, -TEN_YEARS_S, True),
        (DAY_S, 2 * DAY_S, False),
        (0.0, TEN_YEARS_S, True),
    ],
)
def test_files_with_damaged_headers_expire(
    spool: Path, clock: Callable[[float], None], keep_for_s: float, by_s: float, is_left: bool
) -> None:
    spool.mkdir(mode=0o700)
    damaged, foreign = spool / "1.spool.damaged", spool / "2.damaged"
    damaged.touch()
    foreign.touch()
    clock(by_s)
    leftovers_of(spool, Scripted(DELIVERED), keep_for_s)
    assert damaged.exists() == is_left
    assert foreign.exists()


def test_file_that_another_process_removes_does_not_keep_the_others_from_expiring(
    spool: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing of the directory and the look at the file."""
    for _ in range(3):
        leave(spool, 10)
    first, *_ = segments(spool)
    clock(TEN_YEARS_S)
    found, counts = leftovers_of(spool, Scripted(), DAY_S)
    modified_s = disk.modified_s

    def remove_first(path: str) -> float:
        first.unlink(missing_ok=True)
        return modified_s(path)

    monkeypatch.setattr(disk, "modified_s", remove_first)
    found.expire()
    assert counts == [(0, 10), (0, 10)]
    assert not segments(spool)


def test_expired_leftovers_that_cannot_be_removed_are_counted_once(
    spool: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(spool, 20)
    clock(2 * DAY_S)
    found, counts = leftovers_of(spool, Scripted(RETRY), DAY_S)

    def fail(_: str) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk, "remove", fail)
    for _ in range(3):
        os.utime(segments(spool)[0], (0, 0))  # long ago, as when only the clock had moved
        found.expire()
    assert counts == [(0, 20)]


def test_file_that_cannot_be_removed_is_left(
    spool: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(spool, 3)
    (spool / "1.spool.damaged").touch()

    def fail(_: str) -> float:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(disk, "modified_s", fail)
    clock(TEN_YEARS_S)
    found, counts = leftovers_of(spool, Scripted(DELIVERED), DAY_S)
    assert found.step()
    assert counts == [(3, 0)]
