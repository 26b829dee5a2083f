"""What the exporters send, how they judge answers, and what they rely on in the official ones.

A test with "official" or "SDK" in its name fails when a private name that we use is removed.
"""

from __future__ import annotations

import gc
import inspect
import sys
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.client import responses
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from codex_otel_logging import Receiver
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.otlp import factory
from codex_otel_logging.otlp.grpc_answers import LARGE_REQUEST
from codex_otel_logging.otlp.reasons import forget_frames
from support.collectors import (
    BUSY,
    JSON,
    OK,
    PROTOBUF,
    TEXT,
    UNAUTHENTICATED,
    Answer,
    GrpcCollector,
    HttpCollector,
    abort,
)
from support.exporters import HTTP, connected, connected_over, event
from support.fixtures import Scripted
from support.scripted_peers import Peer, Serve, answering, silent
from support.spools import until

PARTIAL = ExportLogsServiceResponse(
    partial_success=ExportLogsPartialSuccess(rejected_log_records=1, error_message="too old")
)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, PROTOBUF, b""), DELIVERED),
        ((202, {}, b""), DELIVERED),
        ((200, PROTOBUF, PARTIAL.SerializeToString()), Outcome("delivered", "too old", 1)),
        (
            (200, JSON, b'{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "old"}}'),
            Outcome("delivered", "old", 1),
        ),
        ((200, PROTOBUF, b"\xff"), DELIVERED),
        ((200, JSON, b"[]"), DELIVERED),
        (
            (307, {"Location": "http://127.0.0.1:9/"}, b""),
            Outcome(
                "refused",
                "HTTP 307 Temporary Redirect: redirects are not followed; set endpoint to the "
                "redirect's target",
            ),
        ),
        ((400, JSON, b'{"message": null}'), Outcome("invalid", "HTTP 400 Bad Request")),
        ((400, TEXT, b"bad\nrequest"), Outcome("invalid", "HTTP 400 Bad Request: bad request")),
        (
            (401, PROTOBUF, Status(message="no token").SerializeToString()),
            Outcome("refused", "HTTP 401 Unauthorized: no token"),
        ),
        (
            (403, JSON, b'{"code": 7, "message": "not yours"}'),
            Outcome("refused", "HTTP 403 Forbidden: not yours"),
        ),
        ((404, JSON, b"odd"), Outcome("refused", "HTTP 404 Not Found")),
        ((404, {"Content-Type": "text/html"}, b"<p>"), Outcome("refused", "HTTP 404 Not Found")),
        ((500, {}, b""), Outcome("refused", "HTTP 500 Internal Server Error")),
        ((413, {}, b""), Outcome("too large", f"HTTP 413 {responses[413]}")),
        (
            (200, JSON, b'{"partialSuccess": {"rejectedLogRecords": null, "errorMessage": null}}'),
            DELIVERED,
        ),
        ((200, {"Content-Encoding": "gzip"}, b"broken"), DELIVERED),
        (
            (400, {"Content-Encoding": "gzip", **TEXT}, b"broken"),
            Outcome("invalid", "HTTP 400 Bad Request"),
        ),
        (
            (503, {"Retry-After": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, b""),
            Outcome("retry", "HTTP 503 Service Unavailable"),
        ),
        (
            (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
            Outcome("retry", "HTTP 503 Service Unavailable", 0, 0.0),
        ),
        ((429, {"Retry-After": "7"}, b""), Outcome("retry", "HTTP 429 Too Many Requests", 0, 7.0)),
        ((502, {}, b""), Outcome("retry", "HTTP 502 Bad Gateway")),
        (
            (503, {"Retry-After": "soon"}, b""),
            Outcome("retry", "HTTP 503 Service Unavailable"),
        ),
        ((504, {}, b""), Outcome("retry", "HTTP 504 Gateway Timeout")),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_http_answer_is_judged_as_the_specification_says(
    http_collector: Callable[..., HttpCollector], answer: Answer, outcome: Outcome
) -> None:
    """Each answer reaches us, although the official exporter would retry some requests."""
    collector = http_collector(answer)
    status = None if outcome.verdict == "delivered" else answer[0]
    with connected(ExporterConfig("otlp-http", collector.endpoint)) as exporter:
        assert exporter.export([event()]) == outcome._replace(status=status)
    assert len(collector.requests) == 1


def test_http_retry_after_may_be_a_date(http_collector: Callable[..., HttpCollector]) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=60)
    collector = http_collector((503, {"Retry-After": format_datetime(soon, usegmt=True)}, b""))
    with connected(ExporterConfig("otlp-http", collector.endpoint)) as exporter:
        outcome = exporter.export([event()])
    assert outcome.retry_after_s is not None
    assert 30 < outcome.retry_after_s <= 60


def test_json_exporter_posts_with_our_session(http_collector: Callable[..., HttpCollector]) -> None:
    """The official exporter takes the session only in a private argument, which may disappear."""
    pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    collector = http_collector((401, JSON, b'{"message": "no token"}'))
    config = ExporterConfig("otlp-http", collector.endpoint, {"x-k": "v"}, protocol="json")
    with connected(config) as exporter:
        outcome = exporter.export([event()])
    assert outcome == Outcome("refused", "HTTP 401 Unauthorized: no token", status=401)
    (headers,) = collector.requests
    assert headers["content-type"] == "application/json"
    assert headers["x-k"] == "v"


def test_http_answer_with_a_huge_body_is_judged_by_its_status(
    http_collector: Callable[..., HttpCollector],
) -> None:
    collector = http_collector((400, TEXT, b"x" * 10_000_000))
    with connected(ExporterConfig("otlp-http", collector.endpoint)) as exporter:
        assert exporter.export([event()]).verdict == "invalid"


def test_http_reuses_its_connection(http_collector: Callable[..., HttpCollector]) -> None:
    collector = http_collector((200, PROTOBUF, b""))
    with connected(ExporterConfig("otlp-http", collector.endpoint)) as exporter:
        for _ in range(3):
            assert exporter.export([event()]) == DELIVERED
    assert len(collector.requests) == 3
    assert collector.connections == 1


def test_http_sends_the_endpoints_credentials_but_no_cookies(
    http_collector: Callable[..., HttpCollector],
) -> None:
    collector = http_collector((200, {"Set-Cookie": "a=b"}, b""))
    endpoint = collector.endpoint.replace("://", "://user:p%40ss@")
    with connected(ExporterConfig("otlp-http", endpoint)) as exporter:
        for _ in range(2):
            assert exporter.export([event()]) == DELIVERED
    for headers in collector.requests:
        assert headers["authorization"] == f"Basic {b64encode(b'user:p@ss').decode()}"
        assert "cookie" not in headers


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_http_missing_ca_bundle_is_retried(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The error that requests raises then is not a `RequestException`."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, "/nonexistent")
    with connected(ExporterConfig("otlp-http", "https://127.0.0.1:9/v1/logs")) as exporter:
        outcome = exporter.export([event()])
    assert outcome.verdict == "retry"
    assert "/nonexistent" in outcome.reason


def test_http_refused_connection_is_retried(absent: str) -> None:
    with connected(ExporterConfig("otlp-http", f"http://{absent}/v1/logs")) as exporter:
        outcome = exporter.export([event()])
    assert outcome == Outcome("retry", "no connection: Connection refused")


def test_outcome_has_the_status_of_the_answer(scripted: Scripted) -> None:
    ((name, settings),) = scripted(UNAUTHENTICATED, BUSY).exporter.items()
    with connected(ExporterConfig(cast("Any", name), settings["endpoint"])) as exporter:
        statuses = [exporter.export([event()]).status for _ in range(2)]
    assert statuses in ([401, 503], ["UNAUTHENTICATED", "RESOURCE_EXHAUSTED"])


def test_http_to_a_grpc_port_is_reported_as_not_http() -> None:
    with (
        Receiver() as receiver,
        connected(ExporterConfig("otlp-http", receiver.grpc_endpoint)) as exporter,
    ):
        outcome = exporter.export([event()])
    assert outcome == Outcome("retry", "no connection: the answer is not HTTP")


@pytest.mark.parametrize(
    "answer", [b"HTTP/2 200 OK\r\n\r\n", b"HTTP/one 2\r\n\r\n", b"220 mail\r\n"]
)
def test_answer_in_another_protocol_is_reported_and_not_quoted(answer: bytes) -> None:
    with Peer(answering(answer)) as peer:
        config = ExporterConfig("otlp-http", f"http://127.0.0.1:{peer.port}")
        with connected(config) as exporter:
            outcome = exporter.export([event()])
    assert outcome == Outcome("retry", "no connection: the answer is not HTTP")


def test_http_connection_closed_without_an_answer_is_retried(
    http_collector: Callable[..., HttpCollector],
) -> None:
    collector = http_collector(None)
    with connected(ExporterConfig("otlp-http", collector.endpoint)) as exporter:
        outcome = exporter.export([event()])
    assert outcome.verdict == "retry"
    assert outcome.reason.startswith("no connection: ")
    assert "the answer is not HTTP" not in outcome.reason
    assert len(collector.requests) == 1


@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_collector_that_never_answers_fails_at_the_timeout(name: Any) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with connected(ExporterConfig(name, endpoint, timeout_ms=200)) as exporter:
            outcome = exporter.export([event()])
    assert outcome.verdict == "retry"
    expected = {
        "otlp-http": "no answer within 0.2 s",
        "otlp-grpc": "gRPC DEADLINE_EXCEEDED: Deadline Exceeded",
    }
    assert outcome.reason == expected[name]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (lambda _: ExportLogsServiceResponse(), DELIVERED),
        (lambda _: PARTIAL, Outcome("delivered", "too old", 1)),
        (abort(grpc.StatusCode.UNAVAILABLE), Outcome("retry", "gRPC UNAVAILABLE: says no")),
        (abort(grpc.StatusCode.ABORTED), Outcome("retry", "gRPC ABORTED: says no")),
        (
            abort(grpc.StatusCode.UNAUTHENTICATED),
            Outcome("refused", "gRPC UNAUTHENTICATED: says no"),
        ),
        (
            abort(grpc.StatusCode.INVALID_ARGUMENT),
            Outcome("invalid", "gRPC INVALID_ARGUMENT: says no"),
        ),
        (
            abort(grpc.StatusCode.RESOURCE_EXHAUSTED),
            Outcome("refused", "gRPC RESOURCE_EXHAUSTED: says no"),
        ),
        (abort(grpc.StatusCode.OUT_OF_RANGE), Outcome("retry", "gRPC OUT_OF_RANGE: says no")),
        (
            abort(grpc.StatusCode.OUT_OF_RANGE, "Error, decoded message length too large: found"),
            Outcome(
                "too large", "gRPC OUT_OF_RANGE: Error, decoded message length too large: found"
            ),
        ),
        (
            abort(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_s=2.5),
            Outcome("retry", "gRPC RESOURCE_EXHAUSTED: says no", 0, 2.5),
        ),
        (
            abort(grpc.StatusCode.UNAVAILABLE, retry_s=1),
            Outcome("retry", "gRPC UNAVAILABLE: says no", 0, 1.0),
        ),
        (
            abort(grpc.StatusCode.UNAVAILABLE, retry_s=-5),
            Outcome("retry", "gRPC UNAVAILABLE: says no", 0, 0.0),
        ),
        (
            abort(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_s=2**62),
            Outcome("retry", "gRPC RESOURCE_EXHAUSTED: says no", 0, 2.0**62),
        ),
        (
            abort(grpc.StatusCode.UNAVAILABLE, details=("google.rpc.retryinfo-bin", b"\xff\xff")),
            Outcome("retry", "gRPC UNAVAILABLE: says no"),
        ),
        (
            abort(grpc.StatusCode.UNAVAILABLE, details=("grpc-status-details-bin", b"\xff\xff")),
            Outcome("retry", "gRPC UNAVAILABLE: says no"),
        ),
    ],
    ids=str,
)
def test_grpc_answer_is_judged_as_the_specification_says(
    grpc_collector: Callable[..., GrpcCollector],
    answer: Callable[[Any], ExportLogsServiceResponse],
    outcome: Outcome,
) -> None:
    """Each answer reaches us, although the official exporter would retry some calls."""
    collector = grpc_collector(answer)
    code = outcome.reason.partition(":")[0].removeprefix("gRPC ")
    status = None if outcome.verdict == "delivered" else code
    with connected(ExporterConfig("otlp-grpc", collector.endpoint)) as exporter:
        assert exporter.export([event()]) == outcome._replace(status=status)
    assert len(collector.requests) == 1


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)", "too large"),
        (
            "RESOURCE_EXHAUSTED",
            "grpc: received message after decompression larger than max (9 vs. 8)",
            "too large",
        ),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 8: 9", "too large"),
        (
            "RESOURCE_EXHAUSTED",
            "Received message exceeds the maximum configured message size.",
            "too large",
        ),
        ("RESOURCE_EXHAUSTED", "quota exceeded for this month", "refused"),
        ("RESOURCE_EXHAUSTED", "", "refused"),
        ("UNAVAILABLE", "Received message larger than max (9 vs. 8)", "retry"),
    ],
)
def test_small_request_is_too_large_if_the_details_say_so(
    grpc_collector: Callable[..., GrpcCollector], code: str, details: str, verdict: str
) -> None:
    """Otherwise RESOURCE_EXHAUSTED means an exhausted quota, which is not retried."""
    collector = grpc_collector(abort(grpc.StatusCode[code], details))
    with connected(ExporterConfig("otlp-grpc", collector.endpoint)) as exporter:
        assert exporter.export([event()]).verdict == verdict


@pytest.mark.parametrize("size", [LARGE_REQUEST - 1, LARGE_REQUEST])
def test_large_request_counts_as_too_large_whatever_the_details_say(
    grpc_collector: Callable[..., GrpcCollector], size: int
) -> None:
    collector = grpc_collector(abort(grpc.StatusCode.RESOURCE_EXHAUSTED))
    with connected(ExporterConfig("otlp-grpc", collector.endpoint)) as exporter:
        exporter.export([event(text="x" * (size - 1000))])
        more = size - collector.sizes[-1]
        outcome = exporter.export([event(text="x" * (size - 1000 + more))])
    assert collector.sizes[-1] == size
    assert outcome.verdict == ("refused" if size < LARGE_REQUEST else "too large")


def test_errors_that_come_from_each_other_are_released_once() -> None:
    class CountedError(Exception):
        released = 0

        @property
        def __traceback__(self) -> None:
            return None

        @__traceback__.setter
        def __traceback__(self, _: object) -> None:
            assert self.released < 1, "released again"
            self.released += 1

    first, second = CountedError(), CountedError()
    first.__cause__ = second
    second.__cause__ = first
    forget_frames(first)
    assert (first.released, second.released) == (1, 1)


def test_grpc_refused_connection_is_retried(absent: str) -> None:
    with connected(ExporterConfig("otlp-grpc", f"http://{absent}")) as exporter:
        outcome = exporter.export([event()])
    assert outcome.verdict == "retry"
    assert outcome.reason.startswith("gRPC UNAVAILABLE: ")


FAILURES: dict[str, Serve | None] = {
    "absent": None,
    "silent": silent,
    "closes": lambda _: None,
    "busy": answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("protocol", [*HTTP, "grpc"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("failure", FAILURES)
def test_failed_requests_do_not_stay_in_memory(
    absent: str, protocol: str, scheme: str, failure: str
) -> None:
    """Although no garbage is collected: that may happen late, or be turned off."""
    serve = FAILURES[failure]
    large = event(text="x" * 2_000_000)
    with ExitStack() as stack:
        address = absent
        if serve is not None:
            address = f"127.0.0.1:{stack.enter_context(Peer(serve)).port}"
        url = f"{scheme}://{address}/v1/logs"
        exporter = stack.enter_context(connected_over(protocol, url, timeout_ms=300))
        exporter.export([large])
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        exporter.export([large])
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(4):
            assert exporter.export([large]).verdict == "retry"
        # gRPC's own thread may forget a call later.
        assert until(lambda: tracemalloc.get_traced_memory()[0] - before < 1_000_000)


def test_official_grpc_exporter_has_the_method_that_ours_overrides() -> None:
    from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin

    assert inspect.isfunction(OTLPExporterMixin._initialize_channel_and_stub)


OVERRIDDEN_HEADERS = (
    "authorization",
    "x-a",
    "x-b",
    "content-type",
    "content-encoding",
    "user-agent",
    "accept",
)
HTTP_HEADERS = {
    "host",
    "user-agent",
    "accept-encoding",
    "accept",
    "connection",
    "content-type",
    "content-length",
}


@pytest.mark.parametrize("protocol", ["binary", "json"])
def test_environment_and_netrc_add_nothing_to_http_requests(
    http_collector: Callable[..., HttpCollector],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    protocol: Any,
) -> None:
    if protocol == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    collector = http_collector((200, PROTOBUF, b""))
    headers_of_the_environment = ",".join(f"{name}=theirs" for name in OVERRIDDEN_HEADERS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers_of_the_environment)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/theirs.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/theirs.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-c=theirs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login theirs password theirs\n")
    netrc.chmod(0o600)
    config = ExporterConfig("otlp-http", collector.endpoint, {"X-A": "ours"}, protocol=protocol)
    with connected(config) as exporter:
        assert exporter.export([event()]) == DELIVERED
    (headers,) = collector.requests
    assert "theirs" not in str(headers)
    assert set(headers) == HTTP_HEADERS | {"x-a"}
    assert headers["x-a"] == "ours"


def test_environment_adds_nothing_to_grpc_calls(
    grpc_collector: Callable[..., GrpcCollector], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = grpc_collector(OK)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=theirs,x-a=theirs")
    for headers in ({}, {"x-a": "ours"}):
        with connected(ExporterConfig("otlp-grpc", collector.endpoint, headers)) as exporter:
            assert exporter.export([event()]) == DELIVERED
    assert [set(call) for call in collector.requests] == [{"user-agent"}, {"user-agent", "x-a"}]
    assert "theirs" not in str(collector.requests)


@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_compression_and_headers_reach_the_collector(receiver: Receiver, name: Any) -> None:
    endpoint = receiver.http_endpoint if name == "otlp-http" else receiver.grpc_endpoint
    config = ExporterConfig(name, endpoint, {"x-a": "b"}, compression="gzip")
    with connected(config) as exporter:
        assert exporter.export([event()]) == DELIVERED
    (request,) = receiver.requests
    assert request.headers["x-a"] == "b"
    if name == "otlp-http":
        assert request.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("config", "package", "command"),
    [
        (ExporterConfig("otlp-http", ""), "proto.http", "pip install 'codex_otel_logging[http]'"),
        (ExporterConfig("otlp-grpc", ""), "proto.grpc", "pip install 'codex_otel_logging[grpc]'"),
        (
            ExporterConfig("otlp-http", "", protocol="json"),
            "json.http",
            "pip install 'codex_otel_logging[json]'",
        ),
    ],
)
def test_missing_package_is_reported_with_the_command_that_installs_it(
    config: ExporterConfig, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert factory.missing_package(ExporterConfig("otlp-http", "")) is None
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    message = factory.missing_package(config)
    assert message is not None
    assert command in message


def test_sdk_has_the_resource_detection_that_importing_replaces() -> None:
    """`importing` replaces this function during an import."""
    from opentelemetry.sdk import resources

    assert list(inspect.signature(resources.get_aggregated_resources).parameters)[:2] == [
        "detectors",
        "initial_resource",
    ]
