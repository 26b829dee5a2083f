"""Exports make no spans, carry only their own headers, and leave context and `random` alone."""

from __future__ import annotations

import gc
import http.client
import logging
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import urllib3
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from codex_otel_logging import CodexOtelHandler, Receiver
from codex_otel_logging.__main__ import main
from codex_otel_logging.config.settings import BatchConfig, ExporterConfig
from codex_otel_logging.delivery.exporter import DELIVERED
from codex_otel_logging.delivery.flushing import flush_all
from codex_otel_logging.delivery.worker import Worker
from codex_otel_logging.events.event import SharedAttributes
from codex_otel_logging.otlp import isolation
from codex_otel_logging.otlp.encoder import OtlpRequests
from codex_otel_logging.otlp.factory import connect
from codex_otel_logging.otlp.sdk_records import OtlpRecords
from support.collectors import BUSY, OK, PROTOBUF, HttpCollector
from support.events import log
from support.fixtures import HandlerFactory, RunPython, Scripted
from support.paths import read_program

LOGGER = logging.getLogger("codex_otel.app")

OWN_HEADERS = {
    "http": {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-key",
    },
    "grpc": {"user-agent", "x-key"},
}


def exporters(receiver: Receiver) -> dict[str, Any]:
    """Return the `exporter` setting of each transport, with a header."""
    over_http = {"endpoint": receiver.http_endpoint, "headers": {"X-Key": "v"}}
    over_grpc = {"endpoint": receiver.grpc_endpoint, "headers": {"x-key": "v"}}
    return {
        "binary": {"otlp-http": over_http},
        "json": {"otlp-http": {**over_http, "protocol": "json"}},
        "grpc": {"otlp-grpc": over_grpc},
    }


TRANSPORTS = ["binary", "json", "grpc"]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    if request.param == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    return str(request.param)


@pytest.fixture
def exporter(transport: str, receiver: Receiver) -> Any:
    return exporters(receiver)[transport]


def export(handler: CodexOtelHandler, count: int = 2) -> None:
    """Export events, each in its own request."""
    for number in range(count):
        log(first=number)
        assert handler.flush(10)
    assert handler.stats().exported >= count


def header_names(receiver: Receiver) -> set[str]:
    assert receiver.requests
    return {name for request in receiver.requests for name in request.headers}


class Tracing:
    """The application's tracer, and the instrumentations that use it."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._instrumentors: list[Any] = []

    def instrument(self, module: str, name: str) -> None:
        package = pytest.importorskip(f"opentelemetry.instrumentation.{module}")
        instrumentor = getattr(package, name)()
        instrumentor.instrument(tracer_provider=self.provider, skip_dep_check=True)
        self._instrumentors.append(instrumentor)

    def uninstrument(self) -> None:
        for instrumentor in self._instrumentors:
            instrumentor.uninstrument()

    @property
    def spans(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    tracing = Tracing()
    yield tracing
    tracing.uninstrument()


INSTRUMENTATIONS = [
    ("requests", "RequestsInstrumentor"),
    ("urllib3", "URLLib3Instrumentor"),
    ("grpc", "GrpcInstrumentorClient"),
]


class TestOpenTelemetry:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_export_makes_no_span_and_carries_no_trace_context(
        self,
        attach: HandlerFactory,
        receiver: Receiver,
        tracing: Tracing,
        transport: str,
        exporter: Any,
        when: str,
    ) -> None:
        """Whether the libraries are instrumented before the exporter is built or after."""
        handler = attach({"exporter": exporter})
        if when == "after":
            export(handler)
        for module, name in INSTRUMENTATIONS:
            tracing.instrument(module, name)
        with tracing.provider.get_tracer("app").start_as_current_span("request"):
            export(handler)
        assert tracing.spans == ["request"]
        assert header_names(receiver) == OWN_HEADERS["grpc" if transport == "grpc" else "http"]

    def test_application_that_uses_the_same_libraries_is_still_traced(
        self, attach: HandlerFactory, receiver: Receiver, tracing: Tracing
    ) -> None:
        tracing.instrument("requests", "RequestsInstrumentor")
        export(attach({"exporter": exporters(receiver)["binary"]}))
        requests.get(f"{receiver.http_endpoint}/absent", timeout=10)
        assert tracing.spans == ["GET"]

    def test_worker_has_no_span_of_the_thread_that_started_it(
        self,
        attach: HandlerFactory,
        receiver: Receiver,
        tracing: Tracing,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        tracing.instrument("threading", "ThreadingInstrumentor")
        current: list[Any] = []

        class Probe(logging.Handler):
            def emit(self, _: logging.LogRecord) -> None:
                current.append((threading.current_thread().name, trace.get_current_span()))

        reports, probe = logging.getLogger("codex_otel_logging"), Probe()
        reports.addHandler(probe)
        try:
            with tracing.provider.get_tracer("app").start_as_current_span("request"):
                handler = attach({"exporter": exporters(receiver)["binary"]})
                LOGGER.info("codex.turn_ttft")  # reported on the worker, for its missing fields
                assert handler.flush(10)
        finally:
            reports.removeHandler(probe)
        assert {name for name, _ in current} == {"codex_otel_logging"}
        assert {span for _, span in current} == {trace.INVALID_SPAN}

    @pytest.mark.parametrize("transport", ["binary", "grpc"], indirect=True)
    def test_check_command_creates_no_span(
        self,
        receiver: Receiver,
        tracing: Tracing,
        exporter: Any,
        transport: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        ((name, settings),) = exporter.items()
        (tmp_path / "otel.toml").write_text(
            f'[otel.exporter.{name}]\nendpoint = "{settings["endpoint"]}"\nheaders.x-key = "v"'
        )
        for module, instrumentor in INSTRUMENTATIONS:
            tracing.instrument(module, instrumentor)
        with tracing.provider.get_tracer("app").start_as_current_span("request"):
            assert main(["check", str(tmp_path / "otel.toml"), "--send"]) == 0
        assert tracing.spans == ["request"]
        assert header_names(receiver) == OWN_HEADERS["grpc" if transport == "grpc" else "http"]

    def test_export_runs_in_an_empty_context_with_the_suppression_key(
        self, receiver: Receiver, tracing: Tracing, exporter: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So no instrumentation traces an export, on whichever thread it happens."""
        ((name, settings),) = exporter.items()
        connected = connect(ExporterConfig(name, **settings), SharedAttributes({}, {}))
        key = isolation._SUPPRESSION_KEY
        seen: list[Any] = []
        request = OtlpRequests.request
        batch = OtlpRecords.batch

        def looking(method: Any) -> Any:
            def look(*args: Any) -> Any:
                seen.append((context.get_value(key), trace.get_current_span()))
                return method(*args)

            return look

        monkeypatch.setattr(OtlpRequests, "request", looking(request))
        monkeypatch.setattr(OtlpRecords, "batch", looking(batch))
        with tracing.provider.get_tracer("app").start_as_current_span("request") as span:
            assert connected.export([]) == DELIVERED
            assert (context.get_value(key), trace.get_current_span()) == (None, span)
        connected.shutdown()
        assert seen == [(True, trace.INVALID_SPAN)]
        assert key in vars(context).values()  # the SDK's own key, while there is one

    def test_custom_context_implementation_is_restored(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`OTEL_PYTHON_CONTEXT` can select one that does not use `contextvars`."""

        class GlobalContext:
            def __init__(self) -> None:
                self.current = context.Context()

            def get_current(self) -> context.Context:
                return self.current

            def attach(self, new: context.Context) -> context.Context:
                before, self.current = self.current, new
                return before

            def detach(self, token: context.Context) -> None:
                self.current = token

        monkeypatch.setattr(context, "_RUNTIME_CONTEXT", GlobalContext())
        before = context.get_current()
        assert isolation.isolated(context.get_current)() != before
        assert context.get_current() is before


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("traced", ["traced", "not traced"])
def test_sentry_neither_traces_exports_nor_adds_headers(
    run_python: RunPython, transport: str, traced: str
) -> None:
    pytest.importorskip("sentry_sdk")
    program = read_program("sentry_application")
    done = run_python(program, transport, traced)
    assert done.stdout == "2 [] []\n", done.stderr


class TestOtherAgents:
    """Agents that add headers at every layer and ignore OpenTelemetry's suppression key."""

    @pytest.fixture(autouse=True)
    def agent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        send = requests.Session.send
        urlopen = urllib3.HTTPConnectionPool.urlopen
        putrequest = http.client.HTTPConnection.putrequest
        endheaders = http.client.HTTPConnection.endheaders

        def agents_send(self: Any, request: Any, **kwargs: Any) -> Any:
            request.headers["X-Agent-1"] = "a"
            return send(self, request, **kwargs)

        def agents_urlopen(self: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["headers"] = {**kwargs["headers"], "x-agent-2": "a"}
            return urlopen(self, *args, **kwargs)

        def agents_putrequest(self: Any, *args: Any, **kwargs: Any) -> None:
            putrequest(self, *args, **kwargs)
            self.putheader("x-agent-3", "a")
            self.putheader(b"x-agent-4", b"a")

        def agents_endheaders(self: Any, *args: Any, **kwargs: Any) -> None:
            self.putheader("traceparent", "a")
            endheaders(self, *args, **kwargs)

        monkeypatch.setattr(requests.Session, "send", agents_send)
        monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", agents_urlopen)
        monkeypatch.setattr(http.client.HTTPConnection, "putrequest", agents_putrequest)
        monkeypatch.setattr(http.client.HTTPConnection, "endheaders", agents_endheaders)

    @pytest.mark.parametrize("transport", ["binary", "json"], indirect=True)
    def test_only_own_headers_reach_the_collector(
        self, attach: HandlerFactory, receiver: Receiver, exporter: Any
    ) -> None:
        export(attach({"exporter": exporter}))
        assert header_names(receiver) == OWN_HEADERS["http"]

    def test_only_own_headers_reach_a_proxy(
        self,
        attach: HandlerFactory,
        http_collector: Callable[..., HttpCollector],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        proxy = http_collector((200, PROTOBUF, b""))
        monkeypatch.setenv("HTTP_PROXY", f"http://user:password@127.0.0.1:{proxy.server_port}")
        over_http = {"endpoint": "http://collector.invalid/v1/logs", "headers": {"X-Key": "v"}}
        export(attach({"exporter": {"otlp-http": over_http}}))
        for headers in proxy.requests:
            assert set(headers) == OWN_HEADERS["http"] | {"proxy-authorization"}

    def test_settings_may_set_a_header_that_agents_add(
        self, attach: HandlerFactory, receiver: Receiver
    ) -> None:
        over_http = {"endpoint": receiver.http_endpoint, "headers": {"TraceParent": "own"}}
        export(attach({"exporter": {"otlp-http": over_http}}), count=1)
        (request,) = receiver.requests
        assert request.headers["traceparent"] == "own"


VARIABLE: ContextVar[str] = ContextVar("VARIABLE")


@pytest.mark.parametrize("can_start", [True, False], ids=["worker", "no thread can be started"])
def test_export_does_not_see_the_context_of_the_logging_thread(
    monkeypatch: pytest.MonkeyPatch, can_start: bool
) -> None:
    """When no thread can be started, as at exit, the thread that flushes exports."""
    seen: list[tuple[bool, str | None]] = []

    class Exporter:
        def export(self, *_: Any) -> Any:
            is_worker = threading.current_thread() is not threading.main_thread()
            seen.append((is_worker, VARIABLE.get(None)))
            return DELIVERED

        def shutdown(self) -> None:
            pass

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if not can_start:
        monkeypatch.setattr(threading.Thread, "start", start)
    worker = Worker(
        BatchConfig(),
        connect=Exporter,
        check=lambda _: None,
        on_start=lambda: None,
        destination="test",
    )
    token = VARIABLE.set("of the request")
    try:
        worker.queue.put(SimpleNamespace(size=1, observed_ns=0))  # type: ignore[arg-type]
        assert flush_all([worker], 10)
    finally:
        VARIABLE.reset(token)
        worker.close()
    assert seen == [(can_start, None)]


def test_worker_keeps_no_reference_to_the_context_it_was_started_in(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    """Otherwise the request during which the worker started would never be freed."""

    class Request:
        pass

    request = Request()
    token = VARIABLE.set(request)  # type: ignore[arg-type]
    export(attach({"exporter": exporters(receiver)["binary"]}))
    VARIABLE.reset(token)
    reference = weakref.ref(request)
    del request, token
    gc.collect()
    assert reference() is None


def test_export_leaves_the_applications_random_numbers_alone(
    attach: HandlerFactory, exporter: dict[str, Any]
) -> None:
    """Applications seed `random` for reproducible runs."""
    before = random.getstate()
    export(attach({"exporter": exporter}))
    assert random.getstate() == before


def test_retry_leaves_the_applications_random_numbers_alone(
    attach: HandlerFactory, scripted: Scripted
) -> None:
    before = random.getstate()
    export(attach({"exporter": scripted(BUSY, OK).exporter}), 1)
    assert random.getstate() == before
