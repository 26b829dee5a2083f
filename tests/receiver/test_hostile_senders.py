"""Malicious and broken senders are refused, and cost the receiver little memory and time."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import queue
import select
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from codex_otel_logging import Receiver
from codex_otel_logging.receiver import (
    ReceivedRequest,
    RefusedRequest,
    bodies,
    connections,
    grpc_server,
)
from support.interpreters import OLD_API_WARNING
from support.paths import PROGRAMS, ROOT

PROGRAM = PROGRAMS / "receiver_process.py"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
JSON = "Content-Type: application/json\r\n"
PROTOBUF = "Content-Type: application/x-protobuf\r\n"
MALFORMED = "the sender, or a proxy in between, sends malformed HTTP"
TOO_LARGE = RefusedRequest(
    "http", "the request is larger than 4,194,304 bytes", "lower the sender's batch size"
)


class ReceiverProcess:
    """A `Receiver` in its own process, so that its memory and descriptors can be measured."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-W", OLD_API_WARNING, PROGRAM, *arguments],
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.state = self._read()

    def current_state(self) -> dict[str, Any]:
        """Return the current state that `receiver_process.py` prints."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 20)[0]
        state: dict[str, Any] = json.loads(self._process.stdout.readline())
        return state

    def end(self) -> str:
        """End the process and return what it printed on standard error."""
        return self._process.communicate(timeout=20)[1].decode()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)


@pytest.fixture
def start() -> Iterator[Callable[..., ReceiverProcess]]:
    """Start receivers in processes of their own."""
    processes: list[ReceiverProcess] = []

    def start(*arguments: str) -> ReceiverProcess:
        processes.append(ReceiverProcess(*arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def refused() -> list[RefusedRequest]:
    return []


@pytest.fixture
def receiver(refused: list[RefusedRequest]) -> Iterator[Receiver]:
    with Receiver(on_refused=refused.append) as receiver:
        yield receiver


def connect(endpoint: str) -> socket.socket:
    parts = urlsplit(endpoint)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def received(connection: socket.socket) -> bytes:
    """Return all bytes that arrive until the connection ends."""
    data = b""
    while more := connection.recv(65_536):
        data += more
    return data


def exchange(endpoint: str, sent: bytes) -> bytes:
    with connect(endpoint) as connection:
        connection.sendall(sent)
        return received(connection)


def head(headers: str, line: str = "POST /v1/logs HTTP/1.1") -> bytes:
    return f"{line}\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode()


def request(body: bytes, headers: str = JSON) -> bytes:
    return head(f"{headers}Content-Length: {len(body)}\r\n") + body


def is_alive(receiver: Receiver) -> bool:
    answer = exchange(receiver.http_endpoint, request(b"{}"))
    return answer.startswith(b"HTTP/1.1 200 ")


def bomb(size_mib: int) -> bytes:
    """Return gzip with `size_mib` MiB of zeros, made quickly: the same MiB again and again."""
    compressor = zlib.compressobj(9, wbits=31)
    first = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    again = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return first + (size_mib - 1) * again + compressor.flush()


class TestSize:
    def test_gzip_bomb_costs_little_memory(self, start: Callable[..., ReceiverProcess]) -> None:
        """Over HTTP, some 2 MB decompress to 2 GiB; over gRPC, a message to 64 MiB."""
        process = start("0")
        sent = bomb(2048)
        assert len(sent) < 4 << 20
        headers = f"{PROTOBUF}Content-Encoding: gzip\r\n"
        assert exchange(process.state["http"], request(b"", PROTOBUF)).startswith(b"HTTP/1.1 200")
        before = process.current_state()["peak_kib"]
        for _ in range(3):
            answer = exchange(process.state["http"], request(sent, headers))
            assert answer.startswith(b"HTTP/1.1 413 ")
        target = process.state["grpc"].removeprefix("http://")
        with grpc.insecure_channel(target, [("grpc.max_send_message_length", -1)]) as channel:
            call = channel.unary_unary(LOGS)
            zeros = call.future(bytes(64 << 20), timeout=20, compression=grpc.Compression.Gzip)
            code = zeros.code()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert process.current_state()["peak_kib"] - before < 32 << 10

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
    @pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
    def test_limit_applies_exactly_to_sent_and_decompressed_bytes(
        self, chunked: bool, compressed: bool
    ) -> None:
        """With a length or in chunks, compressed or not."""
        content = b"{}".ljust(1000)
        headers, body = JSON, content
        if compressed:
            headers, body = f"{JSON}Content-Encoding: gzip\r\n", gzip.compress(content)
        if chunked:
            chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n"
            sent = head(f"{headers}Transfer-Encoding: chunked\r\n") + chunk + b"0\r\n\r\n"
        else:
            sent = request(body, headers)
        refused: list[RefusedRequest] = []
        for limit, status in ((1000, b"200"), (999, b"413")):
            with Receiver(max_request_bytes=limit, on_refused=refused.append) as limited:
                assert exchange(limited.http_endpoint, sent)[9:12] == status
        assert [each.reason for each in refused] == ["the request is larger than 999 bytes"]

    @pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    def test_grpc_limit_applies_exactly_to_decompressed_messages(
        self, compression: grpc.Compression
    ) -> None:
        message = ExportLogsServiceRequest()
        message.resource_logs.add().schema_url = 10_000 * "x"
        body = message.SerializeToString()
        refused: list[RefusedRequest] = []
        for limit in (len(body), len(body) - 1):
            with Receiver(max_request_bytes=limit, on_refused=refused.append) as limited:
                target = limited.grpc_endpoint.removeprefix("http://")
                with grpc.insecure_channel(target) as channel:
                    call = channel.unary_unary(LOGS)
                    code = call.future(body, timeout=20, compression=compression).code()
                received = [request.message for request in limited.requests]
            assert (code, received) == (
                (grpc.StatusCode.OK, [message])
                if limit == len(body)
                else (grpc.StatusCode.RESOURCE_EXHAUSTED, [])
            )
        reason = f"the request is larger than {len(body) - 1:,} bytes"
        assert refused == [RefusedRequest("grpc", reason, "lower the sender's batch size")]

    @pytest.mark.parametrize("body", [b"\x1f\x8b", b"\x78\x9c", zlib.compress(b"x" * 99)[:-1]])
    def test_grpc_message_with_damaged_compression_is_refused(
        self, receiver: Receiver, refused: list[RefusedRequest], body: bytes
    ) -> None:
        target = receiver.grpc_endpoint.removeprefix("http://")
        with grpc.insecure_channel(target) as channel:
            code = channel.unary_unary(LOGS).future(body, timeout=20).code()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert len(refused) == 1

    def test_grpc_limit_applies_exactly_to_messages(self) -> None:
        message = ExportLogsServiceRequest()
        message.resource_logs.add().schema_url = 100 * "x"
        body = message.SerializeToString()
        refused: queue.Queue[RefusedRequest] = queue.Queue()
        for limit in (len(body), len(body) - 1):
            with Receiver(max_request_bytes=limit, on_refused=refused.put) as limited:
                target = limited.grpc_endpoint.removeprefix("http://")
                with grpc.insecure_channel(target) as channel:
                    call = channel.unary_unary(LOGS).future(body, timeout=20)
                    code = call.code()
            assert code is (
                grpc.StatusCode.OK if limit == len(body) else grpc.StatusCode.RESOURCE_EXHAUSTED
            )
        reason = (
            "the call ended without a message: it was cancelled, "
            f"or the message is larger than {len(body) - 1} bytes"
        )
        expected = RefusedRequest("grpc", reason, "lower the sender's batch size")
        assert refused.get(timeout=20) == expected
        assert refused.empty()

    @pytest.mark.parametrize("transport", ["http", "grpc"])
    def test_many_tiny_records_are_refused(
        self, receiver: Receiver, refused: list[RefusedRequest], transport: str
    ) -> None:
        """An empty record takes two bytes in a request and 700 in memory."""
        tiny = ExportLogsServiceRequest()
        records = tiny.resource_logs.add().scope_logs.add().log_records
        for _ in range(110_000):
            records.add()
        body = tiny.SerializeToString()
        assert len(body) < 300_000
        if transport == "http":
            assert b" 413 " in exchange(receiver.http_endpoint, request(body, PROTOBUF))
        else:
            target = receiver.grpc_endpoint.removeprefix("http://")
            with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
                channel.unary_unary(LOGS)(body, timeout=20)
        assert [each.reason for each in refused] == [TOO_LARGE.reason]
        assert receiver.requests == []

    @pytest.mark.parametrize("transport", ["http", "grpc"])
    def test_at_most_four_requests_are_decoded_at_once(self, transport: str) -> None:
        """Each takes up to a hundred times its size in memory."""
        at_once = threading.Semaphore(4)
        entered: queue.Queue[bool] = queue.Queue()
        leave = threading.Event()

        def work(_: ReceivedRequest) -> None:
            entered.put(at_once.acquire(blocking=False))
            leave.wait(20)
            at_once.release()

        with Receiver(on_request=work) as working, futures.ThreadPoolExecutor(12) as threads:
            target = working.grpc_endpoint.removeprefix("http://")
            with grpc.insecure_channel(target) as channel:
                call = channel.unary_unary(LOGS)
                if transport == "http":
                    sent = [threads.submit(is_alive, working) for _ in range(12)]
                else:
                    sent = [threads.submit(call, b"", timeout=20) for _ in range(12)]
                first = [entered.get(timeout=20) for _ in range(4)]
                assert futures.wait(sent, timeout=0.2).done == set()
                assert entered.empty()
                leave.set()
                futures.wait(sent, timeout=20)
        assert all(first)
        assert [each.result() for each in sent] == 12 * [True if transport == "http" else b""]

    def test_calls_per_connection_are_limited(self, receiver: Receiver) -> None:
        """The server's first frame sets SETTINGS_MAX_CONCURRENT_STREAMS to 100."""
        with connect(receiver.grpc_endpoint) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert b"\0\x03\0\0\0\x64" in connection.recv(100)

    @pytest.mark.parametrize(
        "sent",
        [
            head(f"{JSON}Content-Length: 4194305\r\n"),
            head(f"{JSON}Content-Length: {1 << 30}\r\n"),
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"400001\r\n",
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"1\r\nx\r\n400000\r\n",
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"fffffffffffffff\r\n",
        ],
        ids=["a byte too much", "1 GiB", "a chunk", "all chunks", "a giant chunk"],
    )
    def test_body_that_is_too_large_is_refused_before_it_is_sent(
        self, receiver: Receiver, refused: list[RefusedRequest], sent: bytes
    ) -> None:
        """The answer arrives although the sender has not sent the body, or the chunk."""
        answer = exchange(receiver.http_endpoint, sent)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert refused == [TOO_LARGE]

    def test_chunks_are_read_in_linear_time(self) -> None:
        """Copying all earlier chunks for each chunk would take half a minute here."""
        chunk = b"200\r\n" + 512 * b"x" + b"\r\n"
        stream = io.BytesIO(32_768 * chunk + b"0\r\n\r\n")
        before = time.thread_time()
        body = bodies.read_body(stream, {"transfer-encoding": "chunked"}, 16 << 20)
        assert len(body) == 16 << 20
        assert time.thread_time() - before < 3


class TestBeforeTheBody:
    """A request is refused before its body is read, if its line and headers are enough to tell."""

    @pytest.mark.parametrize(
        ("line", "headers", "status"),
        [
            ("POST / HTTP/1.1", JSON, 404),
            ("POST /v1/traces HTTP/1.1", JSON, 404),
            ("PUT /v1/logs HTTP/1.1", JSON, 405),
            ("POST /v1/logs HTTP/1.1", "Content-Type: text/plain\r\n", 415),
            ("POST /v1/logs HTTP/1.1", f"{JSON}Content-Encoding: br\r\n", 415),
            ("POST /v1/logs HTTP/1.1", f"{JSON}Origin: http://evil.example\r\n", 403),
        ],
        ids=["path", "traces", "method", "content type", "encoding", "origin"],
    )
    def test_request_is_refused_before_its_body_is_sent(
        self, receiver: Receiver, line: str, headers: str, status: int
    ) -> None:
        for more in ("", "Expect: 100-continue\r\n"):
            sent = head(f"{headers}Content-Length: {1 << 20}\r\n{more}", line)
            assert exchange(receiver.http_endpoint, sent).startswith(f"HTTP/1.1 {status} ".encode())

    def test_sender_of_1_gib_is_disconnected_early(self, receiver: Receiver) -> None:
        """A refused body is read so that clients see the answer, but not to its end."""
        piece = bytes(1 << 20)
        sent = 0
        with connect(receiver.http_endpoint) as connection:
            connection.sendall(head(f"{JSON}Content-Length: {1 << 30}\r\n", "POST / HTTP/1.1"))
            try:
                while sent < 1 << 30:
                    connection.sendall(piece)
                    sent += len(piece)
            except ConnectionError:
                pass
        assert sent < 64 << 20
        assert is_alive(receiver)

    def test_client_that_sends_all_of_a_refused_body_sees_the_answer(
        self, receiver: Receiver
    ) -> None:
        """If the connection were closed at once, it would be reset and the answer lost."""
        address = urlsplit(receiver.http_endpoint).netloc
        client = http.client.HTTPConnection(address, timeout=20)
        client.request("POST", "/v1/logs", bytes(8 << 20), {"Content-Type": "application/json"})
        assert client.getresponse().status == 413
        client.close()

    def test_acceptable_request_gets_100_continue(self, receiver: Receiver) -> None:
        with connect(receiver.http_endpoint) as connection:
            connection.sendall(head(f"{JSON}Content-Length: 2\r\nExpect: 100-continue\r\n"))
            assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"{}")
            assert received(connection).startswith(b"HTTP/1.1 200 ")


class TestMalformed:
    @pytest.mark.parametrize(
        "headers",
        [
            "Content-Length: 100000000000000000000\r\n",
            f"Content-Length: {10_000 * '9'}\r\n",
            "Content-Length: +2\r\n",
            "Content-Length: 1_0\r\n",
            "Content-Length: 0x2\r\n",
            "Content-Length: -2\r\n",
            "Content-Length: \r\n",
            "Content-Length: \u0662\r\n",
            "Content-Length: 2, 2\r\n",
            "Content-Length: 2\r\nContent-Length: 3\r\n",
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        ],
    )
    def test_invalid_content_length_is_refused(
        self,
        receiver: Receiver,
        refused: list[RefusedRequest],
        capfd: pytest.CaptureFixture[str],
        headers: str,
    ) -> None:
        answer = exchange(receiver.http_endpoint, head(JSON + headers) + b"{}")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert [each.advice for each in refused] == [MALFORMED]
        assert is_alive(receiver)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "chunks",
        [
            b"100000000000000000000\r\n",
            10_000 * b"f" + b"\r\n",
            100_000 * b"0",
            b"-1\r\n",
            b"+2\r\n{}\r\n",
            b"0x2\r\n{}\r\n",
            b"1_0\r\n",
            b" 2\r\n{}\r\n",
            b"\r\n",
            b"x\r\n",
            b"2\r\n{}xx",
            b"2\r\n{}0\r\n\r\n",
            b"2;" + 100_000 * b"x" + b"\r\n{}\r\n0\r\n\r\n",
            b"2\r\n{}\r\n0\r\n" + 10_000 * b"Trailer: x\r\n" + b"\r\n",
            b"2\r\n{}\r\n0\r\nTrailer: " + 100_000 * b"x" + b"\r\n\r\n",
        ],
        ids=lambda chunks: repr(chunks[:20]),
    )
    def test_invalid_chunks_are_refused(
        self,
        receiver: Receiver,
        refused: list[RefusedRequest],
        capfd: pytest.CaptureFixture[str],
        chunks: bytes,
    ) -> None:
        sent = head(f"{JSON}Transfer-Encoding: chunked\r\n") + chunks
        answer = exchange(receiver.http_endpoint, sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert [each.advice for each in refused] == [MALFORMED]
        assert is_alive(receiver)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "chunks",
        [
            b"2\r\n{}\r\n0\r\n\r\n",
            b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
            b"0002 ; name=value\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
            b"2\n{}\n0\n\n",
        ],
    )
    def test_unusual_but_valid_chunks_are_received(self, receiver: Receiver, chunks: bytes) -> None:
        sent = head(f"{JSON}Transfer-Encoding: Chunked\r\n") + chunks
        assert exchange(receiver.http_endpoint, sent).startswith(b"HTTP/1.1 200 ")

    def test_unknown_transfer_encoding_is_refused(
        self, receiver: Receiver, refused: list[RefusedRequest]
    ) -> None:
        sent = head(f"{JSON}Transfer-Encoding: gzip, chunked\r\n")
        assert exchange(receiver.http_endpoint, sent).startswith(b"HTTP/1.1 501 ")
        reason = "unsupported Transfer-Encoding 'gzip, chunked'"
        assert refused == [RefusedRequest("http", reason, MALFORMED)]

    @pytest.mark.parametrize(
        "sent",
        [
            head(f"{JSON}Content-Length: 10\r\n") + b"{}",
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"5\r\n{}",
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"2\r\n{}\r\n",
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"2\r\n{}\r\n0\r\n",
        ],
        ids=["length", "in a chunk", "between chunks", "in the trailer"],
    )
    def test_incomplete_body_is_refused(self, receiver: Receiver, sent: bytes) -> None:
        with connect(receiver.http_endpoint) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert received(connection).startswith(b"HTTP/1.1 400 ")
        assert receiver.requests == []

    @pytest.mark.parametrize(
        "sent",
        [
            b"\r\n\r\n",
            b"x\r\n\r\n",
            b"POST\r\n\r\n",
            b"POST /v1/logs HTTP/1.1.1\r\n\r\n",
            b"POST /v1/logs HTTP/" + 10_000 * b"1" + b".1\r\n\r\n",
            b"POST /" + 100_000 * b"x" + b" HTTP/1.1\r\n\r\n",
            head(f"X: {100_000 * 'x'}\r\n"),
            head(1000 * "X: x\r\n"),
            head("\0: \x1b[2J\r\n"),
            bytes(range(256)),
            200_000 * b"\xff",
        ],
        ids=lambda sent: repr(sent[:20]),
    )
    def test_malformed_request_head_is_refused_without_a_traceback(
        self, receiver: Receiver, capfd: pytest.CaptureFixture[str], sent: bytes
    ) -> None:
        with connect(receiver.http_endpoint) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert received(connection)[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.1 5")
        assert is_alive(receiver)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "line",
        [
            "no colon",
            "Content-Length : 2",
            "Transfer-Encoding : chunked",
            "X-\xff: x",
            "X\0: x",
            ": x",
            "From me",
        ],
        ids=repr,
    )
    def test_line_that_is_not_a_header_does_not_hide_those_after_it(
        self, receiver: Receiver, refused: list[RefusedRequest], line: str
    ) -> None:
        """The body must not be taken for the next request, and the request not for an empty one."""
        sent = head(f"{JSON}{line}\r\nContent-Length: 2\r\n") + b"{}"
        answer = exchange(receiver.http_endpoint, sent.replace(b"Connection: close\r\n", b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert [each.reason for each in refused] == ["invalid header line"]
        assert receiver.requests == []

    def test_second_request_hidden_in_a_body_is_not_served(self, receiver: Receiver) -> None:
        """An unread body ends the connection: it may be a request that a proxy did not see."""
        hidden = request(b"{}")
        sent = request(hidden).replace(b"Connection: close\r\n", b"").replace(b"/logs", b"/log", 1)
        assert exchange(receiver.http_endpoint, sent).count(b"HTTP/1.1") == 1
        assert receiver.requests == []


def nested(depth: int) -> str:
    return depth * '{"arrayValue": {"values": [' + "{}" + depth * "]}}"


def with_value(value: str) -> str:
    attribute = f'{{"key": "k", "value": {value}}}'
    return f'{{"resourceLogs": [{{"resource": {{"attributes": [{attribute}]}}}}]}}'


def with_record(record: str) -> str:
    return f'{{"resourceLogs": [{{"scopeLogs": [{{"logRecords": [{record}]}}]}}]}}'


@pytest.mark.parametrize(
    "document",
    [
        with_value('{"intValue": "0x%s"}' % (100_000 * "f")),
        with_value('{"intValue": "%s"}' % (100_000 * "f")),
        with_value('{"intValue": "%s"}' % (100_000 * "9")),
        with_value('{"intValue": %s}' % (100_000 * "9")),
        with_value('{"intValue": %s}' % (4000 * "9")),
        with_value('{"intValue": 1e400}'),
        with_value('{"intValue": 9223372036854775808}'),
        with_value('{"intValue": 1.5}'),
        with_value('{"intValue": []}'),
        with_value('{"doubleValue": {}}'),
        with_value('{"boolValue": 2}'),
        with_value('{"stringValue": 5}'),
        with_value('{"stringValue": "\\ud800"}'),
        with_value('{"bytesValue": "x"}'),
        with_value(nested(50)),
        with_value(nested(1000)),
        with_value(nested(100_000)),
        100_000 * "[",
        100_000 * '{"a":',
        "[]",
        "5",
        '"resourceLogs"',
        "null",
        "NaN",
        "",
        '{"resourceLogs": {}}',
        '{"resourceLogs": [5]}',
        '{"resourceLogs": [null]}',
        '{"resourceLogs": [[]]}',
        '{"resourceLogs": [{"scopeLogs": {"logRecords": []}}]}',
        with_record("null"),
        with_record("[]"),
        with_record('{"traceId": 5}'),
        with_record('{"traceId": "xyz"}'),
        with_record('{"spanId": ["a"]}'),
        with_record('{"timeUnixNano": "-1"}'),
        with_record('{"timeUnixNano": 1e30}'),
        with_record('{"severityNumber": 99999999999}'),
        with_record('{"attributes": {"k": "v"}}'),
        with_record('{"attributes": [{"key": {}, "value": 5}]}'),
        with_record('{"flags": -1}'),
    ],
    ids=lambda document: document[-50:],
)
def test_invalid_json_is_refused_without_a_traceback(
    receiver: Receiver, capfd: pytest.CaptureFixture[str], document: str
) -> None:
    answer = exchange(receiver.http_endpoint, request(document.encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert receiver.requests == []
    assert is_alive(receiver)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "document",
    [
        with_value('{"doubleValue": "1e400"}'),
        with_value('{"bytesValue": "%"}'),
        "\ufeff{}",
        '{"resource_logs": [{}]}',
        with_record('{"severityNumber": "x"}'),
        with_record('{"body": "text"}'),
        with_record('{"unknown": [[[1e400]]]}'),
    ],
)
def test_odd_json_that_protobuf_accepts_is_received(receiver: Receiver, document: str) -> None:
    answer = exchange(receiver.http_endpoint, request(document.encode()))
    assert answer.startswith(b"HTTP/1.1 200 ")


class TestTime:
    """Idle connections and slow requests are ended."""

    @pytest.fixture
    def fast_clock(self) -> Iterator[pytest.MonkeyPatch]:
        """Let a minute pass in 0.6 seconds, until it is undone."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connections, "monotonic", lambda: 100 * time.monotonic())
            yield patch

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"POST /v1",
            head(JSON)[:-2],
            head(f"{JSON}Content-Length: 10\r\n") + b"{",
            head(f"{JSON}Transfer-Encoding: chunked\r\n") + b"1\r\n{\r\n",
            request(b"{}").replace(b"Connection: close\r\n", b""),
        ],
        ids=["nothing", "request line", "headers", "body", "chunks", "after a request"],
    )
    def test_idle_connection_is_closed(
        self, receiver: Receiver, fast_clock: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        with connect(receiver.http_endpoint) as connection:
            connection.sendall(sent)
            received(connection)  # returns when the connection ends
        fast_clock.undo()
        assert is_alive(receiver)

    @pytest.mark.usefixtures("fast_clock")
    def test_byte_now_and_then_does_not_keep_a_request_alive(self, receiver: Receiver) -> None:
        """The limit applies to a request as a whole."""
        with connect(receiver.http_endpoint) as connection:
            connection.sendall(b"POST /v1/logs HTTP/1.1\r\n")
            connection.settimeout(0.01)
            for _ in range(2000):
                try:
                    connection.sendall(b"x")
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            else:
                raise AssertionError("the connection is still open")

    def test_on_request_has_no_time_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def work(_: ReceivedRequest) -> None:
            monkeypatch.setattr(connections, "monotonic", lambda: time.monotonic() + 3600)
            working._http.service_actions()

        with Receiver(on_request=work) as working:
            assert is_alive(working)

    def test_time_limit_of_a_request_begins_with_its_first_byte(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long the connection was idle before that."""
        start = time.monotonic()

        def pass_until(seconds: float) -> None:
            monkeypatch.setattr(connections, "monotonic", lambda: start + seconds)
            receiver._http.service_actions()

        def send(sent: bytes, answer: bytes) -> None:
            connection.sendall(sent)
            received = b""
            while not received.endswith(answer):
                received += connection.recv(65_536) or b"(ended)"
                assert b"(ended)" not in received

        headers = f"{JSON}Content-Length: 2\r\n"
        begin = f"POST /v1/logs HTTP/1.1\r\n{headers}\r\n".encode()
        begin_and_wait = begin.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        with connect(receiver.http_endpoint) as connection:
            for now in (0, 100):
                pass_until(now)
                send(begin + b"{}", b"{}")
                pass_until(now + 55)  # the next one may begin within a minute
                send(begin_and_wait, b"100 Continue\r\n\r\n")
                pass_until(now + 80)  # and take half a minute
                send(b"{}", b"{}")
        assert len(receiver.requests) == 4

    def test_idle_grpc_connection_is_closed_at_every_stage(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "IDLE_TIMEOUT_S", 0.3)
        settings = b"\0\0\0\x04\0\0\0\0\0"
        with Receiver() as receiver:
            for sent in (b"", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings):
                with connect(receiver.grpc_endpoint) as connection:
                    connection.sendall(sent)
                    received(connection)

    def test_grpc_calls_without_a_message_do_not_block_others_forever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(grpc_server, "MAX_AGE_S", 1)
        monkeypatch.setattr(grpc_server, "GRACE_S", 0)
        end = threading.Event()

        def never() -> Iterator[bytes]:
            end.wait(60)
            yield from ()

        own = [("grpc.use_local_subchannel_pool", 1)]
        with Receiver() as occupied:
            target = occupied.grpc_endpoint.removeprefix("http://")
            with grpc.insecure_channel(target, own) as hanging:
                calls = [hanging.stream_unary(LOGS).future(never()) for _ in range(8)]
                for _ in range(4):  # its own connection may grow old as well
                    with grpc.insecure_channel(target, own) as channel:
                        code = channel.unary_unary(LOGS).future(b"", timeout=5).code()
                    if code is grpc.StatusCode.OK:
                        break
                end.set()
                assert code is grpc.StatusCode.OK
                assert all(call.exception(timeout=20) for call in calls)


def test_receiver_without_descriptors_waits_and_recovers(
    start: Callable[..., ReceiverProcess],
) -> None:
    process = start("40")
    assert b" 200 " in exchange(process.state["http"], request(b"{}"))
    for endpoint in (process.state["http"], process.state["grpc"]):
        waiting = [connect(endpoint) for _ in range(60)]
        for connection in waiting:
            connection.sendall(b"P")
        before = process.current_state()["accepts"]
        threading.Event().wait(0.5)  # as long as it would spin
        assert process.current_state()["accepts"] - before < 40
        for connection in waiting:
            connection.close()
        assert b" 200 " in exchange(process.state["http"], request(b"{}"))
        target = process.state["grpc"].removeprefix("http://")
        with grpc.insecure_channel(target) as channel:
            channel.unary_unary(LOGS)(b"", timeout=20, wait_for_ready=True)
    assert "Traceback" not in process.end()


def test_ended_grpc_connections_free_their_descriptors_although_grpc_accepts_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As while gRPC's server has no descriptor for them, because these connections have all."""
    monkeypatch.setattr(grpc_server, "LAST_ANSWERS_S", 0.1)
    refuse: Any = None
    with socket.create_server(("127.0.0.1", 0)) as never_accepting:
        front = grpc_server._GrpcFront(("127.0.0.1", 0), refuse)
        front.inner_port = never_accepting.getsockname()[1]
        front.start()
        try:
            with socket.create_connection(("127.0.0.1", front.port)) as client:
                client.sendall(b"P")
                while not front._deadlines:
                    time.sleep(0.01)
            front.wait_until_disconnected(20)
            assert not front._deadlines
        finally:
            front.stop()


class TestNames:
    """DNS rebinding: a web page gives its host name this machine's address, and then sends here."""

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ("Host: evil.example", "Host evil.example does not name this machine"),
            ("Host: evil.example:4318", "Host evil.example:4318 does not name this machine"),
            ("Host: 192.0.2.1", "Host 192.0.2.1 does not name this machine"),
            (
                "Host: localhost.evil.example",
                "Host localhost.evil.example does not name this machine",
            ),
            ("Host: [2001:db8::1]", "Host [2001:db8::1] does not name this machine"),
            ("Host: [", "Host [ does not name this machine"),
            ("Host: ", "Host '' does not name this machine"),
            (
                "Host: localhost@evil.example",
                "Host localhost@evil.example does not name this machine",
            ),
            (
                "Host: localhost\r\nHost: evil.example",
                "Host 'localhost, evil.example' does not name this machine",
            ),
            (
                "Host: localhost\r\nOrigin: http://evil.example",
                "Origin http://evil.example is not this machine",
            ),
            ("Host: localhost\r\nOrigin: null", "Origin null is not this machine"),
        ],
    )
    def test_foreign_host_or_origin_is_refused(
        self, receiver: Receiver, refused: list[RefusedRequest], headers: str, reason: str
    ) -> None:
        sent = request(b"{}").replace(b"Host: localhost", headers.encode())
        assert exchange(receiver.http_endpoint, sent).startswith(b"HTTP/1.1 403 ")
        assert [each.reason for each in refused] == [reason]
        assert receiver.requests == []

    @pytest.mark.parametrize(
        "headers",
        [
            "Host: localhost",
            "Host: LOCALHOST:4318",
            "Host: collector.localhost:4318",
            "Host: 127.0.0.1:4318",
            "Host: 127.1.2.3",
            "Host: [::1]:4318",
            "Host: localhost\r\nOrigin: http://localhost:3000",
            "X: no host",
        ],
    )
    def test_loopback_host_and_origin_are_accepted(self, receiver: Receiver, headers: str) -> None:
        sent = request(b"{}").replace(b"Host: localhost", headers.encode())
        assert exchange(receiver.http_endpoint, sent).startswith(b"HTTP/1.1 200 ")

    def test_any_host_is_accepted_on_a_public_address(self) -> None:
        with Receiver("0.0.0.0") as receiver:
            endpoint = receiver.http_endpoint.replace("0.0.0.0", "127.0.0.1")
            for name in (b"collector.example", b"192.0.2.1:4318"):
                sent = request(b"{}").replace(b"Host: localhost", b"Host: " + name)
                assert exchange(endpoint, sent).startswith(b"HTTP/1.1 200 ")
