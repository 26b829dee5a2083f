"""Fixtures of all tests: restored logging, a clean environment, handlers, collectors, programs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver, catalog
from codex_otel_logging.delivery import lifecycle
from codex_otel_logging.delivery.exporter import Outcome
from support.collectors import Gate, GrpcCollector, HttpCollector, over_grpc, over_http
from support.environments import write_metadata
from support.fixtures import HandlerFactory, RunPython, RunTests, Scripted
from support.interpreters import OLD_API_WARNING
from support.paths import ROOT

pytest_plugins = ["pytester"]

pytest.register_assert_rewrite("support.collector_programs")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="how long stress tests run (default: 3)",
    )


@pytest.fixture
def soak_s(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--soak"))


@pytest.fixture(scope="session", autouse=True)
def _no_signal_ignored_by_programs() -> Iterator[None]:
    """Give programs the default disposition of the signals that tests send.

    A background job of a shell script ignores SIGINT, and its programs inherit that. They do not
    inherit handlers, so an empty handler makes only this session ignore the signal.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove every variable of the machine that the package or its libraries read."""
    for name in list(os.environ):
        if name.startswith(
            ("OTEL_", "TERM", "GRPC_", "SSL_CERT_", "CODEX_HOME")
        ) or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def _no_worker_left() -> Iterator[None]:
    """End all workers of the test, so that none retries while the next test counts threads."""
    before = lifecycle.watched()
    yield
    for worker in {*lifecycle.watched()} - {*before}:
        if (thread := worker.thread) is not None:
            worker.sender._export = lambda *_: Outcome("refused", "the test is over")  # type: ignore[method-assign]
            worker.queue.at_exit = False
            worker.close()
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _restored_logging(_no_worker_left: None) -> Iterator[None]:
    """Restore the loggers that a test configured."""
    names = (None, "codex_otel", "codex_otel.tools", "codex_otel_logging")
    loggers = [logging.getLogger(name) for name in names]
    before = [
        (logger, logger.level, logger.propagate, logger.disabled, logger.handlers[:])
        for logger in loggers
    ]
    yield
    for logger, level, propagate, disabled, handlers in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.handlers[:] = handlers
        logger.propagate, logger.disabled = propagate, disabled
        logger.setLevel(level)


@pytest.fixture
def own_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the events that the test registers from the catalog afterwards."""
    monkeypatch.setattr(catalog, "_events", dict(catalog._events))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def absent() -> Iterator[str]:
    """The host and port of a collector that does not run.

    The port stays bound: another program could otherwise get it, and listen.
    """
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*reserved.getsockname())


@pytest.fixture(params=["otlp-http", "otlp-grpc"])
def exporter(request: pytest.FixtureRequest, receiver: Receiver) -> dict[str, Any]:
    """The `exporter` setting for the receiver: over HTTP, then over gRPC."""
    return over_http(receiver) if request.param == "otlp-http" else over_grpc(receiver)


@pytest.fixture
def gate(exporter: dict[str, Any]) -> Iterator[Gate]:
    """A proxy in front of the receiver that tests can close and open."""
    (settings,) = exporter.values()
    gate = Gate(settings["endpoint"])
    yield gate
    gate.close()


@pytest.fixture
def gated(exporter: dict[str, Any], gate: Gate) -> dict[str, Any]:
    """The `exporter` setting for the gate in front of the receiver."""
    (name,) = exporter
    return {name: {"endpoint": gate.endpoint}}


@pytest.fixture
def http_collector() -> Iterator[Callable[..., HttpCollector]]:
    """Starts HTTP collectors with scripted replies."""
    with _started(HttpCollector) as start:
        yield start


@pytest.fixture
def grpc_collector() -> Iterator[Callable[..., GrpcCollector]]:
    """Starts gRPC collectors with scripted replies."""
    with _started(GrpcCollector) as start:
        yield start


@pytest.fixture(params=[HttpCollector, GrpcCollector], ids=["otlp-http", "otlp-grpc"])
def scripted(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    """Starts collectors with scripted replies: over HTTP, then over gRPC."""
    with _started(request.param) as start:
        yield start


@contextmanager
def _started(kind: Any) -> Iterator[Any]:
    collectors = []

    def start(*replies: Any, **options: Any) -> Any:
        collectors.append(kind(*replies, **options))
        return collectors[-1]

    yield start
    for collector in collectors:
        collector.stop()


@pytest.fixture
def attach() -> Iterator[HandlerFactory]:
    """Builds a handler from an `[otel]` table and attaches it to the logger `codex_otel`."""
    logger = logging.getLogger("codex_otel")
    handlers = []

    def attach(otel: Mapping[str, Any], **options: Any) -> CodexOtelHandler:
        exporter = otel.get("exporter")
        if isinstance(exporter, Mapping) and "json" in exporter.get("otlp-http", {}).values():
            pytest.importorskip("opentelemetry.exporter.otlp.json.http")
        handler = CodexOtelHandler(otel, **options)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        handlers.append(handler)
        return handler

    yield attach
    for handler in handlers:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def attach_to(attach: HandlerFactory) -> HandlerFactory:
    """Builds a handler for a collector as `attach` does; keywords are further settings.

    A `Receiver` gets its events over HTTP.
    """

    def attach_to(
        collector: HttpCollector | GrpcCollector | Receiver, **settings: Any
    ) -> CodexOtelHandler:
        own = over_http(collector) if isinstance(collector, Receiver) else collector.exporter
        return attach({"exporter": own, **settings})

    return attach_to


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a program in a new interpreter, in an empty folder that is also its home directory."""

    def run_python(
        program: str, *arguments: str, python: str = sys.executable, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-W", "error", "-W", OLD_API_WARNING, "-c", program, *arguments],
            cwd=tmp_path,
            env={"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_python


@pytest.fixture
def run_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunTests:
    """Runs a file of tests in a separate pytest process, in which the package is installed."""
    write_metadata(pytester.path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run_tests(tests: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(tests)
        warnings = ("-W", "error", "-W", OLD_API_WARNING)
        return pytester.runpytest_subprocess(*warnings, *arguments, timeout=60)

    return run_tests
