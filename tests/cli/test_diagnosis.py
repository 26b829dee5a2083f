"""`check --send` against real servers with each fault: it must tell them apart, and what to do."""

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
from codex_otel_logging.otlp import deadlines
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
    """A value as TOML has it on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(k)} = {inline(v)}' for k, v in value.items())} }}"
    return json.dumps(value)


@dataclass(frozen=True)
class Sent:
    """What `check --send --json` said."""

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
    """Sends over an exporter of the given name, endpoint and settings."""
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
        said = json.loads(output.out)["send"]
        assert said.pop("event") == EVENT
        assert all(step["took_ms"] >= 0 for step in said["steps"])
        assert said["delivered"] == all(step["ok"] for step in said["steps"][-1:])
        assert status == (0 if said["delivered"] else 1)
        assert said["delivered"] or said["steps"][-1]["advice"] or said["steps"][-2]["advice"]
        return Sent(status, **said)

    return send


def settings_of(collector: Any) -> tuple[str, str]:
    ((name, settings),) = collector.exporter.items()
    return name, settings["endpoint"]


class TestDelivered:
    def test_once_and_marked(
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

    def test_a_name_is_looked_up(self, send: Send, receiver: Receiver) -> None:
        sent = send(HTTP, receiver.http_endpoint.replace("127.0.0.1", "localhost"))
        assert sent.delivered
        assert sent.text("name").startswith("localhost is ")

    def test_as_json(self, send: Send, receiver: Receiver) -> None:
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
        assert send(HTTP, receiver.http_endpoint, protocol="json").delivered

    def test_as_the_environment_says(
        self, send: Send, exporter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ((name, settings),) = exporter.items()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", settings["endpoint"])
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")
        assert send(name, None).delivered

    def test_with_a_warning(self, send: Send, http_collector: Callable[..., HttpCollector]) -> None:
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
def test_answers(
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
def test_answers_over_http(
    send: Send, http_collector: Callable[..., HttpCollector], reply: Reply, advice: str
) -> None:
    sent = send(HTTP, http_collector(reply).endpoint)
    assert f"HTTP {reply.status}" in sent.text("answer")
    assert advice in sent.advice


def test_a_path_that_lacks_its_end_is_completed(
    send: Send, http_collector: Callable[..., HttpCollector]
) -> None:
    collector = http_collector(NOT_FOUND)
    base = collector.endpoint.removesuffix("/v1/logs")
    for endpoint in (base, f"{base}/", f"{base}/?key={SECRET}"):
        assert f"try endpoint = '{collector.endpoint}'" in send(HTTP, endpoint).advice


def test_the_other_protocol_is_proposed(
    send: Send, http_collector: Callable[..., HttpCollector]
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    sent = send(HTTP, http_collector(Reply(415)).endpoint, protocol="json")
    assert "does not accept protocol = 'json'; try 'binary'" in sent.advice


def test_without_headers_none_is_named(send: Send, scripted: Scripted) -> None:
    sent = send(*settings_of(scripted(UNAUTHENTICATED)), headers={})
    assert "the request had no credentials" in sent.advice


def test_unimplemented(send: Send, grpc_collector: Callable[..., Any]) -> None:
    sent = send(*settings_of(grpc_collector(NOT_FOUND)))
    assert "a gRPC server without the OTLP logs service" in sent.advice


@pytest.mark.parametrize("reply", [UNAVAILABLE, HANG_UP])
def test_a_collector_that_is_there_but_takes_nothing(
    send: Send, grpc_collector: Callable[..., Any], reply: Any
) -> None:
    sent = send(*settings_of(grpc_collector(reply)))
    assert sent.text("port") == "the port speaks gRPC without TLS"
    assert "the collector runs, but does not accept events at present" in sent.advice


class TestNoConnection:
    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_a_name_that_nobody_has(
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

    def test_a_name_from_a_variable_is_not_shown(
        self, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        sent = send(HTTP, "http://${OTLP_TOKEN}.invalid/v1/logs")
        assert "unknown host ${OTLP_TOKEN}.invalid" in sent.text("name")

    def test_what_is_no_name(self, send: Send) -> None:
        sent = send(HTTP, f"http://{'a' * 64}.invalid/v1/logs")
        assert "(invalid name)" in sent.text("name")

    def test_nobody_listens(self, send: Send, exporter: dict[str, Any], gate: Gate) -> None:
        gate.refuse()
        (name,) = exporter
        sent = send(name, gate.endpoint)
        assert sent.names == ["name", "connection"]
        assert "connection refused at port" in sent.text("connection")
        assert "check that the collector is running" in sent.advice
        assert "OTLP/HTTP usually uses 4318, OTLP/gRPC 4317" in sent.advice

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_nobody_answers_a_connection(self, send: Send, name: str) -> None:
        """As behind a firewall: a listener whose queue is full drops what comes."""
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
    def test_reset_before_the_peers_address_is_read(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """The system forgets the address of a peer that has reset the connection."""
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


class TestOddAddresses:
    @pytest.mark.parametrize("endpoint", ["unix:absent.sock", "unix:///absent.sock"])
    def test_one_that_is_no_host(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, endpoint: str
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        sent = send(GRPC, None)
        assert sent.names == ["answer"]
        assert "gRPC UNAVAILABLE" in sent.text("answer")
        assert sent.advice == f"check that {endpoint} is the collector's address"

    def test_a_socket_in_the_file_system(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)  # a long path is no socket's name
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
    def test_something_listens_and_is_silent(
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

    def test_nobody_accepts(self, send: Send) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            sent = send(HTTP, f"http://127.0.0.1:{port}/v1/logs", timeout_ms=200)
        assert sent.text("answer") == "no answer within 0.2 s"

    def test_a_collector_that_is_slow(
        self, send: Send, http_collector: Callable[..., HttpCollector]
    ) -> None:
        sent = send(HTTP, http_collector(OK, delay_s=2).endpoint, timeout_ms=200)
        assert sent.text("answer") == "no answer within 0.2 s"
        assert sent.text("port") == "the port speaks HTTP/1 without TLS"

    def test_it_hangs_up(self, send: Send, exporter: dict[str, Any], gate: Gate) -> None:
        gate.reset()
        (name,) = exporter
        sent = send(name, gate.endpoint)
        assert sent.names == ["name", "connection", "answer", "port"]
        assert not sent.delivered


class TestOtherProtocols:
    def test_http_to_the_port_for_grpc(self, send: Send, receiver: Receiver) -> None:
        sent = send(HTTP, f"{receiver.grpc_endpoint}/v1/logs")
        assert sent.text("answer") == "no connection: the answer is not HTTP"
        assert sent.text("port") == "the port speaks gRPC without TLS"
        assert sent.advice == ("use exporter otlp-grpc, or the collector's HTTP port, usually 4318")

    def test_grpc_to_the_port_for_http(self, send: Send, receiver: Receiver) -> None:
        sent = send(GRPC, receiver.http_endpoint.removesuffix("/v1/logs"))
        assert sent.text("port") == "the port speaks HTTP/1 without TLS"
        assert sent.advice == ("use exporter otlp-http, or the collector's gRPC port, usually 4317")

    def test_tls_to_a_port_without(self, send: Send, exporter: dict[str, Any]) -> None:
        ((name, settings),) = exporter.items()
        sent = send(name, settings["endpoint"].replace("http://", "https://"))
        assert sent.names == ["name", "connection", "TLS", "answer", "port"]
        assert "TLS handshake failed" in sent.text("TLS")
        assert sent.text("port").endswith("without TLS")
        assert sent.advice == "begin the endpoint with http://"

    def test_plaintext_to_a_port_with_tls(self, send: Send, tls: Tls) -> None:
        name, endpoint = tls.serve()
        sent = send(name, endpoint.replace("https://", "http://"))
        assert sent.text("port").endswith(" with TLS")
        assert sent.advice == "begin the endpoint with https://"

    def test_both_are_wrong(self, send: Send, receiver: Receiver) -> None:
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
    """Takes everything over gRPC with TLS."""

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
    """Certificates of an authority of its own, and collectors that show them."""

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
        """The `tls` setting of a client that has a certificate."""
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
        """Start a collector with a certificate for `host`; return exporter and endpoint."""
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
    def test_trusted(self, send: Send, tls: Tls) -> None:
        sent = send(*tls.serve(), tls=tls.trusting)
        assert sent.names == ["name", "connection", "TLS", "answer"]
        assert sent.text("TLS") == "TLSv1.3, the collector's certificate is valid"
        assert sent.delivered

    def test_an_unknown_authority(self, send: Send, tls: Tls) -> None:
        sent = send(*tls.serve())
        assert "certificate was signed by an unknown authority" in sent.text("TLS")
        assert sent.advice.startswith("set ca-certificate in the exporter's tls table")

    def test_an_expired_certificate(self, send: Send, tls: Tls) -> None:
        yesterday = datetime.now(timezone.utc) - timedelta(days=1)
        sent = send(*tls.serve(not_after=yesterday), tls=tls.trusting)
        assert "certificate has expired" in sent.text("TLS")
        assert sent.advice == "renew the certificate"

    def test_another_host(self, send: Send, tls: Tls) -> None:
        sent = send(*tls.serve("collector.example"), tls=tls.trusting)
        assert "certificate is not valid for 127.0.0.1" in sent.text("TLS")
        assert sent.advice == "use a host name from the certificate in endpoint"

    def test_a_clients_certificate_is_wanted(self, send: Send, tls: Tls) -> None:
        name, endpoint = tls.serve(wants_client=True)
        sent = send(name, endpoint, tls=tls.trusting)
        assert not sent.delivered
        assert "a client certificate" in sent.text("port")
        assert "set client-certificate and client-private-key" in sent.advice
        assert send(name, endpoint, tls=tls.client()).delivered

    @pytest.mark.parametrize("tls", [HTTP], indirect=True)
    def test_a_clients_certificate_is_wanted_in_older_tls(self, send: Send, tls: Tls) -> None:
        name, endpoint = tls.serve(wants_client=True, version=ssl.TLSVersion.TLSv1_2)
        sent = send(name, endpoint, tls=tls.trusting)
        assert "the collector requires a client certificate" in sent.text("TLS")
        assert sent.advice.startswith("set client-certificate and client-private-key")
        assert all(step["ok"] for step in send(name, endpoint, tls=tls.client()).steps)

    def test_something_listens_and_is_silent(
        self, send: Send, exporter: dict[str, Any], gate: Gate
    ) -> None:
        gate.hang()
        (name,) = exporter
        sent = send(name, gate.endpoint.replace("http://", "https://"), timeout_ms=200)
        assert sent.names == ["name", "connection", "TLS"]
        assert sent.text("TLS") == "no answer to the TLS handshake"

    @pytest.mark.parametrize("tls", [HTTP], indirect=True)
    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_the_machines_authorities(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, tls.trusting["ca-certificate"])
        sent = send(*tls.serve())
        assert sent.delivered
        assert all(step["ok"] for step in sent.steps)

    @pytest.mark.parametrize("tls", [GRPC], indirect=True)
    def test_grpc_trusts_less_than_the_machine(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then the exporter's word counts, and what it lacks is said all the same."""
        monkeypatch.setenv("SSL_CERT_FILE", tls.trusting["ca-certificate"])
        sent = send(*tls.serve())
        assert "the collector's certificate is valid" in sent.text("TLS")
        assert "gRPC UNAVAILABLE" in sent.text("answer")
        assert "this machine trusts the collector's certificate, gRPC does not" in sent.advice
        assert "set ca-certificate in the exporter's tls table" in sent.advice

    def test_certificates_of_the_environment(
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
    def test_certificates_that_are_not_there(
        self, send: Send, tls: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, endpoint = tls.serve()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "absent.pem")
        sent = send(name, endpoint)
        assert "the certificates cannot be loaded (No such file or directory)" in sent.text("TLS")
        assert "check the files in the exporter's tls table" in sent.advice


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy that makes tunnels and passes requests on, or refuses to."""

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

    def test_a_tunnel(self, send: Send, tls: Tls, proxy: Proxy) -> None:
        name, endpoint = tls.serve()
        sent = send(name, endpoint, tls=tls.trusting)
        assert sent.delivered
        assert sent.names == ["name", "connection", "tunnel", "TLS", "answer"]
        variable = "HTTPS_PROXY" if name == HTTP else "grpc_proxy"
        assert sent.text("name") == f"127.0.0.1, the proxy from {variable}, is 127.0.0.1"
        probe, exporters = proxy.asked
        assert probe == exporters
        assert probe[2] is not None

    def test_a_tunnel_for_plaintext_grpc(
        self, send: Send, receiver: Receiver, proxy: Proxy
    ) -> None:
        sent = send(GRPC, receiver.grpc_endpoint)
        assert sent.names == ["name", "connection", "tunnel", "answer"]
        assert sent.delivered

    def test_plaintext_http_is_passed_on(
        self, send: Send, receiver: Receiver, proxy: Proxy
    ) -> None:
        sent = send(HTTP, receiver.http_endpoint)
        assert sent.delivered
        assert sent.names == ["name", "connection", "answer"]
        assert "the proxy from HTTP_PROXY" in sent.text("name")
        assert [asked[:2] for asked in proxy.asked] == [("POST", receiver.http_endpoint)]

    def test_it_wants_to_know_who_asks(self, send: Send, tls: Tls, proxy: Proxy) -> None:
        proxy.refusal = 407
        sent = send(*tls.serve(), tls=tls.trusting)
        assert sent.names == ["name", "connection", "tunnel"]
        assert "proxy authentication required (407 " in sent.text("tunnel")
        assert "set user and password in" in sent.advice

    def test_it_refuses(self, send: Send, tls: Tls, proxy: Proxy) -> None:
        proxy.refusal = 403
        sent = send(*tls.serve(), tls=tls.trusting)
        assert "the proxy refused to connect to the collector (403 " in sent.text("tunnel")
        assert "add its host to no_proxy" in sent.advice

    def test_it_refuses_plaintext(self, send: Send, receiver: Receiver, proxy: Proxy) -> None:
        proxy.refusal = 407
        sent = send(HTTP, receiver.http_endpoint)
        assert "HTTP 407" in sent.text("answer")
        assert "the proxy requires a user and password" in sent.advice

    def test_nobody_listens(
        self, send: Send, receiver: Receiver, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        sent = send(HTTP, receiver.http_endpoint)
        assert sent.names == ["name", "connection"]
        assert sent.advice == "check the address in HTTP_PROXY and that the proxy is running"

    def test_what_is_no_proxy(
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

    def test_a_silent_proxy_for_plaintext_http(
        self, send: Send, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate.hang()
        port = gate.endpoint.split(":")[2].split("/")[0]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        sent = send(HTTP, "http://127.0.0.1:4318/v1/logs", timeout_ms=200)
        assert "the proxy from HTTP_PROXY hides the collector" in sent.text("port")

    def test_what_answers_in_no_http(
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
    def test_name_behind_a_proxy_that_is_invalid_in_tls(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with Peer(dripping(b"", first=b"HTTP/1.1 200 Connection established\r\n\r\n")) as proxy:
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
            sent = send(name, f"https://{'a' * 64}.invalid")
        assert sent.names == ["name", "connection", "tunnel", "TLS"]
        assert sent.text("TLS") == f"invalid host name for TLS: {'a' * 64}.invalid"
        assert sent.advice == "check the host in endpoint"

    def test_name_behind_a_proxy_that_is_invalid_in_tls_is_no_fault_of_the_port(
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
    def test_exceptions(
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
def test_what_the_libraries_log_is_not_repeated(
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


def test_what_the_exporter_falls_over(
    send: Send, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    """Nothing that a library raises ends in a trace, or is repeated."""
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
def test_control_c_while_it_waits_for_an_answer(tmp_path: Path, name: str) -> None:
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


def test_quota(send: Send, grpc_collector: Callable[..., Any]) -> None:
    sent = send(*settings_of(grpc_collector(QUOTA)))
    assert "a quota is exhausted" in sent.advice


SLOW = b"X-Slow: " + b"a" * 200 + b"\r\n"
"""A header that takes four seconds, one byte at a time."""


class TestSlowPeers:
    """Every step ends at the timeout, even if a byte arrives now and then."""

    @pytest.mark.parametrize("protocol", ["binary", "json"])
    def test_slow_answer(self, send: Send, protocol: str) -> None:
        if protocol == "json":
            pytest.importorskip("opentelemetry.exporter.otlp.json.http")
        with Peer(dripping(SLOW + b"\r\n", first=b"HTTP/1.1 200 OK\r\n")) as peer:
            url = f"http://127.0.0.1:{peer.port}/v1/logs"
            sent = send(HTTP, url, timeout_ms=200, protocol=protocol)
        assert sent.text("answer") == "no answer within 0.2 s"
        assert sent.text("port") == "the port speaks HTTP/1 without TLS"

    def test_slow_call(self, send: Send) -> None:
        with Peer(http2.answering(lambda stream: http2.headers(stream, http2.GRPC))) as peer:
            sent = send(GRPC, f"http://127.0.0.1:{peer.port}", timeout_ms=200)
        assert sent.text("answer").startswith("gRPC DEADLINE_EXCEEDED: ")
        assert sent.text("port") == "the port speaks gRPC without TLS"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_slow_proxy(self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        slow = dripping(SLOW + b"\r\n", first=b"HTTP/1.1 200 Connection established\r\n")
        with Peer(slow) as proxy:
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
            sent = send(name, "https://127.0.0.1:4318", timeout_ms=200)
        assert sent.text("tunnel") == "no answer from the proxy (timed out)"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_proxy_with_an_interim_answer(
        self, send: Send, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        with Peer(answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" + refusal)) as proxy:
            for variable in ("HTTPS_PROXY", "grpc_proxy"):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
            sent = send(name, "https://127.0.0.1:4318", timeout_ms=2000)
        assert "refused to connect to the collector (403 Forbidden)" in sent.text("tunnel")

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_slow_handshake(self, send: Send, name: str) -> None:
        def serve(connection: socket.socket) -> None:
            connection.recv(65_536)
            drip(connection, b"\x16\x03\x03\x40\x00" + bytes(200))

        with Peer(serve) as peer:
            sent = send(name, f"https://127.0.0.1:{peer.port}", timeout_ms=200)
        assert sent.text("TLS") == "no answer to the TLS handshake"

    @pytest.mark.parametrize("name", [HTTP, GRPC])
    def test_slow_probe(self, send: Send, name: str) -> None:
        """Detecting the protocol of the port is limited, too."""

        def serve(connection: socket.socket) -> None:
            drip(connection, b"HTTP/1.1 200 OK\r\n" + SLOW, 0.06)

        with Peer(serve) as peer:
            sent = send(name, f"http://127.0.0.1:{peer.port}", timeout_ms=200)
        assert sent.text("port") == "the port speaks neither HTTP nor gRPC"
