"""A batch that keeps failing while the collector accepts others goes behind them, on disk."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.flushing import flush_all
from codex_otel_logging.delivery.outages import Undelivered
from codex_otel_logging.delivery.sender import SET_ASIDE_AFTER
from codex_otel_logging.delivery.spool import disk, policy
from codex_otel_logging.delivery.spool.segment import adopt, discard
from codex_otel_logging.native import wall_clock
from support.queued_events import numbers, turns
from support.simulated_spool import Answer, Clock, Simulated
from support.spools import ThreadlessWorker, segments, settings_of

NOT_NOW = Outcome("retry", "HTTP 503", status=503)
NOT_NOW_BUT_THEN = Outcome("retry", "HTTP 503", retry_after_s=30.0, status=503)
FORBIDDEN = Outcome("refused", "HTTP 403", status=403)


def failing(*bad: int, outcome: Outcome = NOT_NOW) -> Answer:
    return lambda found: outcome if {*bad} & {*found} else DELIVERED


def always(outcome: Outcome) -> Answer:
    return lambda _: outcome


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def simulated(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Simulated]:
    clock = Clock(monkeypatch)

    def simulated(*args: object, **settings: object) -> Simulated:
        return Simulated(directory, clock, *args, max_batch_size=10, **settings)  # type: ignore[arg-type]

    return simulated


def free_segments(directory: Path) -> dict[str, list[int]]:
    """Return the owner and the numbers of the events of each segment that can be adopted."""
    found = {}
    for path in sorted(directory.iterdir()):
        leftover = adopt(str(path))
        if leftover is not None:
            batch = leftover.next_batch(1000, 1 << 20)
            found[leftover.header.owner] = [number for number, _ in batch]
            leftover.close()
    return found


@pytest.mark.parametrize("outcome", [NOT_NOW, FORBIDDEN, NOT_NOW_BUT_THEN])
@pytest.mark.parametrize("bad", [0, 15])
def test_failing_batch_goes_behind_the_others(
    bad: int, outcome: Outcome, simulated: Callable[..., Simulated], directory: Path
) -> None:
    delivery = simulated(failing(bad, outcome=outcome))
    delivery.put(40)
    delivery.run(600)
    batch = range(bad // 10 * 10, bad // 10 * 10 + 10)
    assert delivery.arrived == [n for n in range(40) if n not in batch]
    assert delivery.queue.stats() == Stats(accepted=40, exported=30, queued=10, spooled=10)
    journal = delivery.queue.journal
    assert journal is not None
    assert free_segments(directory) == {journal.owner: [n + 1 for n in batch]}

    delivery.answer = always(DELIVERED)
    delivery.put(turns(41)[40:])
    delivery.run()
    assert delivery.arrived[30:] == [40, *batch]
    assert delivery.queue.stats() == Stats(accepted=41, exported=41)
    assert not list(directory.iterdir())


def test_failing_batch_is_passed_after_a_few_attempts(simulated: Callable[..., Simulated]) -> None:
    delivery = simulated(failing(3))
    delivery.put(20)
    delivery.run(600)
    before = delivery.requests.index(next(r for r in delivery.requests if 10 in r[1]))
    assert [found for _, found in delivery.requests[:before]] == [
        *[[*range(10)]] * SET_ASIDE_AFTER,
        [],
    ]


def test_postponed_batch_survives_a_crash(
    simulated: Callable[..., Simulated], directory: Path
) -> None:
    delivery = simulated(failing(3))
    delivery.put(20)
    delivery.run(600)
    journal = delivery.queue.journal
    assert journal is not None
    journal.leave_to_parent(inherited=False)  # as if the process were gone
    heir = simulated()
    heir.put(turns(21)[20:])
    heir.run()
    assert heir.arrived == [20, *range(10)]
    assert heir.queue.stats() == Stats(accepted=1, exported=1, recovered=10)
    assert not list(directory.iterdir())


def test_crash_between_the_copy_and_its_settlement_exports_one_batch_twice(
    simulated: Callable[..., Simulated], directory: Path
) -> None:
    delivery = simulated(failing(3))
    delivery.put(20)
    delivery.queue.take_batch()
    journal = delivery.queue.journal
    assert journal is not None
    assert journal.set_aside(1, delivery.queue.batch)
    journal.leave_to_parent(inherited=False)
    heir = simulated()
    heir.put(turns(21)[20:])
    heir.run()
    assert sorted(heir.arrived) == sorted([*range(10), *range(21)])


def test_batches_set_aside_that_were_exported_are_forgotten(
    simulated: Callable[..., Simulated], directory: Path
) -> None:
    """In a process that lives for months, their paths would add up."""
    delivery = simulated()
    delivery.put(20)
    delivery.queue.take_batch()
    journal = delivery.queue.journal
    assert journal is not None
    for _ in range(3):
        before = {*directory.iterdir()}
        assert journal.set_aside(1, delivery.queue.batch)
        (new,) = {*directory.iterdir()} - before
        assert [released.path for released in journal._released] == [str(new)]
        new.unlink()


@pytest.mark.parametrize("how", ["discarded", "exported in part"])
def test_exit_counts_only_what_is_left_of_the_batches_set_aside(
    simulated: Callable[..., Simulated], directory: Path, how: str
) -> None:
    """`drain` may export or discard them while the process runs."""
    worker = ThreadlessWorker(settings_of(directory), simulated())
    for event in turns(20):
        worker.queue.put(event)
    before = {*segments(directory)}
    for _ in range(2):
        with worker.queue.lock:
            worker.queue.batch = [worker.queue.waiting.popleft() for _ in range(10)]
        assert worker.queue.set_aside()
    first, _ = sorted({*segments(directory)} - before)
    assert not flush_all([worker], 0)
    if how == "discarded":
        assert discard(str(first), None) == 10
    else:
        leftover = adopt(str(first))
        assert leftover is not None
        leftover.settle(7)
        leftover.close()
    worker.begin_shutdown(for_good=False)
    undelivered = worker.end_shutdown()
    assert undelivered is not None
    kept = 10 if how == "discarded" else 13
    reason = "x: set aside after failed attempts"
    assert undelivered == Undelivered(0, kept, reason, str(directory))
    assert worker.queue.stats() == Stats(accepted=20, queued=20, spooled=20)


def test_flush_succeeds_once_others_have_exported_or_discarded_what_was_set_aside(
    simulated: Callable[..., Simulated], directory: Path
) -> None:
    worker = ThreadlessWorker(settings_of(directory), simulated())
    for event in turns(10):
        worker.queue.put(event)
    worker.queue.take_batch()
    assert worker.queue.set_aside()
    assert not flush_all([worker], 0)
    (path,) = segments(directory)
    assert discard(str(path), None) == 10
    assert flush_all([worker], 0)
    worker.begin_shutdown(for_good=False)
    undelivered = worker.end_shutdown()
    assert undelivered is not None
    assert (undelivered.lost, undelivered.kept) == (0, 0)


def test_several_batches_are_postponed_and_exported_once(
    simulated: Callable[..., Simulated], directory: Path
) -> None:
    delivery = simulated(failing(5, 25, 35))
    delivery.put(60)
    delivery.run(1200)
    assert delivery.queue.left_on_disk == 30
    delivery.answer = always(DELIVERED)
    delivery.put(turns(61)[60:])
    delivery.run()
    assert sorted(delivery.arrived) == [*range(61)]
    assert delivery.queue.stats() == Stats(accepted=61, exported=61)
    assert not list(directory.iterdir())


def test_postponed_batch_that_is_rejected_later_counts_as_rejected(
    simulated: Callable[..., Simulated],
) -> None:
    delivery = simulated(failing(5))
    delivery.put(20)
    delivery.run(600)
    delivery.answer = failing(5, outcome=Outcome("invalid", "HTTP 400", status=400))
    delivery.put(turns(21)[20:])
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=21, exported=20, rejected=1)


def test_postponed_batch_that_expires_counts_as_dropped(
    simulated: Callable[..., Simulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = simulated(failing(5), keep_for_s=3600.0)
    delivery.put(20)
    delivery.run(600)
    assert delivery.queue.left_on_disk == 10
    now = wall_clock()
    monkeypatch.setattr(policy, "wall_clock", lambda: now + 3601.0)
    delivery.put(turns(21)[20:])
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=21, exported=11, dropped=10)


def test_damaged_record_of_a_postponed_batch_counts_as_dropped(
    simulated: Callable[..., Simulated], directory: Path
) -> None:
    delivery = simulated(failing(5))
    delivery.put(20)
    delivery.run(600)
    (path,) = directory.iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 1
    path.write_bytes(damaged)
    delivery.answer = always(DELIVERED)
    delivery.put(turns(21)[20:])
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=21, exported=20, dropped=1)


@pytest.mark.parametrize("outcome", [NOT_NOW, NOT_NOW_BUT_THEN, FORBIDDEN])
def test_outage_postpones_nothing_and_keeps_the_order(
    outcome: Outcome, simulated: Callable[..., Simulated], directory: Path
) -> None:
    """Also if the collector sends `Retry-After: 30`, which is no refusal."""
    delivery = simulated(always(outcome))
    delivery.put(50)
    delivery.run(3600)
    assert delivery.queue.stats() == Stats(accepted=50, queued=50, spooled=50)
    assert delivery.queue.left_on_disk == 0
    assert len([*directory.iterdir()]) == 1
    delivery.answer = always(DELIVERED)
    delivery.run()
    assert delivery.arrived == [*range(50)]


def test_last_batch_is_not_postponed(simulated: Callable[..., Simulated]) -> None:
    """Nothing would be sent any more, so nothing would show that the collector works again."""
    delivery = simulated(failing(3))
    delivery.put(10)
    delivery.run(600)
    assert delivery.queue.left_on_disk == 0
    delivery.answer = always(DELIVERED)
    delivery.run()
    assert delivery.arrived == [*range(10)]


def test_batch_is_not_postponed_without_a_spool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delivery = Simulated(
        None, Clock(monkeypatch), failing(3), max_batch_size=10, retry_for_ms=60_000
    )
    delivery.put(20)
    delivery.run(600)
    assert delivery.queue.stats() == Stats(accepted=20, exported=10, dropped=10)


@pytest.mark.parametrize("call", ["create", "append", "sync", "rename", "lock"])
def test_failing_disk_postpones_nothing_and_loses_nothing(
    call: str,
    simulated: Callable[..., Simulated],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = simulated(failing(3))
    delivery.put(20)
    before = sorted(directory.iterdir())

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, call, fail)
        delivery.run(600)
        assert delivery.queue.stats() == Stats(accepted=20, queued=20, spooled=20)
        assert sorted(directory.iterdir()) == before
    # Then it works again, and the batch goes behind the other.
    delivery.run(600)
    assert delivery.arrived == [*range(10, 20)]
    delivery.answer = always(DELIVERED)
    delivery.put(turns(21)[20:])
    delivery.run()
    assert sorted(delivery.arrived) == [*range(21)]
    assert delivery.queue.stats() == Stats(accepted=21, exported=21)


def test_short_write_while_postponing_leaves_no_half_of_a_batch(
    simulated: Callable[..., Simulated], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = simulated(failing(3))
    delivery.put(20)
    before = sorted(directory.iterdir())
    append, calls = disk.append, 0

    def shorter(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        return append(descriptor, data[:10] if calls % 4 == 0 else data)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "append", shorter)
        delivery.run(600)
    assert delivery.queue.stats() == Stats(accepted=20, queued=20, spooled=20)
    assert sorted(directory.iterdir()) == before


def test_full_spool_does_not_keep_a_failing_batch_in_front(
    simulated: Callable[..., Simulated],
) -> None:
    """What fills it cannot be exported until the batch is out of the way."""
    delivery = simulated(failing(3), max_bytes=1 << 20)
    delivery.put(turns(4000))
    delivery.run(600)
    assert numbers(delivery.queue.waiting) == []
    assert sorted(delivery.arrived) == [*range(10, 4000)]
