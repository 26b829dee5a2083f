"""`check --send` against real servers with one fault each: the diagnosis and the advice."""

from __future__ import annotations

import json
import select
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from codex_otel_logging import Receiver
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli.check.sample import EVENT
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.otlp import deadlines
from codex_otel_logging.otlp.route import route_to
from support import http2
from support.collectors import (
    BAD_REQUEST,
    BUSY,
    BUSY_NO_MORE,
    FORBIDDEN,
    HANG_UP,
    JSON,
    NOT_FOUND,
    OK,
    PARTIAL,
    QUOTA,
    REDIRECT,
    TOO_LARGE,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Gate,
    HttpCollector,
    Reply,
)
from support.commands import Command
from support.fixtures import RunPython, Scripted
from support.scripted_peers import Peer, answering, drip, dripping

SECRET = "s3cr3t-t0ken"

HTTP, GRPC = "otlp-http", "otlp-grpc"


def inline(value: object) -> str:
    """Return a value as one line of TOML."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(k)} = {inline(v)}' for k, v in value.items())} }}"
    return json.dumps(value)


@dataclass(frozen=True)
class Sent:
    """The output of `check --send --json`."""

    status: int
    delivered: bool
    conversation_id: str
    steps: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        return [step["name"] for step in self.steps]

    @property
    def advice(self) -> str:
        return "; ".join(step["advice"] for step in self.steps if step["advice"])

    def text(self, name: str) -> str:
        (step,) = (step for step in self.steps if step["name"] == name)
        return str(step["text"])


Send = Callable[..., Sent]


@pytest.fixture
def send(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Send:
    """Runs `check --send --json` with an exporter of a name, an endpoint and settings.

    Checks what holds for every run: no secrets, consistent statuses, advice on a failure.
    """
    monkeypatch.setenv("OTLP_TOKEN", SECRET)

    def send(name: str, endpoint: str | None, **settings: Any) -> Sent:
        table: Any = name
        if endpoint is not None:
            headers = {"x-key": "Bearer ${OTLP_TOKEN}"}
            table = {name: {"endpoint": endpoint, "headers": headers, **settings}}
        (tmp_path / "otel.toml").write_text(f"[otel]\nexporter = {inline(table)}\n")
        status = main(["check", str(tmp_path / "otel.toml"), "--send", "--json"])
        output = capsys.readouterr()
        assert output.err == ""
        assert SECRET not in output.out
        result = json.loads(output.out)["send"]
        assert result.pop("event") == EVENT
        steps = result["steps"]
        assert all(step["took_ms"] >= 0 for step in steps)
        assert result["delivered"] == all(step["ok"] for step in steps[-1:])
        assert status == (0 if result["delivered"] else 1)
        assert result["delivered"] or steps[-1]["advice"] or steps[-2]["advice"]
        return Sent(status, **result)

    return send


def settings_of(collector: Any) -> tuple[str, str]:
    ((name, settings),) = collector.exporter.items()
    return name, settings["endpoint"]


class TestDelivery:
    def test_event_arrives_once_with_its_conversation_id(
        self, send: Send, exporter: dict[str, Any], receiver: Receiver
    ) -> None:
        ((name, settings),) = exporter.items()
        sent = send(name, settings["endpoint"])
        assert sent.names == ["name", "connection", "answer"]
        assert sent.text("answer") == "accepted"
        (event,) = receiver.wait_for(1)
        assert event.event_name == EVENT
        assert event.attributes["conversation.id"] == sent.conversation_id
        assert sent.conversation_id.startswith("check-")
        assert len(receiver.requests) == 1
        assert receiver.requests[0].headers["x-key"] == f"Bearer {SECRET}"

    def test_host_name_is_resolved(self, send: Send, receiver: Receiver) -> None:
        sent = send(HTTP, receiver.http_endpoint.replace("127.0.0.1", "localhost"))
        assert sent.delivered
        assert sent.text("name").startswith("localhost is ")

    def test_json_protocol_is_used(self, send: Send, receiver: Receiver) -> None:
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
        assert send(HTTP, receiver.http_endpoint, protocol="json").delivered

    def test_exporter_from_environment_variables_is_used(
        self, send: Send, exporter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ((name, settings),) = exporter.items()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", settings["endpoint"])
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")
        assert send(name, None).delivered

    def test_warning_of_the_collector_is_shown(
        self, send: Send, http_collector: Callable[..., HttpCollector]
    ) -> None:
        body = json.dumps({"partialSuccess": {"errorMessage": "deprecated"}}).encode()
        sent = send(HTTP, http_collector((200, JSON, body)).endpoint)
        assert sent.delivered
        assert sent.text("answer") == "accepted, with a warning: deprecated"


@pytest.mark.parametrize(
    ("reply", "over_http", "over_grpc", "advice"),
    [
        (UNAUTHENTICATED, "HTTP 401 Unauthorized: no token", "UNAUTHENTICATED", "sent: x-key"),
        (FORBIDDEN, "HTTP 403 Forbidden: not yours", "PERMISSION_DENIED", "sent: x-key"),
        (TOO_LARGE, "HTTP 413 ", "RESOURCE_EXHAUSTED", "exceeds the collector's request limit"),
        (BUSY, "HTTP 503 Service Unavailable: later", "RESOURCE_EXHAUSTED", "busy"),
        (BAD_REQUEST, "HTTP 400 Bad Request", "INVALID_ARGUMENT", "the collector's log"),
        (PARTIAL, "rejected the event (too old)", "rejected the event (too old)", "rejects such"),
    ],
)
def test_answer_of_the_collector_is_explained(
    send: Send, scripted: Scripted, reply: Reply, over_http: str, over_grpc: str, advice: str
) -> None:
    name, endpoint = settings_of(scripted(reply))
    sent = send(name, endpoint)
    assert (over_http if name == HTTP else over_grpc) in sent.text("answer")
    assert sent.names == ["name", "connection", "answer"]
    assert advice in sent.advice
    assert ("Retry-After: 2 s" in sent.text("answer")) == (reply is BUSY)


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (NOT_FOUND, "does not serve /v1/logs below this path"),
        (BUSY_NO_MORE, "busy"),
        (REDIRECT, "redirects are not followed"),
        (Reply(415), "does not accept protocol = 'binary'; try 'json'"),
        (Reply(405), "this path does not accept logs"),
        (Reply(502), "a proxy or load balancer answered"),
        (Reply(500), "the collector's log"),
    ],
)
def test_http_status_is_explained(
    send: Send, http_collector: Callable[..., HttpCollector], reply: Reply, advice: str
) -> None:
    sent = send(HTTP, http_collector(reply).endpoint)
    assert f"HTTP {reply.status}" in sent.text("answer")
    assert advice in sent.advice


def test_endpoint_without_logs_path_gets_the_complete_endpoint(
    send: Send, http_collector: Callable[..., HttpCollector]
) -> None:
    collector = http_collector(NOT_FOUND)
    base = collector.endpoint.removesuffix("/v1/logs")
    paths = ("", "/", f"/?key={SECRET}", "/v1", "/v1/", "/v1/log", "/v1/traces", "/v1/metrics/")
    for endpoint in (f"{base}{path}" for path in paths):
        assert f"try endpoint = '{collector.endpoint}'" in send(HTTP, endpoint).advice
    advice = send(HTTP, f"{base}/api/v1/otlp").advice
    assert f"try endpoint = '{base}/api/v1/otlp/v1/logs'" in advice


def test_unsupported_protocol_gets_the_other_one_as_advice(
    send: Send, http_collector: Callable[..., HttpCollector]
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    sent = send(HTTP, http_collector(Reply(415)).endpoint, protocol="json")
    assert "does not accept protocol = 'json'; try 'binary'" in sent.advice


def test_missing_credentials_are_reported_if_no_header_is_set(
    send: Send, scripted: Scripted
) -> None:
    sent = send(*settings_of(scripted(UNAUTHENTICATED)), headers={})
    assert "the request had no credentials" in sent.advice


def test_grpc_server_without_the_logs_service_is_recognized(
    send: Send, grpc_collector: Callable[..., Any]
) -> None:
    sent = send(*settings_of(grpc_collector(NOT_FOUND)))
    assert "a gRPC server without the OTLP logs service" in sent.advice


@pytest.mark.parametrize("reply", [UNAVAILABLE, HANG_UP])
def test_running_collector_that_does_not_accept_events_is_recognized(
    send: Send, grpc_collector: Callable[..., Any], reply: Any
) -> None:
    sent = send(*settings_of(grpc_collector(reply)))
    assert sent.text("port") == "the port speaks gRPC without TLS"
    assert "the collector runs, but does not accept events at present" in sent.advice


class TestNoConnection:
    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_unknown_host_is_reported(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        def unknown(host: str, *_: Any, **__: Any) -> Any:
            assert host == "does-not-exist.invalid"
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        sent = send(name, "http://does-not-exist.invalid:4317")
        assert sent.names == ["name"]
        assert sent.text("name") == (
            "unknown host does-not-exist.invalid (Name or service not known)"
        )
        assert "check the host in endpoint" in sent.advice

    def test_host_from_a_variable_is_not_shown(
        self, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        sent = send(HTTP, "http://${OTLP_TOKEN}.invalid/v1/logs")
        assert "unknown host ${OTLP_TOKEN}.invalid" in sent.text("name")

    def test_invalid_host_name_is_reported(self, send: Send) -> None:
        sent = send(HTTP, f"http://{'a' * 64}.invalid/v1/logs")
        assert "(invalid name)" in sent.text("name")

    def test_refused_connection_is_reported(
        self, send: Send, exporter: dict[str, Any], gate: Gate
    ) -> None:
        gate.refuse()
        (name,) = exporter
        sent = send(name, gate.endpoint)
        assert sent.names == ["name", "connection"]
        assert "connection refused at port" in sent.text("connection")
        assert "check that the collector is running" in sent.advice
        assert "OTLP/HTTP usually uses 4318, OTLP/gRPC 4317" in sent.advice

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_connection_timeout_is_reported(self, send: Send, name: str) -> None:
        """Like a firewall that drops packets: the backlog of this listener is full."""
        with socket.socket() as listener, ThreadPoolExecutor() as pool:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:
                each.setblocking(False)
                with suppress(BlockingIOError):
                    each.connect(listener.getsockname())
            port = listener.getsockname()[1]
            sent = pool.submit(send, name, f"http://127.0.0.1:{port}", timeout_ms=200).result(30)
            for each in waiting:
                each.close()
        assert sent.names == ["name", "connection"]
        assert sent.text("connection") == "no connection within 0.2 s"
        assert "firewalls on the route" in sent.advice

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_connection_reset_at_once_is_reported(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """After a reset, `getpeername` fails: the diagnosis must not depend on it."""
        connect = deadlines.connect

        def connect_and_wait(*arguments: Any) -> socket.socket:
            connection = connect(*arguments)
            select.select([connection], [], [], 30)
            return connection

        def reset(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        monkeypatch.setattr(deadlines, "connect", connect_and_wait)
        with Peer(reset) as peer:
            sent = send(name, f"http://127.0.0.1:{peer.port}")
        assert sent.names == ["name", "connection"]
        assert sent.text("connection").startswith("no connection: ")
        assert "check host and port in endpoint" in sent.advice


class TestGrpcAddresses:
    @pytest.mark.parametrize("endpoint", ["unix:absent.sock", "unix:///absent.sock"])
    def test_unreachable_unix_socket_is_reported(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, endpoint: str
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        sent = send(GRPC, None)
        assert sent.names == ["answer"]
        assert "gRPC UNAVAILABLE" in sent.text("answer")
        assert sent.advice == f"check that {endpoint} is the collector's address"

    def test_unix_socket_delivers(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)  # the path of a socket has at most about 100 bytes
        server = grpc.server(ThreadPoolExecutor(1))
        collector = logs_service_pb2_grpc.LogsServiceServicer()
        collector.Export = lambda *_: ExportLogsServiceResponse()  # type: ignore[method-assign]
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port("unix:c.sock")
        server.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:c.sock")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
        try:
            assert send(GRPC, None).delivered
        finally:
            server.stop(0).wait(5)


class TestNoAnswer:
    def test_silent_server_is_a_timeout(
        self, send: Send, exporter: dict[str, Any], gate: Gate
    ) -> None:
        gate.hang()
        (name,) = exporter
        sent = send(name, gate.endpoint, timeout_ms=200)
        assert sent.names == ["name", "connection", "answer", "port"]
        expected = "no answer within 0.2 s" if name == HTTP else "gRPC DEADLINE_EXCEEDED"
        assert expected in sent.text("answer")
        assert sent.text("port") == "the port speaks neither HTTP nor gRPC"
        assert "hangs, is overloaded or is not a collector" in sent.advice

    def test_listener_that_never_accepts_is_a_timeout(self, send: Send) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            sent = send(HTTP, f"http://127.0.0.1:{port}/v1/logs", timeout_ms=200)
        assert sent.text("answer") == "no answer within 0.2 s"

    def test_slow_collector_is_a_timeout_and_its_protocol_is_detected(
        self, send: Send, http_collector: Callable[..., HttpCollector]
    ) -> None:
        sent = send(HTTP, http_collector(OK, delay_s=4).endpoint, timeout_ms=1000)
        assert sent.text("answer") == "no answer within 1 s"
        assert sent.text("port") == "the port speaks HTTP/1 without TLS"

    def test_closed_connection_is_not_a_delivery(
        self, send: Send, exporter: dict[str, Any], gate: Gate
    ) -> None:
        gate.reset()
        (name,) = exporter
        sent = send(name, gate.endpoint)
        assert sent.names == ["name", "connection", "answer", "port"]
        assert not sent.delivered


class TestProtocolMismatch:
    def test_http_at_the_grpc_port_is_recognized(self, send: Send, receiver: Receiver) -> None:
        sent = send(HTTP, f"{receiver.grpc_endpoint}/v1/logs")
        assert sent.text("answer") == "no connection: the answer is not HTTP"
        assert sent.text("port") == "the port speaks gRPC without TLS"
        assert sent.advice == ("use exporter otlp-grpc, or the collector's HTTP port, usually 4318")

    def test_grpc_at_the_http_port_is_recognized(self, send: Send, receiver: Receiver) -> None:
        sent = send(GRPC, receiver.http_endpoint.removesuffix("/v1/logs"))
        assert sent.text("port") == "the port speaks HTTP/1 without TLS"
        assert sent.advice == ("use exporter otlp-http, or the collector's gRPC port, usually 4317")

    def test_tls_at_a_plaintext_port_is_recognized(
        self, send: Send, exporter: dict[str, Any]
    ) -> None:
        ((name, settings),) = exporter.items()
        sent = send(name, settings["endpoint"].replace("http://", "https://"))
        assert sent.names == ["name", "connection", "TLS", "answer", "port"]
        assert "TLS handshake failed" in sent.text("TLS")
        assert sent.text("port").endswith("without TLS")
        assert sent.advice == "begin the endpoint with http://"

    def test_plaintext_at_a_tls_port_is_recognized(self, send: Send, tls: Tls) -> None:
        name, endpoint = tls.serve()
        sent = send(name, endpoint.replace("https://", "http://"))
        assert sent.text("port").endswith(" with TLS")
        assert sent.advice == "begin the endpoint with https://"

    def test_wrong_scheme_and_wrong_protocol_are_both_reported(
        self, send: Send, receiver: Receiver
    ) -> None:
        sent = send(HTTP, f"{receiver.grpc_endpoint.replace('http:', 'https:')}/v1/logs")
        assert sent.advice.startswith("begin the endpoint with http://; use exporter otlp-grpc")


class TlsCollector(HttpCollector):
    """An `HttpCollector` that speaks TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(OK)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        secure = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return secure, address


class TlsGrpcCollector(logs_service_pb2_grpc.LogsServiceServicer):
    """Accepts everything over gRPC with TLS."""

    def __init__(self, credentials: grpc.ServerCredentials) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.server_port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def Export(self, request: Any, context: Any) -> ExportLogsServiceResponse:  # noqa: N802
        return ExportLogsServiceResponse()

    def stop(self) -> None:
        self._server.stop(0).wait(5)


class Tls:
    """A certificate authority, and collectors with its certificates."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.authority = trustme.CA()
        self._folder = folder
        self._started: list[Any] = []
        self.authority.cert_pem.write_to_path(str(folder / "authority.pem"))

    @property
    def trusting(self) -> dict[str, str]:
        return {"ca-certificate": str(self._folder / "authority.pem")}

    def client(self) -> dict[str, str]:
        """Return the `tls` setting of a client with a certificate."""
        issued = self.authority.issue_cert("client.example")
        files = {key: str(self._folder / f"{key}.pem") for key in ("certificate", "key")}
        issued.cert_chain_pems[0].write_to_path(files["certificate"])
        issued.private_key_pem.write_to_path(files["key"])
        return {
            **self.trusting,
            "client-certificate": files["certificate"],
            "client-private-key": files["key"],
        }

    def serve(
        self,
        host: str = "127.0.0.1",
        *,
        not_after: datetime | None = None,
        wants_client: bool = False,
        version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> tuple[str, str]:
        """Start a collector with a certificate for `host`; return exporter name and endpoint."""
        issued = self.authority.issue_cert(host, not_after=not_after)
        collector = (self._http if self.name == HTTP else self._grpc)(issued, wants_client, version)
        self._started.append(collector)
        path = "/v1/logs" if self.name == HTTP else ""
        return self.name, f"https://127.0.0.1:{collector.server_port}{path}"

    def _http(
        self, issued: trustme.LeafCert, wants_client: bool, version: ssl.TLSVersion
    ) -> TlsCollector:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        issued.configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return TlsCollector(context)

    def _grpc(
        self, issued: trustme.LeafCert, wants_client: bool, _: ssl.TLSVersion
    ) -> TlsGrpcCollector:
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
        authority = self.authority.cert_pem.bytes() if wants_client else None
        return TlsGrpcCollector(grpc.ssl_server_credentials([pair], authority, wants_client))

    def stop(self) -> None:
        for collector in self._started:
            collector.stop()


@pytest.fixture(params=[HTTP, GRPC])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tls]:
    tls = Tls(request.param, tmp_path)
    yield tls
    tls.stop()


class TestTls:
    def test_trusted_certificate_delivers(self, send: Send, tls: Tls) -> None:
        sent = send(*tls.serve(), tls=tls.trusting)
        assert sent.names == ["name", "connection", "TLS", "answer"]
        assert sent.text("TLS") == "TLSv1.3, the collector's certificate is valid"
        assert sent.delivered

    def test_unknown_authority_is_reported(self, send: Send, tls: Tls) -> None:
        sent = send(*tls.serve())
        assert "certificate was signed by an unknown authority" in sent.text("TLS")
        assert sent.advice.startswith("set ca-certificate in the exporter's tls table")

    def test_expired_certificate_is_reported(self, send: Send, tls: Tls) -> None:
        yesterday = datetime.now(timezone.utc) - timedelta(days=1)
        sent = send(*tls.serve(not_after=yesterday), tls=tls.trusting)
        assert "certificate has expired" in sent.text("TLS")
        assert sent.advice == "renew the certificate"

    def test_certificate_for_another_host_is_reported(self, send: Send, tls: Tls) -> None:
        sent = send(*tls.serve("collector.example"), tls=tls.trusting)
        assert "certificate is not valid for 127.0.0.1" in sent.text("TLS")
        assert sent.advice == "use a host name from the certificate in endpoint"

    def test_required_client_certificate_is_reported(self, send: Send, tls: Tls) -> None:
        name, endpoint = tls.serve(wants_client=True)
        sent = send(name, endpoint, tls=tls.trusting)
        assert not sent.delivered
        assert "a client certificate" in sent.text("port")
        assert "set client-certificate and client-private-key" in sent.advice
        assert send(name, endpoint, tls=tls.client()).delivered

    @pytest.mark.parametrize("tls", [HTTP], indirect=True)
    def test_required_client_certificate_is_reported_in_tls_1_2(self, send: Send, tls: Tls) -> None:
        name, endpoint = tls.serve(wants_client=True, version=ssl.TLSVersion.TLSv1_2)
        sent = send(name, endpoint, tls=tls.trusting)
        assert "the collector requires a client certificate" in sent.text("TLS")
        assert sent.advice.startswith("set client-certificate and client-private-key")
        assert all(step["ok"] for step in send(name, endpoint, tls=tls.client()).steps)

    def test_silent_tls_server_is_a_timeout(
        self, send: Send, exporter: dict[str, Any], gate: Gate
    ) -> None:
        gate.hang()
        (name,) = exporter
        sent = send(name, gate.endpoint.replace("http://", "https://"), timeout_ms=200)
        assert sent.names == ["name", "connection", "TLS"]
        assert sent.text("TLS") == "no answer to the TLS handshake"

    @pytest.mark.parametrize("tls", [HTTP], indirect=True)
    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_authorities_of_requests_variables_are_trusted(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, tls.trusting["ca-certificate"])
        sent = send(*tls.serve())
        assert sent.delivered
        assert all(step["ok"] for step in sent.steps)

    @pytest.mark.parametrize("tls", [GRPC], indirect=True)
    def test_certificate_trusted_by_the_machine_but_not_by_grpc_is_explained(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The probe trusts the system's authorities, gRPC brings its own: the exporter decides."""
        monkeypatch.setenv("SSL_CERT_FILE", tls.trusting["ca-certificate"])
        sent = send(*tls.serve())
        assert "the collector's certificate is valid" in sent.text("TLS")
        assert "gRPC UNAVAILABLE" in sent.text("answer")
        assert "this machine trusts the collector's certificate, gRPC does not" in sent.advice
        assert "set ca-certificate in the exporter's tls table" in sent.advice

    def test_certificates_from_environment_variables_are_used(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, endpoint = tls.serve(wants_client=True)
        client = tls.client()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", client["ca-certificate"])
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", client["client-certificate"]
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", client["client-private-key"])
        sent = send(name, None)
        assert sent.delivered
        assert all(step["ok"] for step in sent.steps)

    @pytest.mark.parametrize("tls", [HTTP], indirect=True)
    def test_missing_certificate_file_is_reported(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, endpoint = tls.serve()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "absent.pem")
        sent = send(name, endpoint)
        assert "the certificates cannot be loaded (No such file or directory)" in sent.text("TLS")
        assert "check the files in the exporter's tls table" in sent.advice


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy that opens tunnels and forwards requests, or refuses both."""

    daemon_threads = True

    def __init__(self) -> None:
        self.refusal: int | None = None
        self.asked: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if self._is_refused():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as collector:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(collector, self.connection), daemon=True)
            back.start()
            _pump(self.connection, collector)
            back.join(5)
        self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_refused():
            import requests

            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(self.path, body, headers=dict(self.headers))
            self.send_response(answer.status_code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _is_refused(self) -> bool:
        asked = (self.command, self.path, self.headers.get("Proxy-Authorization"))
        self.server.asked.append(asked)
        if self.server.refusal:
            self.send_response(self.server.refusal)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return bool(self.server.refusal)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy
        proxy.shutdown()


class TestProxies:
    @pytest.fixture(autouse=True)
    def variables(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        address = f"127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@{address}")
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@{address}")
        monkeypatch.setenv("grpc_proxy", f"http://user:{SECRET}@{address}")

    def test_tls_goes_through_a_tunnel(self, send: Send, tls: Tls, proxy: Proxy) -> None:
        name, endpoint = tls.serve()
        sent = send(name, endpoint, tls=tls.trusting)
        assert sent.delivered
        assert sent.names == ["name", "connection", "tunnel", "TLS", "answer"]
        variable = "HTTPS_PROXY" if name == HTTP else "grpc_proxy"
        assert sent.text("name") == f"127.0.0.1, the proxy from {variable}, is 127.0.0.1"
        probe, exporters = proxy.asked
        assert probe == exporters
        assert probe[2] is not None

    def test_plaintext_grpc_goes_through_a_tunnel(
        self, send: Send, receiver: Receiver, proxy: Proxy
    ) -> None:
        sent = send(GRPC, receiver.grpc_endpoint)
        assert sent.names == ["name", "connection", "tunnel", "answer"]
        assert sent.delivered

    def test_plaintext_http_is_forwarded_without_a_tunnel(
        self, send: Send, receiver: Receiver, proxy: Proxy
    ) -> None:
        sent = send(HTTP, receiver.http_endpoint)
        assert sent.delivered
        assert sent.names == ["name", "connection", "answer"]
        assert "the proxy from HTTP_PROXY" in sent.text("name")
        assert [asked[:2] for asked in proxy.asked] == [("POST", receiver.http_endpoint)]

    def test_required_proxy_authentication_is_reported(
        self, send: Send, tls: Tls, proxy: Proxy
    ) -> None:
        proxy.refusal = 407
        sent = send(*tls.serve(), tls=tls.trusting)
        assert sent.names == ["name", "connection", "tunnel"]
        assert "proxy authentication required (407 " in sent.text("tunnel")
        assert "set user and password in" in sent.advice

    def test_refused_tunnel_is_reported(self, send: Send, tls: Tls, proxy: Proxy) -> None:
        proxy.refusal = 403
        sent = send(*tls.serve(), tls=tls.trusting)
        assert "the proxy refused to connect to the collector (403 " in sent.text("tunnel")
        assert "add its host to no_proxy" in sent.advice

    def test_required_authentication_for_plaintext_is_reported(
        self, send: Send, receiver: Receiver, proxy: Proxy
    ) -> None:
        proxy.refusal = 407
        sent = send(HTTP, receiver.http_endpoint)
        assert "HTTP 407" in sent.text("answer")
        assert "the proxy requires a user and password" in sent.advice

    def test_refused_connection_to_the_proxy_is_reported(
        self, send: Send, receiver: Receiver, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
            sent = send(HTTP, receiver.http_endpoint)
        assert sent.names == ["name", "connection"]
        assert sent.advice == "check the address in HTTP_PROXY and that the proxy is running"

    @pytest.mark.parametrize(
        ("name", "address", "port"),
        [
            (HTTP, "http://p", 80),
            (HTTP, "p", 80),
            (HTTP, "https://p", 443),
            (HTTP, "socks5h://p", 1080),
            (HTTP, "https://p:80", 80),
            (GRPC, "http://p", 443),
            (GRPC, "http://p:80", 80),
        ],
    )
    def test_proxy_without_a_port_has_the_default_one_of_the_exporter(
        self, monkeypatch: pytest.MonkeyPatch, name: Any, address: str, port: int
    ) -> None:
        """urllib3 and PySocks go by the scheme. gRPC takes 443, although its scheme is http."""
        monkeypatch.setenv("HTTPS_PROXY" if name == HTTP else "grpc_proxy", address)
        route = route_to(ExporterConfig(name, "https://collector.example:4317"))
        assert route is not None
        assert route.first == ("p", port)

    @pytest.mark.parametrize(
        ("environ", "bypassed"),
        [
            ({"no_proxy": "collector.example"}, True),
            ({"no_proxy": "a, .COLLECTOR.example"}, True),
            ({"no_proxy": "example"}, True),
            ({"no_proxy": "llector.example"}, False),
            ({"no_proxy": "*, .,,"}, False),
            ({"no_proxy": "collector.example", "no_grpc_proxy": ""}, False),
            ({"grpc_proxy": "", "https_proxy": "http://p"}, True),
        ],
        ids=str,
    )
    def test_proxy_of_grpc_is_bypassed_as_grpc_does(
        self, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], bypassed: bool
    ) -> None:
        """For gRPC, unlike requests, a variable that is empty is set."""
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)
        route = route_to(ExporterConfig("otlp-grpc", "https://collector.example:4317"))
        assert route is not None
        assert (route.proxy is None) is bypassed

    def test_empty_entries_of_no_proxy_match_no_absolute_host_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("no_proxy", ".,,")
        route = route_to(ExporterConfig("otlp-grpc", "https://collector.example.:4317"))
        assert route is not None
        assert route.proxy is not None

    def test_silent_proxy_is_reported(
        self, send: Send, exporter: dict[str, Any], gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate.hang()
        port = gate.endpoint.split(":")[2].split("/")[0]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{port}")
        (name,) = exporter
        sent = send(name, "https://127.0.0.1:4318", timeout_ms=200)
        assert sent.text("tunnel") == "no answer from the proxy (timed out)"
        assert "is the address of an HTTP proxy" in sent.advice

    def test_silent_proxy_for_plaintext_http_is_reported(
        self, send: Send, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate.hang()
        port = gate.endpoint.split(":")[2].split("/")[0]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        sent = send(HTTP, "http://127.0.0.1:4318/v1/logs", timeout_ms=200)
        assert "the proxy from HTTP_PROXY hides the collector" in sent.text("port")

    def test_proxy_that_does_not_speak_http_is_reported(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, endpoint = tls.serve()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet() -> None:
                with listener.accept()[0] as connection:
                    connection.sendall(b"220 mail.example.com\r\n\r\n")
                    connection.recv(1000)

            threading.Thread(target=greet, daemon=True).start()
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{listener.getsockname()[1]}")
            sent = send(name, endpoint, tls=tls.trusting)
        assert sent.text("tunnel") == "the proxy's answer is not HTTP"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_invalid_host_name_behind_a_proxy_is_reported(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with Peer(dripping(b"", first=b"HTTP/1.1 200 Connection established\r\n\r\n")) as proxy:
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
            sent = send(name, f"https://{'a' * 64}.invalid")
        assert sent.names == ["name", "connection", "tunnel", "TLS"]
        assert sent.text("TLS") == f"invalid host name for TLS: {'a' * 64}.invalid"
        assert sent.advice == "check the host in endpoint"

    def test_invalid_host_name_behind_a_proxy_does_not_stop_protocol_detection(
        self, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Peer(dripping(b"", first=b"HTTP/1.1 200 Connection established\r\n\r\n")) as proxy:
            monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{proxy.port}")
            sent = send(GRPC, f"http://{'a' * 64}.invalid", timeout_ms=500)
        assert sent.text("port") == "the port speaks neither HTTP nor gRPC"

    @pytest.mark.parametrize(
        ("exceptions", "without"),
        [
            ("127.0.0.1", (HTTP, GRPC)),
            ("example.com, 127.0.0.0/8", (HTTP, GRPC)),
            ("0.0.1", (HTTP, GRPC)),
            ("example.com", ()),
        ],
    )
    def test_no_proxy_excludes_hosts(
        self,
        send: Send,
        exporter: dict[str, Any],
        proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch,
        exceptions: str,
        without: tuple[str, ...],
    ) -> None:
        ((name, settings),) = exporter.items()
        monkeypatch.setenv("no_proxy", exceptions)
        sent = send(name, settings["endpoint"])
        assert sent.delivered
        assert ("the proxy" in sent.text("name")) == (name not in without)
        assert bool(proxy.asked) == (name not in without)


@pytest.mark.parametrize("reply", [UNAUTHENTICATED, UNAVAILABLE])
def test_log_messages_of_the_libraries_are_not_printed(
    run_python: RunPython, scripted: Scripted, tmp_path: Path, reply: Reply
) -> None:
    exporter = scripted(reply).exporter
    (tmp_path / "otel.toml").write_text(f"[otel]\nexporter = {inline(exporter)}\n")
    program = (
        "import sys; from codex_otel_logging.__main__ import main; "
        "sys.exit(main(['check', 'otel.toml', '--send']))"
    )
    done = run_python(program)
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.endswith("NOT delivered.\n")


def test_exception_in_the_exporter_is_reported_without_its_text(
    send: Send, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    """An exception of a library causes no traceback, and its text may hold secrets."""
    from codex_otel_logging.otlp.http_exporter import HttpExporter

    def fall(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(HttpExporter, "export", fall)
    sent = send(HTTP, receiver.http_endpoint)
    assert sent.text("answer") == "the exporter failed: RuntimeError"
    monkeypatch.setattr(HttpExporter, "__init__", fall)
    sent = send(HTTP, receiver.http_endpoint)
    assert sent.names == ["exporter"]
    assert sent.text("exporter") == "the exporter cannot be built: RuntimeError: ***"


@pytest.mark.parametrize("name", [HTTP, GRPC])
def test_ctrl_c_ends_the_wait_for_an_answer(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        table = {name: {"endpoint": endpoint, "timeout_ms": 60_000}}
        (tmp_path / "otel.toml").write_text(f"[otel]\nexporter = {inline(table)}\n")
        with Command("check", "otel.toml", "--send", home=tmp_path) as command:
            with listener.accept()[0], listener.accept()[0] as exporters:
                assert exporters.recv(1)
                assert command.end(signal.SIGINT) == 130
            assert command.errors == ""
            assert "connected to 127.0.0.1" in command.output


class TestWebPages:
    @pytest.mark.parametrize("protocol", ["binary", "json"])
    @pytest.mark.parametrize("status", [200, 202])
    def test_web_page_is_not_a_delivery(
        self,
        send: Send,
        http_collector: Callable[..., HttpCollector],
        protocol: str,
        status: int,
    ) -> None:
        if protocol == "json":
            pytest.importorskip("opentelemetry.exporter.otlp.json.http")
        collector = http_collector((status, {"Content-Type": "text/html"}, b"<html></html>"))
        sent = send(HTTP, collector.endpoint, protocol=protocol)
        assert not sent.delivered
        assert sent.names == ["name", "connection", "answer"]
        assert sent.text("answer").startswith(f"the answer is a web page (HTTP {status} ")
        assert f"check that {collector.endpoint} is the collector's address" in sent.advice

    def test_empty_answer_as_html_is_a_delivery(
        self, send: Send, http_collector: Callable[..., HttpCollector]
    ) -> None:
        assert send(
            HTTP, http_collector((200, {"Content-Type": "text/html"}, b"")).endpoint
        ).delivered


def test_exhausted_quota_is_reported(send: Send, grpc_collector: Callable[..., Any]) -> None:
    sent = send(*settings_of(grpc_collector(QUOTA)))
    assert "a quota is exhausted" in sent.advice


SLOW = b"X-Slow: " + b"a" * 200 + b"\r\n"
"""A header that takes four seconds when sent byte by byte."""


class TestSlowPeers:
    """Every step ends at the timeout, even if single bytes keep arriving."""

    @pytest.mark.parametrize("protocol", ["binary", "json"])
    def test_slow_http_answer_times_out(self, send: Send, protocol: str) -> None:
        if protocol == "json":
            pytest.importorskip("opentelemetry.exporter.otlp.json.http")
        with Peer(dripping(SLOW + b"\r\n", first=b"HTTP/1.1 200 OK\r\n")) as peer:
            url = f"http://127.0.0.1:{peer.port}/v1/logs"
            sent = send(HTTP, url, timeout_ms=1000, protocol=protocol)
        assert sent.text("answer") == "no answer within 1 s"
        assert sent.text("port") == "the port speaks HTTP/1 without TLS"

    def test_slow_grpc_call_times_out(self, send: Send) -> None:
        with Peer(http2.answering(lambda stream: http2.headers(stream, http2.GRPC))) as peer:
            sent = send(GRPC, f"http://127.0.0.1:{peer.port}", timeout_ms=1000)
        assert sent.text("answer").startswith("gRPC DEADLINE_EXCEEDED: ")
        assert sent.text("port") == "the port speaks gRPC without TLS"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_slow_proxy_times_out(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        slow = dripping(SLOW + b"\r\n", first=b"HTTP/1.1 200 Connection established\r\n")
        with Peer(slow) as proxy:
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
            sent = send(name, "https://127.0.0.1:4318", timeout_ms=200)
        assert sent.text("tunnel") == "no answer from the proxy (timed out)"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_interim_answers_of_a_proxy_are_skipped(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        with Peer(answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" + refusal)) as proxy:
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
            sent = send(name, "https://127.0.0.1:4318", timeout_ms=2000)
        assert "refused to connect to the collector (403 Forbidden)" in sent.text("tunnel")

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_slow_tls_handshake_times_out(self, send: Send, name: str) -> None:
        def serve(connection: socket.socket) -> None:
            connection.recv(65_536)
            drip(connection, b"\x16\x03\x03\x40\x00" + bytes(200))

        with Peer(serve) as peer:
            sent = send(name, f"https://127.0.0.1:{peer.port}", timeout_ms=200)
        assert sent.text("TLS") == "no answer to the TLS handshake"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_slow_protocol_detection_times_out(self, send: Send, name: str) -> None:
        """The timeout also limits protocol detection."""

        def serve(connection: socket.socket) -> None:
            drip(connection, b"HTTP/1.1 200 OK\r\n" + SLOW, 0.06)

        with Peer(serve) as peer:
            sent = send(name, f"http://127.0.0.1:{peer.port}", timeout_ms=200)
        assert sent.text("port") == "the port speaks neither HTTP nor gRPC"
