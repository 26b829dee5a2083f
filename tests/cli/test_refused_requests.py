"""Refused requests: the receiver and `listen` report the reason, and advice for the sender."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from codex_otel_logging import Receiver
from codex_otel_logging.cli.listen import command as listen
from codex_otel_logging.cli.listen import json_view, refusals
from codex_otel_logging.cli.listen.refusals import Refusals
from codex_otel_logging.receiver import RefusedRequest
from support.commands import Command
from support.pages import page

COMMANDS = page("commands")
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
FREE_PORTS = ("--http-port", "0", "--grpc-port", "0")
JSON = "Content-Type: application/json\r\n"
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


class Refused(list[RefusedRequest]):
    """The refused requests of a receiver, in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self._arrival = threading.Condition()

    def put(self, refused: RefusedRequest) -> None:
        with self._arrival:
            self.append(refused)
            self._arrival.notify_all()

    def first(self) -> RefusedRequest:
        """Wait for the first one and return it."""
        with self._arrival:
            assert self._arrival.wait_for(lambda: bool(self), timeout=10)
        return self[0]


@pytest.fixture
def refused() -> Refused:
    return Refused()


@pytest.fixture
def receiver(refused: Refused) -> Iterator[Receiver]:
    with Receiver(on_refused=refused.put) as receiver:
        yield receiver


def address(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def exchange(endpoint: str, sent: bytes) -> bytes:
    """Send bytes on a new connection, and return everything received until it is closed."""
    with socket.create_connection(address(endpoint), timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    return answer


def http_request(line: str, headers: str = "", body: bytes = b"") -> bytes:
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("request_", "status", "reason", "advice"),
    [
        pytest.param(
            http_request("POST /v1/log", JSON, b"{}"),
            404,
            "POST /v1/log: unknown path",
            "set the sender's endpoint to {http}",
            id="unknown path",
        ),
        pytest.param(
            http_request("POST /?token=secret", JSON, b"{}"),
            404,
            "POST /: unknown path",
            "set the sender's endpoint to {http}",
            id="no path, and a query, which is not repeated",
        ),
        pytest.param(
            http_request("POST /v1/logs/v1/logs", JSON, b"{}"),
            404,
            "POST /v1/logs/v1/logs: unknown path",
            "the sender appends the path itself: set its endpoint to {base}",
            id="path appended twice",
        ),
        pytest.param(
            http_request("POST /v1/traces", JSON, b"{}"),
            404,
            "POST /v1/traces: traces are not accepted, only logs",
            "turn off the sender's traces exporter, or point it at a collector for traces",
            id="traces",
        ),
        pytest.param(
            http_request("POST /v1/metrics", JSON, b"{}"),
            404,
            "POST /v1/metrics: metrics are not accepted, only logs",
            "turn off the sender's metrics exporter, or point it at a collector for metrics",
            id="metrics",
        ),
        pytest.param(
            http_request("GET /v1/logs"),
            405,
            "GET /v1/logs: OTLP requests use POST",
            "browsers and health checks always get this answer; a sender must use POST",
            id="GET",
        ),
        pytest.param(
            http_request("GET /?token=secret"),
            405,
            "GET /: OTLP requests use POST",
            "browsers and health checks always get this answer; a sender must use POST",
            id="GET with a query, which is not repeated",
        ),
        pytest.param(
            http_request("POST http://user:secret@localhost/v1/logs", JSON, b"{}"),
            404,
            "POST (not a path): unknown path",
            "set the sender's endpoint to {http}",
            id="a URL, which is not repeated",
        ),
        pytest.param(
            http_request("HEAD /"),
            405,
            "HEAD /: OTLP requests use POST",
            "browsers and health checks always get this answer; a sender must use POST",
            id="HEAD",
        ),
        pytest.param(
            http_request("POST /v1/logs", "Content-Type: text/plain\r\n", b"{}"),
            415,
            "unsupported Content-Type text/plain",
            "set the sender's protocol to http/protobuf or http/json",
            id="content type",
        ),
        pytest.param(
            http_request("POST /v1/logs", "Content-Type: application/grpc+proto\r\n", b"{}"),
            415,
            "unsupported Content-Type application/grpc+proto",
            "set the sender's protocol to http/protobuf, or its endpoint to {grpc}",
            id="content type of gRPC",
        ),
        pytest.param(
            http_request("POST /v1/logs", f"{JSON}Content-Encoding: zstd\r\n", b"{}"),
            415,
            "unsupported Content-Encoding zstd",
            "set the sender's compression to gzip or none",
            id="encoding",
        ),
        pytest.param(
            http_request("POST /v1/logs", JSON, b"{"),
            400,
            "invalid body: JSONDecodeError",
            "send an ExportLogsServiceRequest encoded as its Content-Type says",
            id="unreadable JSON",
        ),
        pytest.param(
            http_request("POST /v1/logs", JSON, b'{"resourceSpans": []}'),
            400,
            "the body: traces are not accepted, only logs",
            "turn off the sender's traces exporter, or point it at a collector for traces",
            id="traces at the path for logs",
        ),
        pytest.param(
            http_request("POST /v1/logs", f"{JSON}Content-Encoding: gzip\r\n", b"{}"),
            400,
            "invalid body: BadGzipFile",
            "send an ExportLogsServiceRequest encoded as its Content-Type says",
            id="unreadable gzip",
        ),
        pytest.param(
            f"POST /v1/logs HTTP/1.1\r\n{JSON}Content-Length: x\r\n\r\n".encode(),
            400,
            "invalid Content-Length x",
            "the sender, or a proxy in between, sends malformed HTTP",
            id="length",
        ),
        pytest.param(
            HTTP2_PREFACE,
            505,
            "HTTP/2, which gRPC uses, on the OTLP/HTTP port",
            "set the sender's protocol to http/protobuf, or its endpoint to {grpc}",
            id="gRPC",
        ),
        pytest.param(
            CLIENT_HELLO,
            400,
            "TLS on a plaintext port",
            "set the sender's endpoint to {http}, without TLS",
            id="TLS",
        ),
        pytest.param(
            b"\x1b]0;title\x07 hello\r\n\r\n",
            400,
            "not HTTP: Bad Request",
            "set the sender's endpoint to {http}",
            id="no HTTP",
        ),
    ],
)
def test_refused_http_request_is_reported_with_advice(
    receiver: Receiver, refused: Refused, request_: bytes, status: int, reason: str, advice: str
) -> None:
    """The callback and the sender receive the same reason and advice."""
    http = receiver.http_endpoint
    base = http.removesuffix("/v1/logs")
    advice = advice.format(http=http, base=base, grpc=receiver.grpc_endpoint)
    answer = exchange(http, request_)
    assert refused == [RefusedRequest("http", reason, advice)]
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    body = answer.partition(b"\r\n\r\n")[2].decode()
    assert body == ("" if b"HEAD" in request_ else f"{reason}; {advice}\n")
    assert receiver.requests == []


def test_connection_without_a_request_is_not_reported(receiver: Receiver, refused: Refused) -> None:
    socket.create_connection(address(receiver.http_endpoint), timeout=10).close()
    exchange(receiver.http_endpoint, http_request("GET /"))
    assert [each.reason for each in refused] == ["GET /: OTLP requests use POST"]


def test_connection_stays_open_after_a_refused_request(
    receiver: Receiver, refused: Refused
) -> None:
    """Only if the request had no body, as the body of a refused request is not read."""
    keep = http_request("POST /v1/trace", JSON).replace(b"Connection: close\r\n", b"")
    answer = exchange(receiver.http_endpoint, keep + http_request("POST /v1/logs", JSON, b"{}"))
    assert answer.count(b"HTTP/1.1 404 ") == answer.count(b"HTTP/1.1 200 ") == 1
    assert len(receiver.requests) == len(refused) == 1


def test_status_405_names_the_allowed_method(receiver: Receiver) -> None:
    assert b"\r\nAllow: POST\r\n" in exchange(receiver.http_endpoint, http_request("GET /"))


def test_text_of_the_sender_is_cut_and_escaped(receiver: Receiver, refused: Refused) -> None:
    exchange(receiver.http_endpoint, http_request(f"POST /\x1b[2J{1000 * 'x'}"))
    (request,) = refused
    assert request.reason == f"POST '/\\x1b[2J{55 * 'x'}'...: unknown path"


def test_tls_at_the_http_port_is_recognized(receiver: Receiver, refused: Refused) -> None:
    """Uses the handshake of a real client."""
    context = ssl.create_default_context()
    with (
        socket.create_connection(address(receiver.http_endpoint), timeout=10) as connection,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(connection, server_hostname="localhost")
    assert refused.first().reason == "TLS on a plaintext port"


@pytest.mark.parametrize(
    ("method", "body", "code", "reason", "advice"),
    [
        (
            TRACES,
            b"",
            grpc.StatusCode.UNIMPLEMENTED,
            "TraceService/Export: traces are not accepted, only logs",
            "turn off the sender's traces exporter, or point it at a collector for traces",
        ),
        (
            METRICS,
            b"",
            grpc.StatusCode.UNIMPLEMENTED,
            "MetricsService/Export: metrics are not accepted, only logs",
            "turn off the sender's metrics exporter, or point it at a collector for metrics",
        ),
        (
            "/a.B/C",
            b"",
            grpc.StatusCode.UNIMPLEMENTED,
            "/a.B/C: unknown method",
            f"call {LOGS}",
        ),
        (
            LOGS,
            b"\xff",
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid body: DecodeError",
            "send an ExportLogsServiceRequest encoded as its Content-Type says",
        ),
    ],
    ids=["traces", "metrics", "unknown method", "unreadable message"],
)
def test_refused_grpc_call_is_reported_with_advice(
    receiver: Receiver,
    refused: Refused,
    caplog: pytest.LogCaptureFixture,
    method: str,
    body: bytes,
    code: grpc.StatusCode,
    reason: str,
    advice: str,
) -> None:
    with (
        grpc.insecure_channel(receiver.grpc_endpoint.removeprefix("http://")) as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary(method)(body, timeout=10)
    failed: Any = raised.value
    assert (failed.code(), failed.details()) == (code, f"{reason}; {advice}")
    assert refused == [RefusedRequest("grpc", reason, advice)]
    assert caplog.records == []
    assert receiver.requests == []


def test_grpc_at_the_http_port_is_recognized(receiver: Receiver, refused: Refused) -> None:
    """Uses a real gRPC client."""
    target = "{}:{}".format(*address(receiver.http_endpoint))
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(LOGS)(b"", timeout=10)
    assert refused.first() == RefusedRequest(
        "http",
        "HTTP/2, which gRPC uses, on the OTLP/HTTP port",
        f"set the sender's protocol to http/protobuf, or its endpoint to {receiver.grpc_endpoint}",
    )


@pytest.mark.parametrize(
    ("sent", "reason", "advice"),
    [
        (
            http_request("POST /v1/logs", JSON, b"{}"),
            "HTTP/1 on the OTLP/gRPC port",
            "set the sender's protocol to grpc, or its endpoint to {http}",
        ),
        (
            CLIENT_HELLO,
            "TLS on a plaintext port",
            "set the sender's endpoint to {grpc}, without TLS",
        ),
        (
            bytes(100),
            "neither HTTP nor TLS on the OTLP/gRPC port",
            "set the sender's endpoint to {grpc}",
        ),
    ],
    ids=["HTTP/1", "TLS", "another"],
)
def test_other_protocols_at_the_grpc_port_are_recognized(
    receiver: Receiver, refused: Refused, sent: bytes, reason: str, advice: str
) -> None:
    """The answer comes from gRPC itself, so a client that probes the port still detects gRPC."""
    answer = exchange(receiver.grpc_endpoint, sent)
    advice = advice.format(http=receiver.http_endpoint, grpc=receiver.grpc_endpoint)
    assert refused == [RefusedRequest("grpc", reason, advice)]
    assert answer[3:9] == b"\x04\0\0\0\0\0"  # a SETTINGS frame


def test_protocol_sent_byte_by_byte_is_recognized(receiver: Receiver, refused: Refused) -> None:
    with socket.create_connection(address(receiver.grpc_endpoint), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /v1/logs HTTP/1.1\r\n":
            try:
                connection.sendall(bytes([byte]))
            except ConnectionError:  # gRPC has closed the connection
                break
        assert refused.first().reason == "HTTP/1 on the OTLP/gRPC port"


def test_advice_names_no_grpc_endpoint_without_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    refused = Refused()
    with Receiver(on_refused=refused.put) as receiver:
        exchange(receiver.http_endpoint, HTTP2_PREFACE)
    assert refused[0].advice == (
        "set the sender's protocol to http/protobuf, "
        "or its endpoint to a collector that accepts OTLP/gRPC"
    )


def test_requests_are_refused_without_a_callback() -> None:
    with Receiver() as receiver:
        assert b" 404 " in exchange(receiver.http_endpoint, http_request("POST /", JSON, b"{}"))


def test_failing_callback_ends_only_its_connection(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_: RefusedRequest) -> None:
        raise ZeroDivisionError

    with Receiver(on_refused=fail) as receiver:
        assert exchange(receiver.http_endpoint, http_request("POST /", JSON, b"{}")) == b""
        body = gzip.compress(ExportLogsServiceRequest().SerializeToString())
        headers = "Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n"
        sent = http_request("POST /v1/logs", headers, body)
        assert exchange(receiver.http_endpoint, sent).startswith(b"HTTP/1.1 200 ")
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Command]:
    with Command("listen", *FREE_PORTS, home=tmp_path) as command:
        yield command


def test_listen_shows_the_first_request_of_each_reason_and_counts_the_others(
    listening: Command,
) -> None:
    port, _ = listening.ports()
    endpoint = f"http://127.0.0.1:{port}"
    for line in ("POST /v1/traces", "POST /v1/log", *11 * ["POST /v1/traces"]):
        exchange(endpoint, http_request(line, JSON, b"{}"))
    event = {"attributes": [{"key": "event.name", "value": {"stringValue": "x.last"}}]}
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [event]}]}]}).encode()
    exchange(endpoint, http_request("POST /v1/logs", JSON, body))
    listening.read_until("x.last")
    assert listening.end() == 0
    assert listening.errors == ""
    shown, total = listening.output.split('"binary"\n\n')[1].split("\n\n", 1)
    day, *lines = shown.splitlines()
    assert len(day) == 10
    assert [line.partition("  ")[2] for line in lines] == [
        "-   request refused     http: POST /v1/traces: traces are not accepted, only logs",
        15 * " " + " turn off the sender's traces exporter, or point it at a collector for traces",
        "-   request refused     http: POST /v1/log: unknown path",
        15 * " " + f" set the sender's endpoint to {endpoint}/v1/logs",
        "-   x.last             ",
    ]
    assert f"{lines[0][12:]}\n{lines[1]}\n" in COMMANDS
    assert total.startswith("1 event in 0 conversations\n")
    assert total.endswith(
        "\n\n13 requests refused\n"
        "     12  http: POST /v1/traces: traces are not accepted, only logs\n"
        "      1  http: POST /v1/log: unknown path\n"
    )


def test_listen_shows_refused_requests_as_json(tmp_path: Path) -> None:
    with Command("listen", "--json", *FREE_PORTS, home=tmp_path) as command:
        port, grpc_port = command.ports()
        for line in ("GET /", "GET /", "GET /v1/logs"):
            exchange(f"http://127.0.0.1:{port}", http_request(line))
        with (
            grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary(TRACES)(b"", timeout=10)
        command.read_until("TraceService.*\n")
        assert command.end() == 0
        lines = [json.loads(line) for line in command.output.splitlines()]
    assert list(lines[0]) == ["type", "time", "transport", "reason", "advice", "count"]
    documented = json_view.__doc__ or ""
    assert [key for key in lines[0] if key not in documented or f"`{key}`" not in COMMANDS] == []
    assert [(line["type"], line["transport"], line["count"]) for line in lines] == [
        ("refused", "http", 1),
        ("refused", "http", 1),
        ("refused", "grpc", 1),
        ("refused", "http", 2),
    ]
    assert lines[0]["reason"] == lines[3]["reason"] == "GET /: OTLP requests use POST"
    assert lines[0]["advice"].endswith("a sender must use POST")


@pytest.mark.parametrize("as_json", [False, True])
def test_number_of_reasons_is_bounded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    monkeypatch.setattr(refusals, "MAX_REASONS", 2)
    arrivals = listen.Arrivals()
    for reason in "abcda":
        arrivals.refuse(RefusedRequest("http", reason, "advice"))
    assert len(arrivals) == 2  # later reasons are not shown either
    listening = listen.Listening(arrivals, listen.make_view(as_json=as_json))
    assert "; 5 requests refused; " in listening.status()
    listening.show_waiting()
    listening.show_summaries()
    captured = capsys.readouterr()
    if as_json:
        assert captured.err == "2 requests refused for other reasons\n"
    else:
        end = (
            "\n5 requests refused\n      2  http: a\n      1  http: b\n      2  for other reasons\n"
        )
        assert captured.out.endswith(end)


def test_refusals_are_counted_correctly_from_many_threads() -> None:
    counted = Refusals()
    request = RefusedRequest("http", "reason", "advice")
    barrier = threading.Barrier(8)
    firsts: list[bool] = []

    def add() -> None:
        barrier.wait(timeout=10)
        firsts.extend([counted.add(request) for _ in range(1000)])

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert firsts.count(True) == 1
    assert list(counted) == [(request, 8000)]
