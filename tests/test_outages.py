"""Collectors that are absent, hang, die and come back: all events arrive, none twice."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver, Stats
from conftest import HandlerFactory, RunPython

LOGGER = logging.getLogger("codex_otel")


class Place:
    """A port for a collector to be absent from, and to come back to."""

    def __init__(self, exporter: str) -> None:
        self.exporter = exporter
        with Receiver() as receiver:
            over_http = exporter == "otlp-http"
            self.endpoint = receiver.http_endpoint if over_http else receiver.grpc_endpoint
        self.port = urlsplit(self.endpoint).port or 0
        self.numbers: list[int] = []

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Somebody listens there, and never says a word."""
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", self.port))
            listening.listen(64)
            yield

    @contextmanager
    def healthy(self) -> Iterator[Receiver]:
        """A collector is there; what it received is in `numbers` afterwards."""
        over_http = self.exporter == "otlp-http"
        ports = (self.port, 0) if over_http else (0, self.port)
        with Receiver(http_port=ports[0], grpc_port=ports[1]) as receiver:
            yield receiver
        self.numbers += [event.attributes["duration_ms"] for event in receiver.events]


@pytest.fixture(params=["otlp-http", "otlp-grpc"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.param)


@pytest.fixture
def handler(attach: HandlerFactory, place: Place) -> CodexOtelHandler:
    settings: dict[str, Any] = {"endpoint": place.endpoint, "timeout_ms": 500}
    return attach(
        {"exporter": {place.exporter: settings}, "batch": {"schedule_delay_ms": 20}},
    )


@pytest.fixture
def log() -> Callable[[int], None]:
    """Logs that many events, numbered on."""
    numbers = iter(range(1_000_000))

    def log(count: int) -> None:
        for _ in range(count):
            extra = {"duration_ms": next(numbers), "conversation.id": "c"}
            LOGGER.info("codex.turn_ttft", extra=extra)

    return log


def test_a_collector_that_comes_late(
    handler: CodexOtelHandler, place: Place, log: Callable[[int], None]
) -> None:
    log(300)
    assert handler.flush(0.3) is False  # some attempts have failed by then
    log(200)
    with place.healthy():
        assert handler.flush(30)
    assert place.numbers == list(range(500))
    assert handler.stats() == Stats(accepted=500, exported=500)


def test_a_collector_that_hangs_before_it_works(
    handler: CodexOtelHandler, place: Place, log: Callable[[int], None]
) -> None:
    with place.hanging():
        log(300)
        assert handler.flush(0.8) is False  # the first attempt has timed out by then
        log(200)
    with place.healthy():
        assert handler.flush(30)
    assert place.numbers == list(range(500))
    assert handler.stats() == Stats(accepted=500, exported=500)


def test_a_collector_that_dies_in_the_middle_and_comes_back(
    handler: CodexOtelHandler, place: Place, log: Callable[[int], None]
) -> None:
    with place.healthy():
        log(100)
        assert handler.flush(30)
    log(100)
    assert handler.flush(0.3) is False
    with place.healthy():
        assert handler.flush(30)
        log(100)
        assert handler.flush(30)
    assert place.numbers == list(range(300))
    assert handler.stats() == Stats(accepted=300, exported=300)


def test_the_counts_are_right_at_every_moment_of_it(
    handler: CodexOtelHandler, place: Place, log: Callable[[int], None]
) -> None:
    """Eight threads log, flush and read, while the collector comes and goes."""
    stop = threading.Event()
    wrong: list[object] = []
    logged = [0] * 8

    def use(slot: int) -> None:
        while not stop.is_set() and logged[slot] < 2000:
            extra = {"duration_ms": slot * 100_000 + logged[slot], "conversation.id": "c"}
            LOGGER.info("codex.turn_ttft", extra=extra)
            logged[slot] += 1
            stats = handler.stats()
            settled = stats.exported + stats.rejected + stats.dropped
            if stats.accepted != settled + stats.queued or stats.accepted < logged[slot]:
                wrong.append(stats)
            if logged[slot] % 500 == 0:
                handler.flush(0.01)

    threads = [threading.Thread(target=use, args=(slot,)) for slot in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        with place.healthy() as receiver:
            receiver.wait_for(100, timeout=30)
            handler.flush(0.2)
    for thread in threads:
        thread.join(30)
    stop.set()
    with place.healthy():
        assert handler.flush(60)
    assert wrong == []
    total = sum(logged)
    assert handler.stats() == Stats(accepted=total, exported=total)
    assert len(set(place.numbers)) == total


@pytest.mark.parametrize("name", ["otlp-grpc", "otlp-http"])
def test_large_events_travel_in_requests_that_a_collector_takes(
    attach: HandlerFactory, receiver: Receiver, name: str
) -> None:
    """GRPC's usual limit is 4 MiB; what the settings cut says so."""
    endpoint = receiver.grpc_endpoint if name == "otlp-grpc" else receiver.http_endpoint
    handler = attach({"exporter": {name: {"endpoint": endpoint}}})
    for number in range(400):
        extra = {"duration_ms": number, "text": "é" * 10_240, "conversation.id": "c"}
        LOGGER.info("codex.turn_ttft", extra=extra)
    extra = {"duration_ms": 400, "text": "x" * (6 << 20), "conversation.id": "c"}
    LOGGER.info("codex.turn_ttft", extra=extra)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=401, exported=401)
    cut = receiver.events[-1].attributes
    assert (len(cut["text"]), cut["text.truncated_length"]) == (65_536, 6 << 20)


def test_one_event_beyond_every_limit_is_lost_alone(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    exporter = {"otlp-grpc": {"endpoint": receiver.grpc_endpoint}}
    handler = attach({"exporter": exporter, "max_attribute_length": 0})
    for number in range(50):
        text = "x" * (6 << 20) if number == 25 else "x"
        extra = {"duration_ms": number, "text": text, "conversation.id": "c"}
        LOGGER.info("codex.turn_ttft", extra=extra)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=50, exported=49, rejected=1)
    numbers = [event.attributes["duration_ms"] for event in receiver.events]
    assert numbers == [number for number in range(50) if number != 25]


def test_memory_is_bounded_and_what_does_not_fit_is_counted(run_python: RunPython) -> None:
    """400 MB are logged, and nobody takes any of it."""
    program = """
import logging, resource, socket
import codex_otel_logging
listening = socket.create_server(("127.0.0.1", 0))
endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}/"
otel = {"exporter": {"otlp-http": {"endpoint": endpoint}}, "batch": {"shutdown_timeout_ms": 0}}
handler = codex_otel_logging.from_table(otel)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logging.getLogger("codex_otel_logging").setLevel("CRITICAL")
log = lambda text: logger.info("codex.turn_ttft", extra={"text": text})
log("")
handler.flush(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number in range(200_000):
    log(f"{number:2048}")
growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
stats = handler.stats()
print(growth < 128, stats.accepted, stats.dropped + stats.queued, stats.queued > 20_000)
listening.close()
"""
    assert run_python(program).stdout == "True 200001 200001 True\n"
