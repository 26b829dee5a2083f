"""Random faults of the disk and the collector, deaths and restarts: every event is accounted for.

The counts of each process add up after every step, `spooled` never exceeds what the directory
holds, and over all processes the collector sees every promised event, at most one batch of them
twice per death.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

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

from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.queue import Stats
from codex_otel_logging.delivery.spool import journal
from codex_otel_logging.delivery.spool.records import RecordDecoder
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
from support.queued_events import numbers

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
