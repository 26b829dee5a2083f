import gzip
import http.client
import json
import socket
import struct
import threading
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from codex_otel_logging import Receiver

REQUEST = {
    "resourceLogs": [
        {
            "resource": {"attributes": [{"key": "env", "value": {"stringValue": "dev"}}]},
            "scopeLogs": [
                {
                    "scope": {"name": "s"},
                    "logRecords": [
                        {
                            "timeUnixNano": "1795459487409000000",
                            "severityNumber": 9,
                            "body": None,
                            "attributes": [
                                {"key": "event.name", "value": {"stringValue": "codex.x"}},
                                {"key": "n", "value": {"intValue": "9007199254740993"}},
                                {"key": "b", "value": {"bytesValue": "AP8="}},
                            ],
                            "traceId": "0102030405060708090a0b0c0d0e0f10",
                            "spanId": "0102030405060708",
                            "unknownField": 1,
                        }
                    ],
                }
            ],
        }
    ]
}


def post(
    receiver: Receiver, body: Any, path: str = "/v1/logs", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(receiver.http_endpoint).netloc, timeout=5)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, named, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_json_with_hexadecimal_ids_and_large_numbers(receiver: Receiver) -> None:
    body = json.dumps(REQUEST).encode()
    assert post(receiver, body, Content_Type="application/json") == (200, b"{}")
    (event,) = receiver.events
    assert event.name == "codex.x"
    assert event.body is None
    assert event.attributes == {"event.name": "codex.x", "n": 9007199254740993, "b": b"\x00\xff"}
    assert event.trace_id == "0102030405060708090a0b0c0d0e0f10"
    assert event.span_id == "0102030405060708"
    assert (event.scope, event.resource) == ("s", {"env": "dev"})
    assert event.transport == "http/json"


def test_gzip_and_chunks(receiver: Receiver) -> None:
    body = gzip.compress(json.dumps(REQUEST).encode())
    chunks = iter([body[:10], body[10:]])
    headers = {"Content_Type": "application/json; charset=utf-8", "Content_Encoding": "gzip"}
    assert post(receiver, body, **headers)[0] == 200
    assert post(receiver, chunks, Transfer_Encoding="chunked", **headers)[0] == 200
    assert len(receiver.events) == 2


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/", {"Content_Type": "application/json"}, b"{}", 404),
        ("/v1/logs", {}, b"{}", 415),
        ("/v1/logs", {"Content_Type": "text/plain"}, b"{}", 415),
        ("/v1/logs", {"Content_Type": "application/json", "Content_Encoding": "br"}, b"{}", 415),
        ("/v1/logs", {"Content_Type": "application/json"}, b"{", 400),
        ("/v1/logs", {"Content_Type": "application/json"}, b"[]", 400),
        ("/v1/logs", {"Content_Type": "application/json"}, b'{"resourceLogs": 5}', 400),
        ("/v1/logs", {"Content_Type": "application/x-protobuf"}, b"\xff", 400),
        ("/v1/logs", {"Content_Length": "odd"}, b"", 400),
        ("/v1/logs", {"Content_Length": "-1"}, b"", 400),
        ("/v1/logs", {"Content_Type": "application/json", "Content_Encoding": "gzip"}, b"x", 400),
    ],
)
def test_what_it_refuses(
    receiver: Receiver, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert post(receiver, body, path, **headers)[0] == status
    assert receiver.requests == []


def test_a_body_that_ends_too_early_is_not_taken_for_a_whole_one(receiver: Receiver) -> None:
    host, _, port = urlsplit(receiver.http_endpoint).netloc.partition(":")
    head = "POST /v1/logs HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(f"{head}Content-Length: 10\r\n\r\n".encode() + b"")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert receiver.requests == []


def test_a_client_that_hangs_up_is_nobodys_business(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    host, _, port = urlsplit(receiver.http_endpoint).netloc.partition(":")
    linger = struct.pack("ii", 1, 0)  # close() sends a reset
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.sendall(b"POST /v1/logs HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    receiver.close()
    assert capfd.readouterr().err == ""


def test_grpc(receiver: Receiver) -> None:
    address = receiver.grpc_endpoint.removeprefix("http://")
    with grpc.insecure_channel(address) as channel:
        stub: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.Export(ExportLogsServiceRequest(), timeout=5, metadata=(("x-a", "b"),))
    (request,) = receiver.requests
    assert request.transport == "grpc"
    assert request.headers["x-a"] == "b"


def test_wait_for_says_how_many_came(receiver: Receiver) -> None:
    assert receiver.wait_for(0) == []
    with pytest.raises(TimeoutError, match=r"0 of 1 events arrived within 0.01 s"):
        receiver.wait_for(1, timeout=0.01)


def test_a_port_that_is_taken_is_an_error(receiver: Receiver) -> None:
    http_port = urlsplit(receiver.http_endpoint).port or 0
    grpc_port = urlsplit(receiver.grpc_endpoint).port or 0
    with pytest.raises(OSError, match="in use"):
        Receiver(http_port=http_port)
    with pytest.raises(OSError, match="cannot listen"):
        Receiver(grpc_port=grpc_port)


def test_close_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    with Receiver() as receiver:
        connection = http.client.HTTPConnection(urlsplit(receiver.http_endpoint).netloc, timeout=5)
        connection.request("POST", "/", b"")
        connection.getresponse().read()  # and keep the connection open
        with grpc.insecure_channel(receiver.grpc_endpoint.removeprefix("http://")) as channel:
            stub: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
            stub.Export(ExportLogsServiceRequest(), timeout=5)
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in left)
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        post(receiver, b"")


def test_without_grpc_it_receives_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    with Receiver() as receiver:
        body = json.dumps(REQUEST).encode()
        assert post(receiver, body, Content_Type="application/json")[0] == 200
        with pytest.raises(ImportError, match=r"pip install 'codex_otel_logging\[grpc\]'"):
            _ = receiver.grpc_endpoint
