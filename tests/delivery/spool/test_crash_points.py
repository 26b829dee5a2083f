"""A process dies before, in the middle of and after each of its system calls.

Each scenario runs once to count its calls, then once for each moment at which it can die. What was
promised up to there must reach the collector, at most one batch of it twice per death, and no file
may be left over.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codex_otel_logging.delivery.spool import journal
from support.dying import (
    DIES_AFTER,
    DIES_BEFORE,
    DIES_HALFWAY,
    INVALID,
    REFUSED,
    RETRY,
    WRITES,
    Died,
    Fault,
    Machine,
    Process,
    World,
    deliver_rest,
    error,
)
from support.queued_events import numbers, turns

pytestmark = pytest.mark.thorough

Scenario = Callable[[World], None]


def nothing(world: World) -> None:
    """Prepare nothing."""


def exporting_leftovers(world: World) -> None:
    Process(world).export_leftovers()


def writing(world: World) -> None:
    Process(world).put(4)


def rotating(world: World) -> None:
    process = Process(world)
    for _ in range(4):
        process.put(3)
        process.export_batch()
    process.put(8)


def settling(world: World) -> None:
    process = Process(world)
    process.put(8)
    while process.export_batch():
        pass
    process.put(2)
    process.export_batch()


def settling_what_is_refused(world: World) -> None:
    process = Process(world)
    process.put(6)
    world.outcomes.extend([REFUSED, INVALID, INVALID])
    while process.export_batch():
        pass


def leaving_on_disk(world: World) -> None:
    process = Process(world)
    process.put(7)
    process.export_batch()
    world.outcomes.append(RETRY)
    process.export_batch()
    assert process.queue.leave_on_disk()
    process.put(2)


def adopting(world: World) -> None:
    process = Process(world)
    process.put(1)
    process.export_batch()
    process.export_leftovers()


def adopting_with_refusals(world: World) -> None:
    world.outcomes.extend([RETRY, INVALID, REFUSED])
    process = Process(world)
    process.export_leftovers()
    process.export_leftovers()


def restoring(world: World) -> None:
    process = Process(world)
    process.put(2)
    planned = world.machine.fault
    world.machine.fault = lambda position, name: (
        planned(position, name) or (error(errno.ENOSPC) if name in ("append", "create") else None)
    )
    process.put(4)
    world.machine.fault = planned
    process.export_batch()
    world.promised |= process.spooled()
    process.put(2)


def rewriting_what_was_removed(world: World) -> None:
    process = Process(world)
    process.put(4)
    for path in world.directory.iterdir():
        path.unlink()
    world.promised.clear()  # until the worker notices, nothing keeps these events
    process.export_batch()
    world.promised |= process.spooled()
    process.put(2)


def writing_last(world: World) -> None:
    process = Process(world)
    process.put(2)
    for number, event in enumerate(turns(3), 1000):
        event.values = (number, *event.values[1:])
        process.journal.write_last(event)
        world.promised.add(number)


def setting_aside(world: World) -> None:
    process = Process(world)
    process.put(7)
    world.outcomes.extend([RETRY] * 5)
    with process.queue.lock:
        batch = process.queue.take_batch()
    process.sender.begin(batch)
    while not process.sender.is_done:
        process.sender.send()
    assert process.queue.left_on_disk == 3
    process.put(2)
    while process.export_batch():
        pass
    process.export_leftovers()
    assert process.queue.left_on_disk == 0


def reading_back(world: World) -> None:
    """Memory holds three events. The disk fails while others are on disk only."""
    process = Process(world)
    process.queue._warm_bytes = 3 * turns(1)[0].size
    process.put(8)
    planned = world.machine.fault
    world.machine.fault = lambda position, name: (
        planned(position, name) or (error(errno.ENOSPC) if name in ("append", "create") else None)
    )
    process.put(2)
    parked = numbers(process.journal._parked.values())
    assert len(parked) == 2
    world.machine.fault = planned
    process.export_batch()
    assert process.queue.is_on_disk()
    world.promised.update(parked)
    process.put(2)
    while process.export_batch():
        pass
    assert world.delivered == list(range(12))


def leftovers_of_two(world: World) -> None:
    """Leave segments of two processes, and a file that has not become a segment."""
    first = Process(world)
    first.put(5)
    first.export_batch()
    world.machine.start()
    Process(world).put(7)
    world.machine.start()
    (world.directory / "00000000000000000001-x.spool.new").write_bytes(b"codex")


SCENARIOS: list[tuple[Scenario, Scenario]] = [
    (nothing, writing),
    (nothing, rotating),
    (nothing, settling),
    (nothing, settling_what_is_refused),
    (nothing, leaving_on_disk),
    (nothing, restoring),
    (nothing, rewriting_what_was_removed),
    (nothing, writing_last),
    (nothing, setting_aside),
    (nothing, reading_back),
    (leftovers_of_two, adopting),
    (leftovers_of_two, adopting_with_refusals),
]


def run(world: World, prepare: Scenario, scenario: Scenario, at: int, fault: Fault) -> bool:
    """Run a scenario up to the given call; return whether the process has died there."""
    world.machine.start()
    prepare(world)
    world.machine.start(lambda position, _: fault if position == at else None)
    try:
        scenario(world)
    except Died:
        return True
    return False


def moments(calls: list[str]) -> Iterator[tuple[int, Fault]]:
    for position, name in enumerate(calls):
        yield position, DIES_BEFORE
        if name in WRITES:
            yield position, DIES_HALFWAY
        yield position, DIES_AFTER


def check(world: World, moment: object, deaths: int) -> None:
    lost = world.promised - world.seen
    assert not lost, f"{moment}: events {sorted(lost)} are lost"
    surplus = world.twice()
    assert surplus <= deaths * world.config.max_batch_size, f"{moment}: {surplus} events twice"
    assert not world.files(), f"{moment}: {world.files()} are left over"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    machine = Machine(monkeypatch)
    yield machine
    machine.die()


@pytest.mark.parametrize(
    ("prepare", "scenario"), SCENARIOS, ids=[scenario.__name__ for _, scenario in SCENARIOS]
)
@pytest.mark.parametrize("limit", [1, 1500], ids=["one-event", "few-events"])
def test_everything_promised_is_exported_wherever_the_process_dies(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    prepare: Scenario,
    scenario: Scenario,
    limit: int,
) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", limit)
    assert not run(World(machine, tmp_path / "dry"), prepare, scenario, -1, DIES_BEFORE)
    points = list(moments(machine.calls))
    for index, (position, fault) in enumerate(points):
        world = World(machine, tmp_path / str(index))
        assert run(world, prepare, scenario, position, fault)
        moment = f"{fault} {machine.calls[position]}, call {position}"
        deliver_rest(world)
        check(world, moment, deaths=1)


def test_the_scenarios_make_all_system_calls_but_those_of_a_forked_child(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", 1500)
    made = set()
    for index, (prepare, scenario) in enumerate(SCENARIOS):
        run(World(machine, tmp_path / str(index)), prepare, scenario, -1, DIES_BEFORE)
        made.update(machine.calls)
    only_look = {"exists", "has_locks", "open_to_read", "is_regular_at", "modified_s"}
    only_look |= {"is_writable", "nearest_parent"}  # for `check`
    assert machine.names - made <= {*only_look, "neutralize", "neutralize_inherited"}


def test_adopters_that_die_leave_the_rest_to_the_next_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "FIRST_LIMIT", 1500)
    run(World(machine, tmp_path / "dry"), nothing, settling, -1, DIES_BEFORE)
    first_deaths = list(moments(machine.calls))
    for first, first_fault in first_deaths[::7]:
        second = 0
        while True:
            world = World(machine, tmp_path / "spool")
            run(world, nothing, settling, first, first_fault)
            died = run(world, nothing, exporting_leftovers, second, DIES_AFTER)
            deliver_rest(world)
            check(world, f"{first_fault} at {first}, adopter at {second}", deaths=2)
            if not died:
                break
            second += 1
