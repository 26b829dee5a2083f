"""Collectors that run as programs, and assertions that hold for each of them.

A collector runs between a handler and a `Receiver`. What it forwards must equal what the receiver
gets from the handler directly.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from opentelemetry.sdk.trace import TracerProvider

from codex_otel_logging import CodexOtelHandler, Receiver, Stats
from codex_otel_logging.cli.demo import recorded_session
from support import samples
from support.fixtures import HandlerFactory
from support.spools import until

PROTOCOLS = ("binary", "json", "grpc")
"""The ways to send to a collector: the two encodings of OTLP/HTTP, and OTLP/gRPC."""

_LOGGER = logging.getLogger("codex_otel")
_SESSION = recorded_session()


class CollectorProgram:
    """A collector in its own process.

    It uses the same two ports after each start. Sockets that never listen reserve them.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self._reserved = [_reserve_port() for _ in range(2)]
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def addresses(self) -> tuple[str, str]:
        """The addresses for gRPC and for HTTP, as `host:port`."""
        grpc, http = ("{}:{}".format(*reserved.getsockname()) for reserved in self._reserved)
        return grpc, http

    def exporter(
        self, protocol: str, compression: str = "none", *, scheme: str = "http", **more: Any
    ) -> dict[str, Any]:
        """Return the `exporter` setting that sends to it."""
        grpc, http = self.addresses
        settings = {"compression": compression, **more}
        if protocol == "grpc":
            return {"otlp-grpc": {"endpoint": f"{scheme}://{grpc}", **settings}}
        endpoint = f"{scheme}://{http}/v1/logs"
        return {"otlp-http": {"endpoint": endpoint, "protocol": protocol, **settings}}

    def start(self) -> None:
        """Start it and wait until it listens on both ports."""
        with self._output.open("ab") as output:
            self._process = process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, env=self.environment
            )
        deadline = time.monotonic() + 20
        for reserved in self._reserved:
            while not _listens(reserved.getsockname()):
                alive = process.poll() is None and time.monotonic() < deadline
                assert alive, self._output.read_text()

    def end(self) -> None:
        """Terminate it as a service manager does; it must forward what it has accepted."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(timeout=20) == 0, self._output.read_text()

    def kill(self) -> None:
        """Kill it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def close(self) -> None:
        self.kill()
        for reserved in self._reserved:
            reserved.close()


def _reserve_port() -> socket.socket:
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=0.01).close()
    except OSError:
        return False
    return True


Program = TypeVar("Program", bound=CollectorProgram)


class Log:
    """Logs events numbered from 0 in `duration_ms`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, events: int = 1, **fields: Any) -> None:
        for _ in range(events):
            extra = {"conversation.id": "c", "duration_ms": self.count, **fields}
            self.count += 1
            _LOGGER.info("codex.turn_ttft", extra=extra)

    def during(self, change: Callable[[], None]) -> None:
        """Log continuously while `change` runs on another thread."""
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            while not changing.done():
                self()
            changing.result()

    def assert_exported(self, handler: CodexOtelHandler, receiver: Receiver) -> None:
        """Assert that the handler exported every event and that the receiver has all of them.

        Duplicates are allowed: if a collector stops before it answers, its request is retried.
        """
        assert handler.flush(30)
        assert handler.stats() == Stats(accepted=self.count, exported=self.count)
        events = receiver.wait_for(self.count)
        assert {event.attributes["duration_ms"] for event in events} == {*range(self.count)}


def assert_forwards_unchanged(
    receiver: Receiver,
    attach: HandlerFactory,
    exporter: Mapping[str, Any],
    odd_fields: Mapping[str, Any],
) -> None:
    """Assert that forwarded events equal events sent directly to a receiver.

    Sends a recorded session, and an event with a span, another level and `odd_fields`.
    """
    otel = {"environment": "é☕", "resource_attributes": {"host.name": "a", "list": ["x", "y"]}}
    with Receiver() as direct:
        handlers = [
            attach({**otel, "exporter": {"otlp-http": {"endpoint": direct.http_endpoint}}}),
            attach({**otel, "exporter": exporter}),
        ]
        started = time.time_ns()
        with _SESSION.conversation.bind():
            for event in _SESSION.events:
                logging.getLogger(event.logger).info(event.event, extra=dict(event.fields))
            with TracerProvider().get_tracer("app").start_as_current_span("turn"):
                odd_logger = logging.getLogger("codex_otel.\ud800")
                odd_logger.warning("codex.turn_ttft", extra=odd_fields)
        ended = time.time_ns()
        sent = len(_SESSION.events) + 1
        for handler in handlers:
            assert handler.flush(10)
            assert handler.stats() == Stats(accepted=sent, exported=sent)
        events = receiver.wait_for(sent)
        assert all(started <= event.observed_time_unix_nano <= ended for event in events)
        assert samples.records(receiver) == samples.records(direct)
    (odd,) = (event for event in events if event.severity_text == "WARN")
    assert (len(odd.trace_id), len(odd.span_id)) == (32, 16)
    assert odd.event_name == odd.body == "codex.turn_ttft"
    assert odd.scope == "codex_otel.\ufffd"
    assert odd.attributes.keys() >= odd_fields.keys() - {"", "\ud800"}


def assert_restart_loses_nothing(
    collector: Program,
    receiver: Receiver,
    handler: CodexOtelHandler,
    caplog: pytest.LogCaptureFixture,
    stop: Callable[[Program], None] = CollectorProgram.end,
) -> None:
    """Assert that every event arrives even if the collector restarts while events are logged."""
    log = Log()
    log()
    receiver.wait_for(1)
    log.during(lambda: stop(collector))
    log()
    assert handler.flush(0.5) is False
    assert until(lambda: caplog.messages)  # the outage has been reported
    log.during(collector.start)
    log()
    log.assert_exported(handler, receiver)
    began, ended = caplog.messages
    assert ": export failing (" in began
    assert ": export recovered after " in ended


def assert_large_events_arrive(
    receiver: Receiver, handler: CodexOtelHandler, caplog: pytest.LogCaptureFixture
) -> None:
    """Assert that 8 MiB of events arrive once each, without a warning."""
    log = Log()
    log(400, text="x" * 20_480)
    log.assert_exported(handler, receiver)
    assert len(receiver.events) == log.count
    assert not caplog.messages
