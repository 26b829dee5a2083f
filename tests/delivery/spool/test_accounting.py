"""Random faults of the disk and the collector, deaths and restarts: every event is accounted for.

The counts of each process add up after every step, `spooled` never exceeds what the directory
holds, and over all processes the collector sees every promised event, at most one batch of them
twice per death.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import grpc
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

from codex_otel_logging import CodexOtelHandler, Receiver
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.queue import Stats
from codex_otel_logging.delivery.spool import disk, journal
from codex_otel_logging.delivery.spool.records import RecordDecoder
from support.collectors import TOO_LARGE, Reply, Unless, over_http
from support.dying import (
    DIES_AFTER,
    DIES_BEFORE,
    DIES_HALFWAY,
    INVALID,
    REFUSED,
    RETRY,
    SHORT,
    Died,
    Fault,
    Machine,
    Process,
    World,
    deliver_rest,
    error,
)
from support.events import log
from support.fixtures import HandlerFactory, Scripted
from support.parts import worker_of
from support.queued_events import numbers
from support.spools import segments, until

pytestmark = pytest.mark.thorough

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOLCK, errno.EROFS, errno.EMFILE]
FAULTS = st.sampled_from([SHORT, *map(error, ERRORS)])
DEATHS = st.sampled_from([DIES_BEFORE, DIES_HALFWAY, DIES_AFTER])
OUTCOMES = st.sampled_from(
    [DELIVERED, DELIVERED, Outcome("delivered", "some", rejected=1), RETRY, REFUSED, INVALID]
)
STEPS: dict[str, Callable[[Process], object]] = {
    "put": lambda process: process.put(2),
    "export": Process.export_batch,
    "export leftovers": Process.export_leftovers,
    "leave on disk": lambda process: process.queue.leave_on_disk(),
}


class Accounting(RuleBasedStateMachine):
    """A process, its successors, and one directory."""

    monkeypatch: pytest.MonkeyPatch
    machine: Machine

    @initialize(limit=st.sampled_from([1, 1500, 1 << 20]), size=st.sampled_from([5, 1000]))
    def start(self, limit: int, size: int) -> None:
        self.monkeypatch.setattr(journal, "FIRST_LIMIT", limit)
        self.folder = tempfile.mkdtemp()
        self.machine.start()
        self.world = World(self.machine, Path(self.folder) / "spool", max_queue_size=size)
        self.process = Process(self.world)
        self.stats: list[Stats] = []
        self.deaths = self.deaths_in_step = 0
        self.may_repeat = False

    def step(self, name: str) -> None:
        """Make a step; afterwards promise exactly what is on disk."""
        try:
            STEPS[name](self.process)
            self.world.promised |= self.process.spooled()
        except Died:
            self.deaths_in_step += 1
            self.restart()
        self.machine.fault = lambda *_: None
        self.world.outcomes.clear()

    def restart(self) -> None:
        """Let a process follow on one that has died."""
        self.stats.append(self.process.queue.stats())
        self.deaths += 1
        self.machine.start()
        self.process = Process(self.world)

    @rule(events=st.integers(1, 7))
    def put(self, events: int) -> None:
        self.process.put(events)

    @rule(outcomes=st.lists(OUTCOMES, max_size=3))
    def export(self, outcomes: list[Outcome]) -> None:
        self.world.outcomes.extend(outcomes)
        self.step("export")

    @rule(outcomes=st.lists(OUTCOMES, max_size=3))
    def export_leftovers(self, outcomes: list[Outcome]) -> None:
        self.world.outcomes.extend(outcomes)
        self.step("export leftovers")

    @rule(
        step=st.sampled_from(sorted(STEPS)),
        first=st.integers(0, 12),
        length=st.sampled_from([1, 2, 30]),
        fault=FAULTS,
    )
    def fail(self, step: str, first: int, length: int, fault: Fault) -> None:
        """Let some calls of the disk fail during a step."""

        def during(position: int, name: str) -> Fault | None:
            if name == "export" or not begin + first <= position < begin + first + length:
                return None
            if name in ("overwrite", "remove"):  # then events may be exported twice
                self.may_repeat = True
            return fault

        begin = len(self.machine.calls)
        self.machine.fault = during
        self.step(step)

    @rule(step=st.sampled_from(sorted(STEPS)), at=st.integers(0, 15), death=DEATHS)
    def die(self, step: str, at: int, death: Fault) -> None:
        begin = len(self.machine.calls)
        self.machine.fault = lambda position, _: death if position == begin + at else None
        self.step(step)

    @rule()
    def die_between_steps(self) -> None:
        self.restart()

    @rule()
    def leave_on_disk(self) -> None:
        self.step("leave on disk")

    @rule()
    def remove_directory(self) -> None:
        """Somebody removes the directory; the worker writes what it still has again."""
        shutil.rmtree(self.world.directory, ignore_errors=True)
        self.process.queue.restore()
        self.world.promised &= self.world.seen
        self.world.promised |= self.process.spooled()

    @invariant()
    def counts_add_up(self) -> None:
        stats = self.process.queue.stats()
        settled = stats.exported + stats.rejected + stats.dropped
        assert stats.accepted == settled + stats.queued
        assert 0 <= stats.spooled <= stats.queued, stats

    @invariant()
    def what_counts_as_spooled_is_on_disk(self) -> None:
        found = set()
        for name in self.world.files():
            for line in (self.world.directory / name).read_bytes().split(b"\n"):
                if (decoded := RecordDecoder().decode(line)) is not None:
                    found.update(numbers([decoded[1]]))
        assert self.process.spooled() <= found

    def teardown(self) -> None:
        try:
            self.check_collector()
        finally:
            self.machine.die()
            shutil.rmtree(self.folder)

    def check_collector(self) -> None:
        self.restart()
        last = deliver_rest(self.world)
        self.stats.append(last.queue.stats())
        world = self.world
        assert world.promised <= world.seen
        assert not world.files()
        batch = world.config.max_batch_size
        if not self.may_repeat:
            assert world.twice() <= self.deaths * batch
        # What was accepted in a step in which the process died may not have been counted.
        exported = sum(stats.exported + stats.recovered for stats in self.stats)
        uncounted = self.deaths_in_step * batch
        assert exported <= len(world.delivered) <= exported + uncounted
        refused = sum(stats.rejected + stats.discarded for stats in self.stats)
        assert len(world.seen - set(world.delivered)) <= refused + uncounted


def test_every_event_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    Accounting.monkeypatch = monkeypatch
    Accounting.machine = Machine(monkeypatch)
    run_state_machine_as_test(
        Accounting,
        settings=settings(
            max_examples=100, stateful_step_count=25, deadline=None, derandomize=True
        ),
    )


def test_spooled_is_exact_while_a_batch_is_being_settled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch)
    process = Process(World(machine, tmp_path / "spool"))
    machine.fault = lambda *_: error(errno.ENOSPC)
    process.put(3)
    machine.fault = lambda *_: None
    settle, found = process.journal.settle, []

    def settle_observed(through: int) -> None:
        found.append(process.queue.stats())
        settle(through)

    monkeypatch.setattr(process.journal, "settle", settle_observed)
    process.export_batch()
    assert [(stats.queued, stats.spooled) for stats in found] == [(0, 0)]
    machine.die()


class Reader(threading.Thread):
    """Reads the counts of a handler whenever another thread asks for it. A context manager."""

    def __init__(self, handler: CodexOtelHandler) -> None:
        super().__init__()
        self.samples: list[Stats] = []
        self._handler = handler
        self._is_over = False
        self._requested = self._served = 0
        self._changed = threading.Condition()

    def run(self) -> None:
        while not self._is_over:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._requested > self._served)
                requested = self._requested
            self.samples.append(self._handler.stats())
            with self._changed:
                self._served = requested
                self._changed.notify_all()

    def wait_for_sample(self) -> None:
        """Wait until the counts were read that are valid now, or later ones."""
        with self._changed:
            mine = self._requested = self._requested + 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._is_over or self._served >= mine, 20)

    def __enter__(self) -> Reader:  # noqa: PYI034 - Self is not in 3.10
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self.join(20)


class ObservedLock:
    """The lock of a queue. Whenever another thread has released it, `reader` reads the counts."""

    def __init__(self, lock: Any, reader: Reader) -> None:
        self._lock = lock
        self._reader = reader
        self._depth = 0  # changed by the thread that holds the lock

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        is_released = self._depth == 0
        self._lock.release()
        if is_released and threading.current_thread() is not self._reader:
            self._reader.wait_for_sample()


def test_counts_add_up_whenever_another_thread_reads_them(
    attach: HandlerFactory, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads log, the worker exports, and the disk fails now and then, at last for good."""
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    append, calls, is_broken = disk.append, count(1), threading.Event()

    def fail_now_and_then(descriptor: int, data: bytes) -> int:
        if next(calls) % 50 < 5 or is_broken.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(descriptor, data)

    monkeypatch.setattr(disk, "append", fail_now_and_then)
    batch = {"schedule_delay_ms": 0, "max_batch_size": 7}
    spool = tmp_path / "spool"
    handler = attach(
        {"exporter": over_http(receiver), "spool": {"path": str(spool)}, "batch": batch}
    )
    queue = worker_of(handler).queue
    assert queue.journal is not None
    with Reader(handler) as reader:
        lock: Any = ObservedLock(queue.lock, reader)
        queue.lock = queue.journal._lock = lock
        writers = [threading.Thread(target=log, args=(100,)) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        is_broken.set()
        log(30)
        assert handler.flush(60)
    wrong = [
        stats
        for stats in reader.samples
        if stats.accepted != stats.exported + stats.rejected + stats.dropped + stats.queued
        or not 0 <= stats.spooled <= stats.queued
    ]
    assert wrong == []
    assert any(stats.spooled < stats.queued for stats in reader.samples)
    # At no moment does an event count twice, or not at all.
    accepted = [stats.accepted for stats in reader.samples]
    assert accepted == sorted(accepted)
    assert handler.stats() == Stats(accepted=430, exported=430)
    assert until(lambda: not segments(spool))


def spooled_by(attach: HandlerFactory, collector: Any, spool: Path) -> Any:
    """Return a handler that exports to a collector when it is flushed."""
    return attach(
        {
            "exporter": collector.exporter,
            "spool": {"path": str(spool)},
            "batch": {"schedule_delay_ms": 600_000},
        }
    )


def test_partial_success_is_counted_and_removes_the_segment(
    attach: HandlerFactory, scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OTLP forbids sending the events again, so they must not stay on disk."""
    spool = tmp_path / "spool"
    collector = scripted(Reply(rejected=2, message="too old"))
    handler = spooled_by(attach, collector, spool)
    log(5)
    assert handler.stats() == Stats(accepted=5, queued=5, spooled=5)
    assert handler.flush(20)
    assert handler.stats() == Stats(accepted=5, exported=3, rejected=2)
    assert not segments(spool)
    assert len(collector.requests) == 1
    assert caplog.text.count("too old") == 1


TONIC = Reply(
    413, grpc.StatusCode.OUT_OF_RANGE, "Error, message length too large: found 9, the limit is: 8"
)


@pytest.mark.parametrize("reply", [TOO_LARGE, TONIC], ids=["RESOURCE_EXHAUSTED", "OUT_OF_RANGE"])
def test_event_that_is_too_large_for_the_collector_is_rejected_alone(
    attach: HandlerFactory, scripted: Scripted, tmp_path: Path, reply: Reply
) -> None:
    spool = tmp_path / "spool"
    collector = scripted(Unless(lambda request: "huge" in str(request), reply))
    handler = spooled_by(attach, collector, spool)
    log(4)
    huge: dict[str, Any] = {"conversation.id": "huge"}
    log(1, first=4, **huge)
    log(4, first=5)
    assert handler.flush(20)
    assert handler.stats() == Stats(accepted=9, exported=8, rejected=1)
    arrived = [event.attributes["duration_ms"] for event in collector.events]
    assert arrived == [0, 1, 2, 3, 5, 6, 7, 8]
    assert not segments(spool)
