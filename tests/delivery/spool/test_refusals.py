"""Refusals with a spool: which are final, which are kept, when they are retried, what is lost.

A refusal says that the collector does not accept a request and that repeating it is pointless. With
a spool, only those that are about the events themselves are final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery import lifecycle
from codex_otel_logging.delivery.exporter import DELIVERED, REFUSAL_INTERVAL_S, Outcome
from codex_otel_logging.delivery.flushing import flush_at_exit
from codex_otel_logging.delivery.sender import Retry
from codex_otel_logging.delivery.spool import policy
from codex_otel_logging.otlp.factory import connect
from support.collectors import OK, UNAUTHENTICATED, GrpcCollector, HttpCollector, Reply, Unless
from support.events import log, numbers
from support.exporters import SHARED
from support.fixtures import HandlerFactory, Scripted
from support.parts import wait_until_backing_off
from support.queued_events import turns
from support.simulated_spool import Answer, Clock, Simulated
from support.spools import ThreadlessWorker, held_write

pytestmark = pytest.mark.thorough

WEEK_S = 7 * 86_400.0

FINAL, KEPT, RETRIED = "final", "kept", "retried"

HTTP_STATUSES = {
    301: KEPT,
    400: FINAL,
    401: KEPT,
    403: KEPT,
    404: KEPT,
    405: KEPT,
    407: KEPT,
    413: FINAL,
    422: FINAL,
    429: RETRIED,
    500: KEPT,
    501: KEPT,
    502: RETRIED,
    503: RETRIED,
    504: RETRIED,
}
RETRIED_CODES = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE"}
RETRIED_CODES |= {"DATA_LOSS"}
GRPC_CODES = {
    code: RETRIED if code.name in RETRIED_CODES else KEPT
    for code in grpc.StatusCode
    if code is not grpc.StatusCode.OK
} | {grpc.StatusCode.INVALID_ARGUMENT: FINAL}

REPLIES = [
    *((HttpCollector, Reply(status=status), what) for status, what in HTTP_STATUSES.items()),
    *((GrpcCollector, Reply(code=code), what) for code, what in GRPC_CODES.items()),
]
IDS = [*map(str, HTTP_STATUSES), *(code.name for code in GRPC_CODES)]

UNAUTHORIZED = Outcome("refused", "HTTP 401", status=401)
BAD_REQUEST = Outcome("invalid", "HTTP 400", status=400)
UNPROCESSABLE = Outcome("refused", "HTTP 422", status=422)
NOT_NOW = Outcome("retry", "HTTP 503", status=503)


def always(outcome: Outcome) -> Answer:
    return lambda _: outcome


def unless_empty(outcome: Outcome) -> Answer:
    return lambda found: outcome if found else DELIVERED


def rejecting(*poisonous: int) -> Answer:
    return lambda found: BAD_REQUEST if {*poisonous} & {*found} else DELIVERED


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def simulated(tmp_path: Path, clock: Clock) -> Callable[..., Simulated]:
    def simulated(*args: object, **settings: object) -> Simulated:
        return Simulated(tmp_path / "spool", clock, *args, **settings)  # type: ignore[arg-type]

    return simulated


@pytest.fixture
def refusing() -> Iterator[Callable[..., HttpCollector | GrpcCollector]]:
    collectors = []

    def refusing(
        kind: type[HttpCollector | GrpcCollector], reply: Reply
    ) -> HttpCollector | GrpcCollector:
        collectors.append(kind(Unless(lambda request: bool(request.resource_logs), reply)))
        return collectors[-1]

    yield refusing
    for collector in collectors:
        collector.stop()


def connected_to(
    collector: HttpCollector | GrpcCollector, directory: Path | None, clock: Clock
) -> Simulated:
    name = "otlp-http" if isinstance(collector, HttpCollector) else "otlp-grpc"
    config = ExporterConfig(name, collector.endpoint, timeout_ms=5000)  # type: ignore[arg-type]
    return Simulated(directory, clock, connect=lambda: connect(config, SHARED))


@pytest.mark.parametrize(("kind", "reply", "what"), REPLIES, ids=IDS)
def test_status_decides_with_a_spool_whether_events_are_kept(
    kind: type[HttpCollector | GrpcCollector],
    reply: Reply,
    what: str,
    refusing: Callable[..., HttpCollector | GrpcCollector],
    tmp_path: Path,
    clock: Clock,
) -> None:
    delivery = connected_to(refusing(kind, reply), tmp_path / "spool", clock)
    delivery.put(3)
    delivery.sender.begin(delivery.queue.take_batch())
    retries: list[Retry] = []
    while not delivery.sender.is_done and not retries:
        if (retry := delivery.sender.send()) is not None:
            retries.append(retry)
    if what is FINAL:
        assert delivery.queue.stats() == Stats(accepted=3, rejected=3)
        assert not list((tmp_path / "spool").iterdir())
    else:
        assert delivery.queue.stats() == Stats(accepted=3, queued=3, spooled=3)
        assert (retries[0].at - clock.now == REFUSAL_INTERVAL_S) is (what is KEPT)
        assert retries[0].throttled is (what is KEPT)
    if (exporter := delivery.sender.release_exporter()) is not None:
        exporter.shutdown()


@pytest.mark.parametrize(("kind", "reply", "what"), REPLIES, ids=IDS)
def test_refusals_are_final_without_a_spool(
    kind: type[HttpCollector | GrpcCollector],
    reply: Reply,
    what: str,
    refusing: Callable[..., HttpCollector | GrpcCollector],
    clock: Clock,
) -> None:
    """OTLP forbids to retry them, and memory is too small to wait for somebody who mends it."""
    delivery = connected_to(refusing(kind, reply), None, clock)
    delivery.put(3)
    delivery.run(duration_s=0.01)
    stats = delivery.queue.stats()
    assert stats == Stats(accepted=3, **{"queued" if what is RETRIED else "rejected": 3})
    if (exporter := delivery.sender.release_exporter()) is not None:
        exporter.shutdown()


def test_expired_token_costs_nothing_within_a_week(
    simulated: Callable[..., Simulated], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = simulated(always(UNAUTHORIZED), max_batch_size=100)
    delivery.put(1000)
    delivery.run(WEEK_S)
    assert delivery.queue.stats() == Stats(accepted=1000, queued=1000, spooled=1000)
    # Every request but the empty ones, which ask whether this batch alone is refused.
    times = [time for time, found in delivery.requests if found]
    assert min(after - before for before, after in pairwise(times)) >= 29.999
    assert WEEK_S / 36.0 < len(times) < WEEK_S / 29.9
    assert len(caplog.records) == 1
    assert "export failing (HTTP 401)" in caplog.text

    delivery.answer = always(DELIVERED)
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=1000, exported=1000)
    assert delivery.arrived == [*range(1000)]


def test_first_refusal_is_reported(
    simulated: Callable[..., Simulated], caplog: pytest.LogCaptureFixture
) -> None:
    """A second attempt is half a minute away, unlike after a failure that may be momentary."""
    delivery = simulated(always(UNAUTHORIZED))
    delivery.put(1)
    delivery.run(10)
    assert len(delivery.requests) == 1
    assert "export failing (HTTP 401)" in caplog.text


@pytest.mark.parametrize("batch_size", [3, 4], ids=["later-event", "event-of-the-batch"])
def test_refused_batch_is_kept_while_another_thread_writes_to_its_segment(
    simulated: Callable[..., Simulated], monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """A busy application always has a thread that writes."""
    delivery = simulated(always(UNAUTHORIZED), max_batch_size=batch_size)
    delivery.put(3)
    with held_write(monkeypatch, lambda: delivery.put(turns(4)[3:])):
        delivery.run(100)
        assert len(delivery.requests) == 4
        assert delivery.queue.stats() == Stats(accepted=4, queued=4, spooled=4)
    delivery.answer = always(DELIVERED)
    delivery.run()
    assert delivery.arrived == [0, 1, 2, 3]
    assert delivery.queue.stats() == Stats(accepted=4, exported=4)


def test_refusal_of_everything_postpones_no_batch(
    simulated: Callable[..., Simulated], tmp_path: Path
) -> None:
    """A week of refusals would otherwise leave thousands of files, out of order."""
    delivery = simulated(always(UNAUTHORIZED), max_batch_size=10)
    delivery.put(100)
    delivery.run(3600)
    assert delivery.queue.left_on_disk == 0
    assert len([*(tmp_path / "spool").iterdir()]) == 1


@pytest.mark.parametrize("outcome", [BAD_REQUEST, UNPROCESSABLE], ids=["400", "422"])
@pytest.mark.parametrize("batch_size", [1, 2, 512])
def test_misrouted_proxy_that_rejects_even_empty_requests_costs_nothing(
    outcome: Outcome, batch_size: int, simulated: Callable[..., Simulated], clock: Clock
) -> None:
    delivery = simulated(always(outcome), max_batch_size=batch_size)
    delivery.put(2 * batch_size)
    delivery.run(100)  # not long enough for a batch to be postponed
    stats = delivery.queue.stats()
    assert stats == Stats(accepted=stats.accepted, queued=stats.accepted, spooled=stats.accepted)
    assert {time - 1000.0 for time, _ in delivery.requests} == {0.0, 30.0, 60.0, 90.0}

    delivery.answer = always(DELIVERED)
    delivery.run()
    assert delivery.arrived == [*range(2 * batch_size)]
    assert delivery.queue.stats() == Stats(2 * batch_size, exported=2 * batch_size)


def test_misrouted_proxy_costs_nothing_within_a_day(
    simulated: Callable[..., Simulated], caplog: pytest.LogCaptureFixture
) -> None:
    delivery = simulated(always(BAD_REQUEST), max_batch_size=100)
    delivery.put(1000)
    delivery.run(86_400)
    assert delivery.queue.stats() == Stats(accepted=1000, queued=1000, spooled=1000)
    assert len(caplog.records) == 1
    delivery.answer = always(DELIVERED)
    delivery.run()
    assert sorted(delivery.arrived) == [*range(1000)]
    assert delivery.queue.stats() == Stats(accepted=1000, exported=1000)


def test_misrouted_proxy_that_accepts_empty_requests_costs_two_batches(
    simulated: Callable[..., Simulated], caplog: pytest.LogCaptureFixture
) -> None:
    """Three whole batches in a row are more likely refused because of the address."""
    delivery = simulated(unless_empty(BAD_REQUEST), max_batch_size=100)
    delivery.put(1000)
    delivery.run(86_400)
    stats = delivery.queue.stats()
    assert stats == Stats(accepted=1000, rejected=200, queued=800, spooled=800)
    assert sum("export failing" in record.message for record in caplog.records) == 1
    delivery.answer = always(DELIVERED)
    delivery.run()
    assert sorted(delivery.arrived) == [*range(200, 1000)]
    assert delivery.queue.stats() == Stats(accepted=1000, exported=800, rejected=200)


def test_misrouted_proxy_that_accepts_empty_requests_costs_two_batches_of_leftovers(
    simulated: Callable[..., Simulated],
) -> None:
    dead = simulated()
    dead.put(1000)
    assert dead.queue.leave_on_disk()
    delivery = simulated(unless_empty(BAD_REQUEST), max_batch_size=100)
    delivery.export_leftovers()
    assert delivery.queue.stats() == Stats(discarded=200)
    delivery.answer = always(DELIVERED)
    delivery.export_leftovers()
    assert delivery.queue.stats() == Stats(discarded=200, recovered=800)


def test_two_rejected_batches_are_forgotten_after_an_accepted_one(
    simulated: Callable[..., Simulated],
) -> None:
    poisonous = {*range(20), *range(30, 50)}
    delivery = simulated(
        lambda found: BAD_REQUEST if poisonous & {*found} else DELIVERED, max_batch_size=10
    )
    delivery.put(60)
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=60, exported=20, rejected=40)
    assert len({moment for moment, _ in delivery.requests}) == 1  # no batch was kept


def test_events_that_cannot_be_encoded_do_not_count_as_rejected_batches(
    simulated: Callable[..., Simulated],
) -> None:
    def answer(found: list[int]) -> Outcome:
        if {0, 1} & {*found}:
            raise ValueError
        return BAD_REQUEST if found else DELIVERED

    delivery = simulated(answer, max_batch_size=1)
    delivery.put(3)
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=3, rejected=1, dropped=2)
    assert len({moment for moment, _ in delivery.requests}) == 1


def test_proxy_that_is_misrouted_between_two_attempts_of_a_batch_costs_nothing(
    simulated: Callable[..., Simulated],
) -> None:
    """The collector has accepted an empty request for this batch, but before an outage."""
    delivery = simulated(rejecting(0), max_batch_size=8)
    delivery.put(8)
    answers = iter([*[BAD_REQUEST] * 4, DELIVERED, NOT_NOW])
    delivery.answer = lambda _: next(answers, BAD_REQUEST)
    delivery.run(100)
    assert delivery.queue.stats() == Stats(accepted=8, rejected=1, queued=7, spooled=7)
    delivery.answer = always(DELIVERED)
    delivery.run()
    assert delivery.arrived[-7:] == [*range(1, 8)]


@pytest.mark.parametrize("poisonous", [0, 1, 511, 512, 5000, 9999])
def test_one_poisonous_event_is_rejected_alone(
    poisonous: int, simulated: Callable[..., Simulated]
) -> None:
    delivery = simulated(rejecting(poisonous), max_batch_size=512)
    delivery.put(10_000)
    delivery.run()
    assert delivery.arrived == [n for n in range(10_000) if n != poisonous]
    assert delivery.queue.stats() == Stats(accepted=10_000, exported=9_999, rejected=1)


def test_batch_of_poisonous_events_is_rejected_once(
    simulated: Callable[..., Simulated], clock: Clock, tmp_path: Path
) -> None:
    """If the collector accepts an empty request, the rejection is about the events."""
    delivery = simulated(rejecting(*range(512, 1024)), max_batch_size=512)
    delivery.put(2048)
    delivery.run()
    assert delivery.queue.stats() == Stats(accepted=2048, exported=1536, rejected=512)
    assert clock.now == 1000.0
    assert sum(found == [] for _, found in delivery.requests) == 1
    assert sum(bool({*found} & {*range(512, 1024)}) for _, found in delivery.requests) == 11
    assert not list((tmp_path / "spool").iterdir())


def test_collector_that_rejects_empty_requests_loses_only_poisonous_events(
    simulated: Callable[..., Simulated],
) -> None:
    """Some collectors do. They must not stop at a batch that begins with a poisonous event."""

    def answer(found: list[int]) -> Outcome:
        return BAD_REQUEST if not found or 0 in found or 17 in found else DELIVERED

    delivery = simulated(answer, max_batch_size=16)
    delivery.put(64)
    delivery.run()
    assert sorted(delivery.arrived) == [n for n in range(64) if n not in (0, 17)]


@pytest.mark.parametrize("outcome", [UNAUTHORIZED, BAD_REQUEST], ids=["401", "400"])
def test_leftovers_are_kept_while_the_collector_refuses_everything(
    outcome: Outcome, simulated: Callable[..., Simulated]
) -> None:
    """An idle process scans for leftovers a minute after its last success."""
    dead = simulated()
    dead.put(8)
    assert dead.queue.leave_on_disk()
    delivery = simulated(always(outcome))
    assert delivery.export_leftovers() == outcome.reason
    assert delivery.queue.stats() == Stats()

    delivery.answer = always(DELIVERED)
    assert not delivery.export_leftovers()
    assert delivery.queue.stats() == Stats(recovered=8)
    assert delivery.arrived == [*range(8)]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_poisonous_leftovers_are_rejected_by_a_collector_that_accepts_empty_requests(
    count: int, simulated: Callable[..., Simulated], tmp_path: Path
) -> None:
    dead = simulated()
    dead.put(count)
    assert dead.queue.leave_on_disk()
    delivery = simulated(unless_empty(BAD_REQUEST))
    delivery.export_leftovers()
    assert delivery.queue.stats() == Stats(discarded=count)
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize(
    "own", [Outcome("not encodable", "TypeError"), BAD_REQUEST], ids=["dropped", "rejected"]
)
def test_own_batch_that_no_collector_has_accepted_proves_nothing_about_leftovers(
    simulated: Callable[..., Simulated], own: Outcome
) -> None:
    """Meanwhile a proxy may have begun to answer, which rejects everything."""
    collector = simulated()
    assert collector.spool is not None
    worker = ThreadlessWorker(collector.spool, collector)
    answers = iter([DELIVERED])
    collector.answer = lambda _: next(answers, BAD_REQUEST)
    worker.queue.put(*turns(1))
    worker.export()
    assert worker.sender.has_succeeded

    dead = simulated()
    dead.put(1)
    assert dead.queue.leave_on_disk()
    answers = iter([own, DELIVERED] if own is BAD_REQUEST else [own])
    worker._rescan_at = 0.0  # as a minute later
    worker.queue.put(*turns(1))
    worker.export()
    lost = Stats(rejected=1) if own is BAD_REQUEST else Stats(dropped=1)
    assert worker.queue.stats() == lost._replace(accepted=2, exported=1)
    # It has asked about the leftovers, and has then found that the collector accepts nothing.
    assert [found for _, found in collector.requests][-2:] == [[0], []]
    collector.answer = always(DELIVERED)
    assert not collector.export_leftovers()
    assert collector.arrived == [0, 0]


def test_one_poisonous_leftover_is_rejected_alone(simulated: Callable[..., Simulated]) -> None:
    dead = simulated()
    dead.put(100)
    assert dead.queue.leave_on_disk()
    delivery = simulated(rejecting(0))
    delivery.export_leftovers()
    assert delivery.queue.stats() == Stats(recovered=99, discarded=1)


@pytest.mark.parametrize("outcome", [UNAUTHORIZED, NOT_NOW], ids=["401", "503"])
def test_segment_that_keeps_failing_does_not_stop_the_others(
    outcome: Outcome, simulated: Callable[..., Simulated]
) -> None:
    for first in (0, 10):
        dead = simulated()
        dead.put(turns(first + 1)[first:])
        assert dead.queue.leave_on_disk()
    delivery = simulated(lambda found: outcome if 0 in found else DELIVERED)
    for _ in range(2):
        delivery.export_leftovers()
    assert delivery.arrived == [10]
    delivery.answer = always(DELIVERED)
    delivery.export_leftovers()
    assert delivery.arrived == [10, 0]


def test_worker_exports_everything_when_the_token_is_good_again(
    attach_to: HandlerFactory,
    scripted: Scripted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(policy, "REFUSAL_INTERVAL_S", 0.05)
    collector = scripted(UNAUTHENTICATED, UNAUTHENTICATED, UNAUTHENTICATED, OK)
    handler = attach_to(collector, spool={"path": str(tmp_path / "spool")})
    log(100)
    assert handler.flush(10)
    assert numbers(collector.events) == [*range(100)]
    assert handler.stats() == Stats(accepted=100, exported=100)
    began, ended = (record.getMessage() for record in caplog.records)
    assert "export failing" in began
    assert "export recovered" in ended
    assert not list((tmp_path / "spool").iterdir())


def test_flush_does_not_cut_the_wait_of_a_kept_refusal_short(
    attach_to: HandlerFactory,
    refusing: Callable[..., HttpCollector | GrpcCollector],
    tmp_path: Path,
) -> None:
    collector = refusing(HttpCollector, Reply(status=401))
    handler = attach_to(collector, spool={"path": str(tmp_path / "spool")})
    log(3)
    assert not handler.flush(0.1)
    wait_until_backing_off(handler)
    assert not handler.flush(0.5)
    assert len(collector.requests) == 1
    assert handler.stats().spooled == 3


def test_close_during_the_wait_of_a_kept_refusal_leaves_the_events_on_disk_at_once(
    attach_to: HandlerFactory,
    refusing: Callable[..., HttpCollector | GrpcCollector],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise each reconfiguration would leave a thread, which then sends what is refused."""
    collector = refusing(HttpCollector, Reply(status=401))
    handler = attach_to(collector, spool={"path": str(tmp_path / "spool")})
    log(3)
    assert not handler.flush(0.1)
    wait_until_backing_off(handler)
    (worker,) = (w for w in lifecycle.watched() if w.queue.stats().accepted == 3)
    thread = worker.thread
    assert thread is not None
    handler.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(collector.requests) == 1
    assert len([*(tmp_path / "spool").iterdir()]) == 1


def test_exit_during_the_wait_of_a_kept_refusal_does_not_wait(
    attach_to: HandlerFactory,
    refusing: Callable[..., HttpCollector | GrpcCollector],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = refusing(HttpCollector, Reply(status=401))
    settings = {"spool": {"path": str(tmp_path / "spool")}, "batch": {"shutdown_timeout_ms": 60000}}
    handler = attach_to(collector, **settings)
    log(3)
    assert not handler.flush(0.1)
    wait_until_backing_off(handler)
    workers = [w for w in lifecycle.watched() if w.queue.stats().accepted == 3]
    flush_at_exit(workers, for_good=False)  # hangs for a minute if it waits
    assert "3 events kept in" in caplog.text
    assert len(collector.requests) == 1
