"""`Receiver`: what it receives and refuses, how it hands requests over, and how it closes."""

from __future__ import annotations

import gzip
import http.client
import json
import queue
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from codex_otel_logging import Receiver
from codex_otel_logging.receiver import (
    PortError,
    ReceivedEvent,
    ReceivedRequest,
    RefusedRequest,
    events_of,
    grpc_server,
)
from codex_otel_logging.receiver.messages import request_from_json
from support.events import log
from support.fixtures import HandlerFactory, RunPython
from support.paths import read_program

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
    connection = http.client.HTTPConnection(urlsplit(receiver.http_endpoint).netloc, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, named, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_import_of_the_receiver_imports_no_commands_and_no_extras(run_python: RunPython) -> None:
    assert run_python(read_program("imports_of_the_receiver")).stdout == "[]\n"


def test_public_classes_name_the_module_they_are_imported_from() -> None:
    """Tracebacks then show the name that applications import."""
    assert Receiver.__module__ == "codex_otel_logging"
    for public in (PortError, ReceivedEvent, ReceivedRequest, RefusedRequest):
        assert public.__module__ == "codex_otel_logging.receiver"


def test_json_with_hexadecimal_ids_and_64_bit_numbers_is_received(receiver: Receiver) -> None:
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


def test_gzip_and_chunked_bodies_are_received(receiver: Receiver) -> None:
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
        ("/v1/logs", {"Content_Type": "application/json", "Content_Length": "odd"}, b"", 400),
        ("/v1/logs", {"Content_Type": "application/json", "Content_Length": "-1"}, b"", 400),
        ("/v1/logs", {"Content_Type": "application/json", "Content_Encoding": "gzip"}, b"x", 400),
    ],
)
def test_invalid_request_is_refused_and_not_kept(
    receiver: Receiver, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert post(receiver, body, path, **headers)[0] == status
    assert receiver.requests == []


def test_incomplete_body_is_refused(receiver: Receiver) -> None:
    host, _, port = urlsplit(receiver.http_endpoint).netloc.partition(":")
    head = "POST /v1/logs HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(f"{head}Content-Length: 10\r\n\r\n".encode() + b"")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert receiver.requests == []


def test_client_that_resets_the_connection_causes_no_traceback(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    host, _, port = urlsplit(receiver.http_endpoint).netloc.partition(":")
    linger = struct.pack("ii", 1, 0)  # close() sends a reset
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.sendall(b"POST /v1/logs HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    receiver.close()
    assert capfd.readouterr().err == ""


def test_grpc_call_is_received_with_its_metadata(receiver: Receiver) -> None:
    address = receiver.grpc_endpoint.removeprefix("http://")
    with grpc.insecure_channel(address) as channel:
        stub: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.Export(ExportLogsServiceRequest(), timeout=20, metadata=(("x-a", "b"),))
    (request,) = receiver.requests
    assert request.transport == "grpc"
    assert request.headers["x-a"] == "b"


def test_wait_for_timeout_reports_the_number_of_events(receiver: Receiver) -> None:
    assert receiver.wait_for(0) == []
    with pytest.raises(TimeoutError, match=r"0 of 1 events arrived within 0.01 s"):
        receiver.wait_for(1, timeout=0.01)


def test_wait_for_timeout_names_the_events(receiver: Receiver) -> None:
    for _ in range(2):
        post(receiver, json.dumps(REQUEST).encode(), Content_Type="application/json")
    other = json.dumps(REQUEST).replace("codex.x", "with space" + 60 * "x").encode()
    post(receiver, other, Content_Type="application/json")
    with pytest.raises(TimeoutError) as raised:
        receiver.wait_for(4, timeout=0.01)
    assert str(raised.value) == (
        "3 of 4 events arrived within 0.01 s: codex.x (2 times), 'with space" + 50 * "x" + "'..."
    )


def test_wait_for_timeout_names_at_most_20_events(receiver: Receiver) -> None:
    for number in range(23):
        one = json.dumps(REQUEST).replace("codex.x", f"codex.x{number}").encode()
        post(receiver, one, Content_Type="application/json")
    with pytest.raises(TimeoutError, match=r"codex.x19, and 3 more$"):
        receiver.wait_for(24, timeout=0.01)


def test_repr_of_an_event_is_one_line_without_sensitive_values() -> None:
    attributes = {
        "event.name": "codex.tool_result",
        "conversation.id": "c",
        "tool_name": "shell",
        "output": "the secret",
        "note": "a b" + 100 * "x",
    }
    pairs = [{"key": key, "value": {"stringValue": text}} for key, text in attributes.items()]
    records = [{"attributes": pairs}]
    message = request_from_json({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    request = ReceivedRequest("http/json", {"authorization": "secret"}, message)
    (event,) = events_of(request)
    note = "'a b" + 57 * "x" + "'..."
    assert repr(event) == f"<codex.tool_result tool_name=shell output=(10 characters) note={note}>"
    assert repr(request) == "ReceivedRequest(transport='http/json')"


def test_repr_of_an_event_redacts_sensitive_fields_inside_maps() -> None:
    """The sender may have redacted some of them; their lengths are not those of the replacement."""
    texts = {"prompt": "secret", "output": "[REDACTED]"}
    attributes: list[dict[str, object]] = [
        {"key": "event.name", "value": {"stringValue": "codex.turn_ttft"}}
    ]
    for key, text in texts.items():
        inside = {"values": [{"key": key, "value": {"stringValue": text}}]}
        attributes.append({"key": f"of_{key}", "value": {"kvlistValue": inside}})
    records = [{"attributes": attributes}]
    message = request_from_json({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    (event,) = events_of(ReceivedRequest("http/json", {}, message))
    assert repr(event) == (
        "<codex.turn_ttft of_prompt=\"{'prompt': '[REDACTED]', 'prompt_length': 6}\" "
        "of_output=\"{'output': '[REDACTED]'}\">"
    )


@pytest.mark.parametrize("base64", ["+/+/", "-_-_"])
def test_bytes_in_json_are_read_in_both_alphabets_of_base64(base64: str) -> None:
    records = [{"body": {"bytesValue": base64}}]
    message = request_from_json({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    (event,) = events_of(ReceivedRequest("http/json", {}, message))
    assert event.body == b"\xfb\xff\xbf"


def test_port_in_use_raises_an_error_that_names_it(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    http_port = urlsplit(receiver.http_endpoint).port or 0
    grpc_port = urlsplit(receiver.grpc_endpoint).port or 0
    with pytest.raises(PortError, match=rf"cannot listen on 127.0.0.1:{http_port}: .*in use"):
        Receiver(http_port=http_port)
    with pytest.raises(PortError, match=rf"cannot listen on 127.0.0.1:{grpc_port}: .*in use") as r:
        Receiver(grpc_port=grpc_port)
    assert r.value.port == grpc_port
    assert capfd.readouterr().err == ""


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_receiver_listens_on_ipv6(attach: HandlerFactory, name: str) -> None:
    """Its endpoints contain the address in brackets, as exporters require."""
    with Receiver("::1") as receiver:
        assert re.fullmatch(r"http://\[::1\]:\d+/v1/logs", receiver.http_endpoint)
        assert re.fullmatch(r"http://\[::1\]:\d+", receiver.grpc_endpoint)
        endpoint = receiver.http_endpoint if name == "otlp-http" else receiver.grpc_endpoint
        handler = attach({"exporter": {name: {"endpoint": endpoint}}})
        log(first=1)
        assert handler.flush(10)
        (event,) = receiver.events
        assert event.attributes["duration_ms"] == 1
        with pytest.raises(PortError, match=r"^\[Errno \d+\] cannot listen on \[::1\]:\d+: "):
            Receiver("::1", http_port=urlsplit(receiver.http_endpoint).port or 0)


def send(receiver: Receiver, transport: str) -> tuple[int, str]:
    """Send one event; return the status (of HTTP, or gRPC's code) and the text of the answer."""
    if transport == "http":
        body = json.dumps(REQUEST).encode()
        status, answer = post(receiver, body, Content_Type="application/json")
        return status, answer.decode()
    with grpc.insecure_channel(receiver.grpc_endpoint.removeprefix("http://")) as channel:
        stub: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            stub.Export(request_from_json(REQUEST), timeout=20)
        except grpc.RpcError as error:
            failed: Any = error
            return failed.code().value[0], failed.details()
    return 0, ""


@pytest.fixture
def start_receiver() -> Iterator[Callable[[Callable[[ReceivedRequest], object]], Receiver]]:
    """Start receivers that hand each request to a function."""
    receivers = []

    def start(on_request: Callable[[ReceivedRequest], object]) -> Receiver:
        receivers.append(Receiver(on_request=on_request))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.close()


def test_requests_are_handed_over_and_not_kept(start_receiver: Any) -> None:
    requests: queue.Queue[ReceivedRequest] = queue.Queue()
    receiver = start_receiver(requests.put)
    assert send(receiver, "http") == (200, "{}")
    assert send(receiver, "grpc") == (0, "")
    taken = [requests.get_nowait() for _ in range(2)]
    assert [request.transport for request in taken] == ["http/json", "grpc"]
    assert [event.name for request in taken for event in events_of(request)] == 2 * ["codex.x"]
    assert (receiver.events, receiver.requests) == ([], [])


@pytest.mark.parametrize(("transport", "busy"), [("http", 503), ("grpc", 14)])
def test_full_queue_asks_the_sender_to_retry(
    start_receiver: Any, capfd: pytest.CaptureFixture[str], transport: str, busy: int
) -> None:
    requests: queue.Queue[ReceivedRequest] = queue.Queue(maxsize=1)
    receiver = start_receiver(requests.put_nowait)
    assert send(receiver, transport)[0] in (200, 0)
    status, text = send(receiver, transport)
    assert (status, text.strip()) == (busy, "busy; send the request again")
    requests.get_nowait()
    assert send(receiver, transport)[0] in (200, 0)
    assert capfd.readouterr().err == ""


def test_full_queue_sets_retry_after_over_http(start_receiver: Any) -> None:
    def full(_: ReceivedRequest) -> None:
        raise queue.Full

    address = urlsplit(start_receiver(full).http_endpoint).netloc
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", "/v1/logs", b"{}", {"Content-Type": "application/json"})
    assert connection.getresponse().getheader("Retry-After") == "1"
    connection.close()


def test_close_waits_for_a_grpc_call_in_progress(
    start_receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "CLOSING_S", 20.0)  # the machine may be busy
    called, closing = threading.Event(), threading.Event()

    def wait(_: ReceivedRequest) -> None:
        called.set()
        assert closing.wait(timeout=10)

    receiver = start_receiver(wait)
    with futures.ThreadPoolExecutor(2) as threads:
        sent = threads.submit(send, receiver, "grpc")
        assert called.wait(timeout=10)
        closed = threads.submit(receiver.close)
        while not refuses(receiver.grpc_endpoint):
            assert futures.wait([closed], timeout=0.01).not_done
        assert futures.wait([sent], timeout=0.1).not_done  # it is not cancelled
        closing.set()
        assert sent.result(timeout=10) == (0, "")
        closed.result(timeout=10)


def refuses(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname, address.port or 0), timeout=20).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize(("transport", "failed"), [("http", 500), ("grpc", 2)])
def test_exception_in_on_request_fails_only_that_request(
    start_receiver: Any, capfd: pytest.CaptureFixture[str], transport: str, failed: int
) -> None:
    failures = iter([True, False])

    def fail(_: ReceivedRequest) -> None:
        if next(failures):
            raise ZeroDivisionError

    receiver = start_receiver(fail)
    assert send(receiver, transport)[0] == failed
    assert send(receiver, transport)[0] in (200, 0)
    receiver.close()
    if transport == "http":
        assert "ZeroDivisionError" in capfd.readouterr().err


def test_close_leaves_no_thread_and_no_open_port() -> None:
    before = set(threading.enumerate())
    with Receiver() as receiver:
        connection = http.client.HTTPConnection(urlsplit(receiver.http_endpoint).netloc, timeout=20)
        connection.request("POST", "/", b"")
        connection.getresponse().read()  # and keep the connection open
        with grpc.insecure_channel(receiver.grpc_endpoint.removeprefix("http://")) as channel:
            stub: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
            stub.Export(ExportLogsServiceRequest(), timeout=20)
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in left)
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        post(receiver, b"")


def test_receiver_without_grpcio_receives_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    with Receiver() as receiver:
        body = json.dumps(REQUEST).encode()
        assert post(receiver, body, Content_Type="application/json")[0] == 200
        with pytest.raises(ImportError, match=r"pip install 'codex_otel_logging\[grpc\]'"):
            _ = receiver.grpc_endpoint
