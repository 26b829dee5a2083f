"""Rejected batches are halved, down to the records that the collector really rejects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, log2
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from codex_otel_logging import CodexOtelHandler, Stats
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.parts import Parts
from support.collectors import (
    BAD_REQUEST,
    OK,
    QUOTA,
    TOO_LARGE,
    GrpcCollector,
    HttpCollector,
    Reply,
    Unless,
)
from support.events import log, numbers
from support.fixtures import HandlerFactory

Collector = HttpCollector | GrpcCollector
Collect = Callable[..., tuple[Collector, CodexOtelHandler]]

GIVEN_UP_AFTER = ceil(log2(512)) + 2


@pytest.fixture(params=["binary", "json", "grpc"])
def collect(request: pytest.FixtureRequest, attach: HandlerFactory) -> Iterator[Collect]:
    """Starts a collector and attaches a handler that exports to it when flushed."""
    started: list[Collector] = []

    def collect(*replies: Any, **options: Any) -> tuple[Collector, CodexOtelHandler]:
        kind: Any = GrpcCollector if request.param == "grpc" else HttpCollector
        collector: Collector = kind(*replies, **options)
        started.append(collector)
        ((name, settings),) = collector.exporter.items()
        if request.param == "json":
            settings["protocol"] = "json"
        table = {
            "exporter": {name: settings},
            "batch": {
                "schedule_delay_ms": 600_000,
                "max_queue_size": 2048,
                "max_batch_size": 512,
            },
        }
        return collector, attach(table)

    yield collect
    for collector in started:
        collector.stop()


def numbers_in(request: ExportLogsServiceRequest) -> set[int]:
    return {
        attribute.value.int_value
        for record in request.resource_logs[0].scope_logs[0].log_records
        for attribute in record.attributes
        if attribute.key == "duration_ms"
    }


REFUSALS = pytest.mark.parametrize(
    "refusal", [BAD_REQUEST, TOO_LARGE], ids=["invalid", "too large"]
)


@REFUSALS
def test_batch_of_512_that_is_fully_rejected_takes_eleven_requests(
    collect: Collect, caplog: pytest.LogCaptureFixture, refusal: Reply
) -> None:
    """Halving down to each record would take 1,023."""
    collector, handler = collect(refusal)
    log(512)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=512, rejected=512)
    assert len(collector.requests) == GIVEN_UP_AFTER
    assert collector.sizes == sorted(collector.sizes, reverse=True)
    (message,) = caplog.messages
    assert f"1 event rejected ({collector.reason(refusal)})" in message


@pytest.mark.thorough
@REFUSALS
@pytest.mark.parametrize(
    "bad",
    [{0}, {511}, {255, 256}, {3, 4, 5, 6, 200, 300}, set(range(0, 512, 32)), set(range(64, 128))],
    ids=lambda bad: f"{min(bad)} to {max(bad)}, {len(bad)}",
)
def test_only_bad_records_are_rejected(collect: Collect, refusal: Reply, bad: set[int]) -> None:
    collector, handler = collect(Unless(lambda request: bool(bad & numbers_in(request)), refusal))
    log(512)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=512, exported=512 - len(bad), rejected=len(bad))
    assert numbers(collector.events) == [number for number in range(512) if number not in bad]


@pytest.mark.parametrize("limit", [1_000_000, 100_000])
def test_request_beyond_a_size_limit_is_split(collect: Collect, limit: int) -> None:
    """An OpenTelemetry Collector with `max_request_body_size` answers 400."""
    refusal = Reply(400, BAD_REQUEST.code, "http: request body too large")
    collector, handler = collect(Unless(lambda request: request.ByteSize() > limit, refusal))
    log(200, text="x" * 9000)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=200, exported=200)
    assert numbers(collector.events) == list(range(200))


def test_request_beyond_the_message_size_of_a_grpc_server_is_split(
    attach_to: HandlerFactory, grpc_collector: Callable[..., GrpcCollector]
) -> None:
    """The server library rejects such a request with RESOURCE_EXHAUSTED."""
    collector = grpc_collector(OK, options=[("grpc.max_receive_message_length", 1 << 20)])
    handler = attach_to(collector)
    log(400, text="x" * 9000)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=400, exported=400)
    assert numbers(collector.events) == list(range(400))
    assert max(collector.sizes) <= 1 << 20


def test_exhausted_quota_rejects_the_batch_without_halving(
    attach_to: HandlerFactory,
    grpc_collector: Callable[..., GrpcCollector],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OTLP forbids a retry without RetryInfo, and halves would use up more of the quota."""
    collector = grpc_collector(QUOTA)
    handler = attach_to(collector, batch={"schedule_delay_ms": 600_000})
    log(512)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=512, rejected=512)
    assert len(collector.requests) == 1
    (message,) = caplog.messages
    assert "512 events rejected (gRPC RESOURCE_EXHAUSTED: quota used up)" in message


def send(size: int, bad: set[int]) -> tuple[list[int], list[int], int]:
    """Send a batch to a collector that rejects bad records.

    Returns the accepted records, the rejected ones, and the number of requests.
    """
    parts: Parts[int] = Parts(range(size))
    accepted: list[int] = []
    refused: list[int] = []
    requests = 0
    while parts:
        part = parts.take()
        requests += 1
        is_good = not bad.intersection(part)
        settlement = parts.apply(part, DELIVERED if is_good else Outcome("invalid"))
        if settlement is not None:
            settled = range(part[0], part[0] + settlement.events)
            (accepted if is_good else refused).extend(settled)
    return accepted, refused, requests


@given(size=st.integers(1, 600), data=st.data())
def test_each_record_is_settled_once_and_accepted_in_order(size: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, size - 1), max_size=8))
    accepted, refused, requests = send(size, bad)
    assert accepted == sorted(accepted)
    assert sorted(accepted + refused) == list(range(size))
    assert bad <= {*refused}
    assert requests <= 1 + 2 * len(bad) * ceil(log2(size) + 1)


@given(size=st.integers(1, 600), place=st.floats(0, 1, exclude_max=True))
@example(size=512, place=0.0)
def test_single_bad_record_is_rejected_alone_at_any_position(size: int, place: float) -> None:
    bad = int(size * place)
    assert send(size, {bad})[1] == [bad]


@given(size=st.integers(1, 600))
@example(size=512)
def test_full_rejection_takes_logarithmically_many_requests(size: int) -> None:
    accepted, refused, requests = send(size, {*range(size)})
    assert (accepted, refused) == ([], [*range(size)])
    assert requests == min(ceil(log2(size)) + 2, 2 * size - 1)
