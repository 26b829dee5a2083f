"""Collectors on loopback with scripted replies and network faults.

`HttpCollector` and `GrpcCollector` give one scripted reply after the other and repeat the last one.
A `Gate` in front of a collector simulates network faults.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from codex_otel_logging import Receiver
from codex_otel_logging.receiver import ReceivedEvent, ReceivedRequest, events_of
from codex_otel_logging.receiver.messages import request_from_json

if TYPE_CHECKING:
    import trustme

Answer = tuple[int, dict[str, str], bytes]
"""HTTP status, headers and body. None in place of an answer closes the connection."""

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """A collector's reply to one request, for HTTP and for gRPC."""

    status: int = 200
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    retry_after_s: int | None = None
    rejected: int = 0

    def to_http(self) -> Answer:
        if self.status == 200:
            return 200, PROTOBUF, self.response().SerializeToString()
        more = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return self.status, {**TEXT, **more}, self.message.encode()

    def response(self) -> ExportLogsServiceResponse:
        if not (self.rejected or self.message):
            return ExportLogsServiceResponse()
        partial = ExportLogsPartialSuccess(
            rejected_log_records=self.rejected, error_message=self.message
        )
        return ExportLogsServiceResponse(partial_success=partial)


OK = Reply()
PARTIAL = Reply(rejected=1, message="too old")
UNAVAILABLE = Reply(503, grpc.StatusCode.UNAVAILABLE, "not now")
BUSY = Reply(503, grpc.StatusCode.RESOURCE_EXHAUSTED, "later", retry_after_s=2)
BUSY_NO_MORE = Reply(429, grpc.StatusCode.UNAVAILABLE, "again", retry_after_s=0)
UNAUTHENTICATED = Reply(401, grpc.StatusCode.UNAUTHENTICATED, "no token")
FORBIDDEN = Reply(403, grpc.StatusCode.PERMISSION_DENIED, "not yours")
BAD_REQUEST = Reply(400, grpc.StatusCode.INVALID_ARGUMENT, "not understood")
NOT_FOUND = Reply(404, grpc.StatusCode.UNIMPLEMENTED, "not here")
REDIRECT = Reply(307, grpc.StatusCode.UNKNOWN, "elsewhere")
TOO_LARGE = Reply(413, grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max")
QUOTA = Reply(429, grpc.StatusCode.RESOURCE_EXHAUSTED, "quota used up")
HANG_UP = None


@dataclass(frozen=True)
class Unless:
    """Replies `reply` to requests for which `bad` returns True, and OK to all others."""

    bad: Callable[[ExportLogsServiceRequest], bool]
    reply: Reply

    def to(self, request: ExportLogsServiceRequest) -> Reply:
        return self.reply if self.bad(request) else OK


class Tls(NamedTuple):
    """A collector's certificate, and the authority that must have signed clients' certificates."""

    certificate: trustme.LeafCert
    clients: trustme.CA | None = None

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate.configure_cert(context)
        if self.clients is not None:
            self.clients.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def credentials(self) -> grpc.ServerCredentials:
        chain = b"".join(pem.bytes() for pem in self.certificate.cert_chain_pems)
        return grpc.ssl_server_credentials(
            [(self.certificate.private_key_pem.bytes(), chain)],
            root_certificates=self.clients and self.clients.cert_pem.bytes(),
            require_client_auth=self.clients is not None,
        )


class _Script:
    """The scripted replies, and the requests and events received so far."""

    def __init__(self, replies: tuple[Any, ...], delay_s: float) -> None:
        self._replies = chain(replies, repeat(replies[-1]))
        self._delay_s = delay_s
        self._arrival = threading.Condition()
        self.requests: list[dict[str, str]] = []
        self.sizes: list[int] = []
        self.events: list[ReceivedEvent] = []

    def next_reply(self, headers: dict[str, str], size: int) -> Any:
        """Return the reply to a request, after the delay."""
        threading.Event().wait(self._delay_s)
        with self._arrival:
            self.requests.append(headers)
            self.sizes.append(size)
            return next(self._replies)

    def accept(self, request: ReceivedRequest) -> None:
        with self._arrival:
            self.events += events_of(request)
            self._arrival.notify_all()

    def wait_for(self, count: int) -> bool:
        with self._arrival:
            return self._arrival.wait_for(lambda: len(self.events) >= count, timeout=20)


class HttpCollector(ThreadingHTTPServer, _Script):
    """Answers with `Reply`s or `Answer`s, each after `delay_s`."""

    daemon_threads = True

    def __init__(
        self, *replies: Reply | Answer | Unless | None, delay_s: float = 0.0, tls: Tls | None = None
    ) -> None:
        _Script.__init__(self, replies, delay_s)
        self.connections = 0
        self.tls = tls and tls.context()
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_port}/v1/logs"

    @property
    def exporter(self) -> dict[str, Any]:
        return {"otlp-http": {"endpoint": self.endpoint}}

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is None:
            return connection, address
        # The handshake takes place at the first read, in the connection's own thread.
        return self.tls.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        ), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback when a client closes the connection."""

    def answer(self, headers: dict[str, str], body: bytes) -> Answer | None:
        reply = self.next_reply(headers, len(body))
        message = _request(headers, body)
        if isinstance(reply, Unless):
            reply = reply.to(message)
        answer: Answer | None = reply.to_http() if isinstance(reply, Reply) else reply
        if answer is not None and answer[0] == 200:
            self.accept(ReceivedRequest("http/protobuf", headers, message))
        return answer

    def reason(self, reply: Reply) -> str:
        return f"HTTP {reply.status} {responses[reply.status]}: {reply.message}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


def _request(headers: dict[str, str], body: bytes) -> ExportLogsServiceRequest:
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    if headers["content-type"] == "application/json":
        return request_from_json(json.loads(body))
    return ExportLogsServiceRequest.FromString(body)


class _Handler(BaseHTTPRequestHandler):
    server: HttpCollector
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.answer(headers, self.rfile.read(int(headers["content-length"])))
        if answer is None:
            self.close_connection = True
            return
        status, more, body = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class GrpcCollector(_Script):
    """Answers with `Reply`s, or calls a function with the call's context.

    A reply of None cancels the call. `options` are channel arguments of the server, such as its
    message size limit.
    """

    def __init__(
        self,
        *replies: Reply | Unless | Callable[[Any], ExportLogsServiceResponse] | None,
        delay_s: float = 0,
        tls: Tls | None = None,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        super().__init__(replies, delay_s)
        self._server = grpc.server(
            ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0), *options]
        )
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        if tls is None:
            self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            port = self._server.add_secure_port("127.0.0.1:0", tls.credentials())
            self.endpoint = f"https://127.0.0.1:{port}"
        self._server.start()

    @property
    def exporter(self) -> dict[str, Any]:
        return {"otlp-grpc": {"endpoint": self.endpoint}}

    def Export(self, message: Any, context: Any) -> ExportLogsServiceResponse:  # noqa: N802
        headers = dict(context.invocation_metadata())
        reply = self.next_reply(headers, message.ByteSize())
        if isinstance(reply, Unless):
            reply = reply.to(message)
        if reply is HANG_UP:
            reply = Reply(code=grpc.StatusCode.CANCELLED)
        if not isinstance(reply, Reply):
            response: ExportLogsServiceResponse = reply(context)
            return response
        if reply.code is not grpc.StatusCode.OK:
            abort(reply.code, reply.message, retry_s=reply.retry_after_s)(context)
        self.accept(ReceivedRequest("grpc", headers, message))
        return reply.response()

    def reason(self, reply: Reply) -> str:
        return f"gRPC {reply.code.name}: {reply.message}"

    def stop(self) -> None:
        self._server.stop(0).wait(5)


def abort(
    code: grpc.StatusCode,
    message: str = "says no",
    *,
    retry_s: float | None = None,
    details: tuple[str, bytes] | None = None,
) -> Callable[[Any], ExportLogsServiceResponse]:
    """Return a function that aborts a gRPC call, with a retry delay or other details if given."""

    def answer(context: Any) -> ExportLogsServiceResponse:
        if retry_s is not None:
            info = RetryInfo()
            # Not with `FromTimedelta`, which refuses an invalid delay.
            info.retry_delay.seconds = int(retry_s)
            info.retry_delay.nanos = int((retry_s - int(retry_s)) * 1_000_000_000)
            status = Status(code=8)
            status.details.add().Pack(info)
            packed = ("grpc-status-details-bin", status.SerializeToString())
            context.set_trailing_metadata((packed,))
        elif details is not None:
            context.set_trailing_metadata((details,))
        context.abort(code, message)
        raise AssertionError

    return answer


def over_http(receiver: Receiver) -> dict[str, Any]:
    """Return the `exporter` setting for a receiver over HTTP."""
    return {"otlp-http": {"endpoint": receiver.http_endpoint}}


def over_grpc(receiver: Receiver) -> dict[str, Any]:
    """Return the `exporter` setting for a receiver over gRPC."""
    return {"otlp-grpc": {"endpoint": receiver.grpc_endpoint}}


class Gate:
    """A port in front of the collector at `endpoint`. It begins open.

    Each change closes all connections. The port stays the same.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname, parts.port)
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._connected = threading.Condition(self._lock)
        self._listener = self._bind(0)
        self._port: int = self._listener.getsockname()[1]
        self.endpoint = parts._replace(netloc=f"127.0.0.1:{self._port}").geturl()
        self._silenced = threading.Event()
        self.open()

    def open(self) -> None:
        """Forward everything."""
        self._change(self._pass_on)

    def lead_to(self, endpoint: str) -> None:
        """Forward everything to another collector."""
        parts = urlsplit(endpoint)
        self._target = (parts.hostname, parts.port)
        self.open()

    def silence(self) -> None:
        """Stop forwarding on the current connections, without closing them."""
        with self._lock:
            self._silenced.set()
            self._silenced = threading.Event()

    def refuse(self) -> None:
        """Refuse connections, like a port without a listener."""
        self._change(None)

    def hang(self) -> None:
        """Accept connections, but never read or write."""
        self._change(lambda _: None)

    def reset(self) -> None:
        """Reset each connection after the first byte."""
        self._change(_reset)

    def wait_for_connection(self) -> bool:
        """Wait until a client is connected; return False after 20 seconds."""
        with self._connected:
            return self._connected.wait_for(lambda: bool(self._connections), timeout=20)

    def close(self) -> None:
        with self._lock:
            _stop_listening(self._listener)
            self._listener.close()
        self._hang_up()

    def _bind(self, port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        return bound

    def _change(self, serve: Callable[[socket.socket], None] | None) -> None:
        with self._lock, self._listener as before:
            _stop_listening(before)
            # Before the other one is closed: another program could get the port in between.
            self._listener = listener = self._bind(self._port)
        self._hang_up()
        if serve is not None:
            listener.listen(128)
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection = listener.accept()[0]
                with self._connected:
                    if listener is not self._listener:
                        connection.close()
                        return
                    self._connections.append(connection)
                    self._connected.notify_all()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        try:
            collector = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        with self._lock:
            self._connections.append(collector)
            silenced = self._silenced
        threading.Thread(target=_pump, args=(collector, client, silenced), daemon=True).start()
        _pump(client, collector, silenced)

    def _hang_up(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _stop_listening(listener: socket.socket) -> None:
    """Refuse connections from now on. The socket stays bound to its port."""
    with suppress(OSError):  # it does not listen
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts


def _pump(source: socket.socket, sink: socket.socket, silenced: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            if not silenced.is_set():
                sink.sendall(data)
    if silenced.is_set():
        return
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
