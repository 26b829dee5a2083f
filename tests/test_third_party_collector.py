"""A collector that is not ours: rotel, a Rust program, takes our events and passes them on.

What arrives behind it is compared with what arrives when the same is sent straight.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import samples
from codex_otel_logging import Receiver, Stats
from codex_otel_logging.commands.demo import recorded_session
from conftest import HandlerFactory

rotel_package = pytest.importorskip(
    "rotel", reason="the package rotel is not installed; it has wheels for some platforms only"
)
PROGRAM = str(Path(rotel_package.__file__).with_name("rotel-agent"))
LIBRARIES = f"{sysconfig.get_config_var('LIBDIR')}:{sys.base_prefix}/lib"
ENVIRONMENT = {"LD_LIBRARY_PATH": LIBRARIES}
"""The program needs Python's shared library, which need not be where programs look for it."""

_trial = subprocess.run(
    [PROGRAM, "--version"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30
)
if _trial.returncode != 0:
    reason = _trial.stderr.rpartition("rotel-agent: ")[2].strip()
    pytest.skip(f"rotel cannot run on this machine: {reason}", allow_module_level=True)

LOGGER = logging.getLogger("codex_otel")
SESSION = recorded_session()
WAYS = ("binary", "json", "grpc")


class Rotel:
    """Passes the logs it gets on to a receiver; on the same two ports after each start.

    The ports are held by sockets that do not listen: nobody else gets them meanwhile.
    """

    def __init__(self, folder: Path, receiver: Receiver, forward: str) -> None:
        self._held = [_held_port() for _ in range(2)]
        self._addresses = [held.getsockname() for held in self._held]
        grpc, http = (f"{host}:{port}" for host, port in self._addresses)
        self._endpoints = {"grpc": f"http://{grpc}", "http": f"http://{http}/v1/logs"}
        self._output = folder / "output"
        endpoints = {
            "grpc": receiver.grpc_endpoint,
            "http": receiver.http_endpoint.removesuffix("/v1/logs"),
        }
        self._command = [
            PROGRAM,
            "start",
            f"--pid-file={folder / 'pid'}",
            f"--log-file={folder / 'log'}",
            f"--otlp-grpc-endpoint={grpc}",
            f"--otlp-http-endpoint={http}",
            "--otlp-grpc-max-recv-msg-size-mib=4",
            "--disable-batching",
            "--exporter=otlp",
            f"--otlp-exporter-protocol={forward}",
            f"--otlp-exporter-endpoint={endpoints[forward]}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it listens."""
        with self._output.open("ab") as output:
            self._process = process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT
            )
        deadline = time.monotonic() + 10
        for address in self._addresses:
            while not _listens(address):
                alive = process.poll() is None and time.monotonic() < deadline
                assert alive, self._output.read_text()

    def end(self) -> None:
        """End as a service manager ends it: it sends what it has taken, and exits."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(timeout=10) == 0, self._output.read_text()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
        for held in self._held:
            held.close()

    def exporter(self, way: str, compression: str = "none") -> dict[str, Any]:
        """The `exporter` setting for it."""
        if way == "grpc":
            settings = {"endpoint": self._endpoints["grpc"], "compression": compression}
            return {"otlp-grpc": settings}
        settings = {"endpoint": self._endpoints["http"], "compression": compression}
        return {"otlp-http": {**settings, "protocol": way}}


def _held_port() -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=0.01).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=["grpc", "http"], ids=["passes on as grpc", "passes on as http"])
def rotel(request: pytest.FixtureRequest, receiver: Receiver, tmp_path: Path) -> Iterator[Rotel]:
    """Passes on to `receiver`: once over gRPC, once over HTTP."""
    rotel = Rotel(tmp_path, receiver, request.param)
    try:
        rotel.start()
        yield rotel
    finally:
        rotel.close()


OVER_HTTP = pytest.mark.parametrize("rotel", ["http"], indirect=True)


def log(event: str, **fields: Any) -> None:
    LOGGER.info(event, extra={"conversation.id": "c", **fields})


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("way", WAYS)
def test_all_arrives_as_when_it_is_sent_straight(
    rotel: Rotel, receiver: Receiver, attach: HandlerFactory, way: str, compression: str
) -> None:
    otel = {"environment": "é☕", "resource_attributes": {"host.name": "a", "list": ["x", "y"]}}
    with Receiver() as straight:
        endpoint = straight.http_endpoint
        handlers = [
            attach({**otel, "exporter": {"otlp-http": {"endpoint": endpoint}}}),
            attach({**otel, "exporter": rotel.exporter(way, compression)}),
        ]
        started = time.time_ns()
        with SESSION.conversation.bind():
            for event in SESSION.events:
                logging.getLogger(event.logger).info(event.event, extra=dict(event.fields))
            with TracerProvider().get_tracer("app").start_as_current_span("turn"):
                fields = samples.ODD if way == "json" else {**samples.ODD, **samples.ODD_AS_JSON}
                logging.getLogger("codex_otel.\ud800").warning("codex.turn_ttft", extra=fields)
        ended = time.time_ns()
        sent = len(SESSION.events) + 1
        for handler in handlers:
            assert handler.flush(10)
            assert handler.stats() == Stats(accepted=sent, exported=sent)
        events = receiver.wait_for(sent)
        assert all(started <= event.observed_time_unix_nano <= ended for event in events)
        assert samples.records(receiver) == samples.records(straight)
    (odd,) = (event for event in events if event.severity_text == "WARN")
    assert (len(odd.trace_id), len(odd.span_id)) == (32, 16)
    assert odd.event_name == odd.body == "codex.turn_ttft"
    assert odd.scope == "codex_otel.\ufffd"
    assert odd.attributes.keys() >= fields.keys() - {"", "\ud800"}


@OVER_HTTP
@pytest.mark.parametrize("name", samples.ODD_AS_JSON)
def test_what_it_does_not_take_as_json(
    rotel: Rotel,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """The whole request is refused, which is reported and counted.

    Protobuf's JSON form writes doubles that are no numbers as text, and leaves out a field that is
    empty, which a reader has to accept: https://protobuf.dev/programming-guides/json/
    rotel 0.0.1a15 does not: it misses the empty field, and text is no number to it.
    """
    handler = attach({"exporter": rotel.exporter("json")})
    log("codex.turn_ttft", duration_ms=1, odd=samples.ODD_AS_JSON[name])
    assert handler.flush(10)
    log("codex.turn_ttft", duration_ms=2)
    assert handler.flush(10)
    (event,) = receiver.wait_for(1)
    assert event.attributes["duration_ms"] == 2
    assert handler.stats() == Stats(accepted=2, exported=1, rejected=1)
    (message,) = caplog.messages
    assert "1 event lost (HTTP 400 Bad Request)" in message


@OVER_HTTP
@pytest.mark.parametrize("way", WAYS)
def test_it_ends_while_events_are_logged_and_starts_again(
    rotel: Rotel,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    handler = attach({"exporter": rotel.exporter(way), "batch": {"schedule_delay_ms": 5}})
    numbers = count()

    def log_during(change: Callable[[], None]) -> None:
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            while not changing.done():
                log("codex.turn_ttft", duration_ms=next(numbers))
            changing.result()

    log("codex.turn_ttft", duration_ms=next(numbers))
    receiver.wait_for(1)
    log_during(rotel.end)
    log("codex.turn_ttft", duration_ms=next(numbers))
    assert handler.flush(0.5) is False
    log_during(rotel.start)
    log("codex.turn_ttft", duration_ms=next(numbers))
    assert handler.flush(30)
    logged = next(numbers)
    assert handler.stats() == Stats(accepted=logged, exported=logged)
    events = receiver.wait_for(logged)
    # What it took just before it ended, and could not answer any more, it has got twice.
    assert {event.attributes["duration_ms"] for event in events} == set(range(logged))
    assert [m.partition(": ")[2].partition(" (")[0].partition(",")[0] for m in caplog.messages] == [
        "events are not delivered",
        "events are delivered again",
    ]


@OVER_HTTP
@pytest.mark.parametrize("max_request_bytes", [3_670_016, 16 << 20], ids=["default", "too large"])
def test_large_events_arrive_within_its_grpc_limit(
    rotel: Rotel,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    max_request_bytes: int,
) -> None:
    """It is 4 MiB; requests beyond it are sent again in halves, at once."""
    batch = {"max_request_bytes": max_request_bytes, "retry_for_ms": 0}
    handler = attach({"exporter": rotel.exporter("grpc"), "batch": batch})
    for number in range(400):
        log("codex.turn_ttft", duration_ms=number, text="x" * 20_480)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=400, exported=400)
    events = receiver.wait_for(400)
    assert sorted(event.attributes["duration_ms"] for event in events) == list(range(400))
    assert not caplog.messages


@OVER_HTTP
def test_one_event_beyond_its_grpc_limit_is_lost_alone(
    rotel: Rotel, receiver: Receiver, attach: HandlerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    handler = attach({"exporter": rotel.exporter("grpc"), "max_attribute_length": 0})
    for number in range(5):
        log("codex.turn_ttft", duration_ms=number, text="x" * (6 << 20 if number == 2 else 1))
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=5, exported=4, rejected=1)
    events = receiver.wait_for(4)
    assert sorted(event.attributes["duration_ms"] for event in events) == [0, 1, 3, 4]
    (message,) = caplog.messages
    assert "1 event lost (gRPC OUT_OF_RANGE: Error, decoded message length too large" in message
