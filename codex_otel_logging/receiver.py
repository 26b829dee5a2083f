"""A local OTLP log receiver: HTTP (protobuf and JSON, gzip or not) and gRPC on one object.

For the demo, the command line, and tests, an application's own included:

    with Receiver() as receiver:
        ...  # log to receiver.http_endpoint or receiver.grpc_endpoint
        events = receiver.wait_for(3, timeout=5)
    assert [event.name for event in events] == [...]
    assert events[0].attributes["prompt"] == "[REDACTED]"

It listens on loopback and keeps everything in memory, unless `on_request` takes it. It is no
collector for production.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Full
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Literal, NoReturn

try:
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
    )
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
except ImportError as error:
    raise ImportError(
        "the receiver needs an extra package: pip install 'codex_otel_logging[otel]'"
    ) from error

from . import catalog
from .commands.console import shown
from .redaction import REDACTED, Redaction

Transport = Literal["http/protobuf", "http/json", "grpc"]

LOGS_PATH = "/v1/logs"

_LOGS_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

_OTHER_SIGNALS = {
    "/v1/traces": "traces",
    "/v1/metrics": "metrics",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
}
"""What OTLP sends to other paths and methods."""

_TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection, which no HTTP method begins with."""

_HTTP2_PREFACE = b"PRI * HTTP/2.0"
"""How an HTTP/2 connection begins: https://www.rfc-editor.org/rfc/rfc9113#section-3.4"""

_TLS = "TLS at a plaintext port"
_USE_HTTP = "set the sender's endpoint to {http}"
_USE_BASE = "the sender appends the path itself: set its endpoint to {base}"
_USE_GRPC = "set the sender's endpoint to {grpc}"
_USE_OTHER_HTTP = "set the sender's protocol to http/protobuf, or its endpoint to {grpc}"
_USE_OTHER_GRPC = "set the sender's protocol to grpc, or its endpoint to {http}"
_USE_HTTP_PLAINTEXT = "set the sender's endpoint to {http}, without TLS"
_USE_GRPC_PLAINTEXT = "set the sender's endpoint to {grpc}, without TLS"
_USE_LOGS_METHOD = f"call {_LOGS_METHOD}"
_USE_POST = "browsers and health checks get no other answer; a sender must use POST"
_USE_PROTOBUF = "set the sender's protocol to http/protobuf or http/json"
_USE_GZIP = "set the sender's compression to gzip or none"
_SEND_LOGS = "send an ExportLogsServiceRequest"
_SEND_ENCODED = f"{_SEND_LOGS}, encoded as the Content-Type says"

_LOOPBACK = "127.0.0.1"
_PUMPED_BYTES = 1 << 16
_BUSY = "not now; send it again"
_MAX_NAMES = 20
_MAX_SHOWN = 60
_COMMON = frozenset(f.name for f in catalog.COMMON_FIELDS)
_SENSITIVE = Redaction(log_user_prompt=False, log_tool_payloads=False)


@dataclass(frozen=True, slots=True, repr=False)
class ReceivedEvent:
    """One log record, as it arrived. Ids are hexadecimal text, empty when there are none."""

    event_name: str
    body: Any
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: str
    time_unix_nano: int
    observed_time_unix_nano: int
    severity_number: int
    severity_text: str
    trace_id: str
    span_id: str
    transport: Transport

    @property
    def name(self) -> str:
        """The event's name, wherever the sender put it: attribute, event name or body."""
        return str(self.attributes.get("event.name") or self.event_name or self.body or "")

    def __repr__(self) -> str:
        """Return its name and own attributes on one line: long values cut, no sensitive text."""
        name = self.name
        sensitive = _SENSITIVE.removed_fields(catalog.find(name) or catalog.EventType(name))
        fields = (
            f" {key}={_brief(value, key in sensitive)}"
            for key, value in self.attributes.items()
            if key not in _COMMON
        )
        return f"<{_brief(name, False)}{''.join(fields)}>"


def _brief(value: Any, sensitive: bool) -> str:
    text = str(value)
    if len(text) > _MAX_SHOWN or (sensitive and text != REDACTED):
        return f"({len(text)} characters)" if sensitive else f"{shown(text[:_MAX_SHOWN])}..."
    return shown(text)


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One export request: how it came, its headers in lower case, and what was in it."""

    transport: Transport
    headers: Mapping[str, str] = field(repr=False)
    message: ExportLogsServiceRequest = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that was not received.

    `transport` is the protocol of the port it was sent to, `reason` what is wrong with it, `advice`
    what to change at the sender. Both are single lines of printable text.
    """

    transport: Literal["http", "grpc"]
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


class PortError(OSError):
    """A port that cannot be listened on; `port` is its number."""

    def __init__(self, error: OSError, host: str, port: int) -> None:
        super().__init__(error.errno, f"cannot listen on {host}:{port}: {error.strerror}")
        self.port = port


class Receiver:
    """Receives log records over OTLP/HTTP and OTLP/gRPC; a context manager.

    It listens as soon as it is built, over gRPC only where the package `grpcio` is installed. All
    methods may be called from any thread.

    Args:
        host: address to listen on.
        http_port: port for HTTP; 0 takes a free one.
        grpc_port: port for gRPC; 0 takes a free one.
        on_request: called with each request, instead of keeping it: what `events_of` finds in it is
            the function's to keep, `events` and `requests` stay empty, and the memory used does not
            grow. It is called from the receiver's threads, several at once, and the sender has no
            answer before it returns. When it raises `queue.Full`, the sender is told to send
            the request again (HTTP 503, gRPC UNAVAILABLE), so the `put_nowait` of a `queue.Queue`
            will do. Any other exception fails the request for good, and is printed on stderr.
        on_refused: called with each request that is refused, such as one to another path, before
            the sender is answered. It is called from the receiver's threads, several at once. An
            exception that it raises is printed on stderr, and the sender gets no answer.

    Raises:
        PortError: a port is taken, or not allowed; an `OSError`.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        on_request: Callable[[ReceivedRequest], object] | None = None,
        on_refused: Callable[[RefusedRequest], object] | None = None,
    ) -> None:
        self._on_refused = on_refused
        self._arrival = threading.Condition()
        self._requests: list[ReceivedRequest] = []
        self._events: list[ReceivedEvent] = []
        self._host = host
        receive = on_request or self._keep
        self._http = _HttpServer((host, http_port), receive, partial(self._refuse, "http"))
        try:
            self._grpc = _GrpcServer(host, grpc_port, receive, partial(self._refuse, "grpc"))
        except BaseException:
            self._http.stop()
            raise
        self._http.start()

    @property
    def http_endpoint(self) -> str:
        """The address for an `otlp-http` exporter."""
        return f"http://{self._host}:{self._http.port}{LOGS_PATH}"

    @property
    def grpc_endpoint(self) -> str:
        """The address for an `otlp-grpc` exporter.

        Raises:
            ImportError: the package `grpcio` is not installed.

        """
        return f"http://{self._host}:{self._grpc.port}"

    @property
    def events(self) -> list[ReceivedEvent]:
        """The events that have arrived so far, in the order of their arrival; a copy."""
        with self._arrival:
            return list(self._events)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests that have arrived so far; a copy."""
        with self._arrival:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedEvent]:
        """Wait until `count` events have arrived in all, and return all that have.

        Raises:
            TimeoutError: fewer arrived within `timeout` seconds; says how many, and their names.

        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self._events) >= count, timeout):
                raise TimeoutError(
                    f"{len(self._events)} of {count} events arrived within {timeout:g} s"
                    f"{_names_of(self._events)}"
                )
            return list(self._events)

    def close(self) -> None:
        """Stop listening, and close the connections. Blocks for about two seconds at most."""
        self._http.stop()
        self._http.hang_up()
        self._grpc.stop()

    def __enter__(self) -> Receiver:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse(
        self, transport: Literal["http", "grpc"], reason: str, advice: str
    ) -> RefusedRequest:
        """Report a refused request and return it; `advice` may name this receiver's endpoints."""
        try:
            grpc = self.grpc_endpoint
        except ImportError:
            grpc = "a collector that receives OTLP/gRPC"
        http = self.http_endpoint
        base = http.removesuffix(LOGS_PATH)
        refused = RefusedRequest(transport, reason, advice.format(http=http, base=base, grpc=grpc))
        if self._on_refused is not None:
            self._on_refused(refused)
        return refused

    def _keep(self, request: ReceivedRequest) -> None:
        events = list(events_of(request))
        with self._arrival:
            self._requests.append(request)
            self._events += events
            self._arrival.notify_all()


def _names_of(events: Iterable[ReceivedEvent]) -> str:
    """Return the end of a message: which events there are, each name once."""
    counts = Counter(event.name for event in events)
    names = [
        _brief(name, False) + (f" ({count} times)" if count > 1 else "")
        for name, count in counts.most_common(_MAX_NAMES)
    ]
    if len(counts) > _MAX_NAMES:
        names.append(f"and {len(counts) - _MAX_NAMES} more")
    return f": {', '.join(names)}" if names else ""


def events_of(request: ReceivedRequest) -> Iterator[ReceivedEvent]:
    """Yield the events of a request, in their order."""
    for resource_logs in request.message.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield ReceivedEvent(
                    event_name=record.event_name,
                    body=_value(record.body),
                    attributes=_attributes(record.attributes),
                    resource=resource,
                    scope=scope_logs.scope.name,
                    time_unix_nano=record.time_unix_nano,
                    observed_time_unix_nano=record.observed_time_unix_nano,
                    severity_number=int(record.severity_number),
                    severity_text=record.severity_text,
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    transport=request.transport,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    """Return an OTLP value as the Python value it came from."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)


_Receive = Callable[[ReceivedRequest], object]
_Refuse = Callable[[str, str], RefusedRequest]
"""Takes the reason and the advice."""


class _ConnectionServer(ThreadingMixIn, TCPServer):
    """Serves each connection in a thread of its own, and can hang up on all of them.

    It listens as soon as it is built.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: type[BaseRequestHandler], refuse: _Refuse
    ) -> None:
        self.refuse = refuse
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="receiver", daemon=True
        )

    def start(self) -> None:
        """Begin to serve connections."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join(timeout=1)
        self.server_close()

    def hang_up(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        """Bind, and say which port it is about when that is impossible."""
        host, port = self.server_address[:2]
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((host, port))
        except OSError as error:
            raise PortError(error, str(host), port) from error
        self.port: int = self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, and remember it."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _HttpServer(_ConnectionServer):
    """Hands each decoded request to `receive`."""

    def __init__(self, address: tuple[str, int], receive: _Receive, refuse: _Refuse) -> None:
        super().__init__(address, _HttpHandler, refuse)
        self.receive = receive


class _RefusalError(Exception):
    """A request that is answered with an error status, and what to change at its sender."""

    def __init__(self, status: int, reason: str, advice: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.advice = advice
        self.headers = headers


class _HttpHandler(BaseHTTPRequestHandler):
    """Answers as https://opentelemetry.io/docs/specs/otlp/#otlphttp says."""

    server: _HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Where a connection does not begin with a request, the base class has set none of these.
    requestline = command = ""
    raw_requestline = b""

    def handle_one_request(self) -> None:
        """Serve one request, or end a connection that does not begin as HTTP does."""
        if self.rfile.peek(1).startswith(_TLS_HANDSHAKE):  # type: ignore[attr-defined]
            self._refuse_connection(_RefusalError(400, _TLS, _USE_HTTP_PLAINTEXT))
        else:
            super().handle_one_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the base class does not take for a POST request."""
        if self.raw_requestline.startswith(_HTTP2_PREFACE):
            reason = "HTTP/2, which gRPC uses, at the port for OTLP/HTTP"
            refusal = _RefusalError(code, reason, _USE_OTHER_HTTP)
        elif code == HTTPStatus.NOT_IMPLEMENTED:
            reason = f"{_brief(self.command, False)} {_path(self.path)}: OTLP requests use POST"
            refusal = _RefusalError(405, reason, _USE_POST, ("Allow", "POST"))
        else:
            refusal = _RefusalError(code, f"not HTTP: {HTTPStatus(code).phrase}", _USE_HTTP)
        self._refuse_connection(refusal)

    def do_POST(self) -> None:
        """Receive one export request."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            body = self._body(headers)
            transport = self._transport(headers)
            try:
                if headers.get("content-encoding", "identity").lower() == "gzip":
                    body = gzip.decompress(body)
                message = _PARSERS[transport](body)
            except Exception as error:
                reason = f"the body cannot be read: {type(error).__name__}"
                raise _RefusalError(400, reason, _SEND_ENCODED) from error
        except _RefusalError as refusal:
            self._refuse(refusal)
            return
        try:
            self.server.receive(ReceivedRequest(transport, headers, message))
        except Full:
            self._answer(
                503, "text/plain; charset=utf-8", f"{_BUSY}\n".encode(), ("Retry-After", "1")
            )
            return
        except BaseException:
            self._answer(500, "text/plain; charset=utf-8", b"the receiver failed\n")
            raise
        if transport == "http/json":
            self._answer(200, "application/json", b"{}")
        else:
            empty = ExportLogsServiceResponse().SerializeToString()
            self._answer(200, "application/x-protobuf", empty)

    def _transport(self, headers: Mapping[str, str]) -> Transport:
        """Return how the logs were encoded, if they came to the right place in a known form."""
        path = self.path.partition("?")[0]
        if path in _OTHER_SIGNALS:
            raise _RefusalError(404, *_other_signal(f"POST {path}", _OTHER_SIGNALS[path]))
        if path != LOGS_PATH:
            advice = _USE_BASE if path.endswith(2 * LOGS_PATH) else _USE_HTTP
            raise _RefusalError(404, f"POST {_path(path)}: unknown path", advice)
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            reason = f"unsupported Content-Encoding {_brief(encoding, False)}"
            raise _RefusalError(415, reason, _USE_GZIP)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "application/x-protobuf":
            return "http/protobuf"
        if media_type == "application/json":
            return "http/json"
        reason = f"unsupported Content-Type {_brief(media_type, False)}"
        advice = _USE_OTHER_HTTP if media_type.startswith("application/grpc") else _USE_PROTOBUF
        raise _RefusalError(415, reason, advice)

    def _body(self, headers: Mapping[str, str]) -> bytes:
        try:
            if headers.get("transfer-encoding", "").lower() != "chunked":
                return self._read(int(headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self._read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
        except ValueError as error:
            self.close_connection = True  # where the next request begins is not known
            reason = "the body does not have the length that the request gives"
            raise _RefusalError(400, reason, _SEND_ENCODED) from error
        return body

    def _read(self, size: int) -> bytes:
        if size < 0:
            raise ValueError(size)
        read = self.rfile.read(size)
        if len(read) < size:
            raise ValueError(size)
        return read

    def _refuse_connection(self, refusal: _RefusalError) -> None:
        """Refuse, and hang up: where the next request begins is not known."""
        self.request_version = self.protocol_version  # answer with a status line in any case
        self.close_connection = True
        self._refuse(refusal)

    def _refuse(self, refusal: _RefusalError) -> None:
        refused = self.server.refuse(refusal.reason, refusal.advice)
        text = f"{refused}\n".encode()
        self._answer(refusal.status, "text/plain; charset=utf-8", text, *refusal.headers)

    def _answer(self, status: int, content_type: str, body: bytes, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in more:
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the receiver's user reads `events`."""


def _path(path: str) -> str:
    """Return a request's path for people, without a query, which may hold a secret."""
    return _brief(path.partition("?")[0], False)


def _other_signal(what: str, signal: str) -> tuple[str, str]:
    """Return why traces and the like are refused, and what to do about it."""
    return (
        f"{what}: {signal} are not received, only logs",
        f"turn off the sender's exporter of {signal}, or point it at a collector for them",
    )


def request_from_json(document: dict[str, Any]) -> ExportLogsServiceRequest:
    """Return an OTLP/JSON request as protobuf. Ids, which OTLP writes in hexadecimal, come through.

    https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """
    request = ParseDict(
        _without_ids(document), ExportLogsServiceRequest(), ignore_unknown_fields=True
    )
    documents = (
        record
        for resource in document.get("resourceLogs", ())
        for scope in resource.get("scopeLogs", ())
        for record in scope.get("logRecords", ())
    )
    records = (
        record
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    )
    for source, record in zip(documents, records, strict=True):
        record.trace_id = bytes.fromhex(source.get("traceId") or "")
        record.span_id = bytes.fromhex(source.get("spanId") or "")
    return request


_PARSERS: dict[Transport, Callable[[bytes], ExportLogsServiceRequest]] = {
    "http/protobuf": ExportLogsServiceRequest.FromString,
    "http/json": lambda body: request_from_json(json.loads(body)),
}


def _without_ids(value: Any) -> Any:
    """Return a copy of a JSON document without ids, and without nulls, which OTLP ignores."""
    if isinstance(value, dict):
        return {
            key: _without_ids(item)
            for key, item in value.items()
            if key not in ("traceId", "spanId") and item is not None
        }
    if isinstance(value, list):
        return [_without_ids(item) for item in value]
    return value


class _GrpcFront(_ConnectionServer):
    """Passes connections on to the gRPC server, and reports those in another protocol.

    gRPC's own server hangs up on such a connection without telling the application.
    """

    def __init__(self, address: tuple[str, int], refuse: _Refuse) -> None:
        super().__init__(address, _GrpcConnection, refuse)
        self.inner_port = 0


class _GrpcConnection(BaseRequestHandler):
    server: _GrpcFront
    request: socket.socket

    def handle(self) -> None:
        """Pass on what either side sends, until one of them ends the connection."""
        with socket.create_connection((_LOOPBACK, self.server.inner_port)) as server:
            for end in (self.request, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=_pump, args=(server, self.request), daemon=True)
            answers.start()
            _pump(self.request, server, self._look)
            answers.join()

    def _look(self, first: bytes) -> bool:
        """Report another protocol; return whether these first bytes tell which one it is."""
        if first.startswith(_HTTP2_PREFACE):
            return True
        if _HTTP2_PREFACE.startswith(first):
            return False
        if first.startswith(_TLS_HANDSHAKE):
            self.server.refuse(_TLS, _USE_GRPC_PLAINTEXT)
        elif first[:1].isupper():
            self.server.refuse("HTTP/1 at the port for OTLP/gRPC", _USE_OTHER_GRPC)
        else:
            self.server.refuse("neither HTTP nor TLS at the port for OTLP/gRPC", _USE_GRPC)
        return True


def _pump(
    source: socket.socket, sink: socket.socket, look: Callable[[bytes], bool] | None = None
) -> None:
    """Pass on what is sent until the connection ends.

    `look` is called with all bytes so far, until it returns True.
    """
    first = b""
    with suppress(OSError):
        while data := source.recv(_PUMPED_BYTES):
            if look is not None:
                first += data
                if look(first):
                    look = None
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):  # it was ended already
            end.shutdown(socket.SHUT_RDWR)


class _GrpcServer:
    """Hands each request to `receive`; without the package `grpcio` it does nothing."""

    def __init__(self, host: str, port: int, receive: _Receive, refuse: _Refuse) -> None:
        self._receive = receive
        self._refuse = refuse
        self._front: _GrpcFront | None = None
        try:
            import grpc
        except ImportError:
            return
        self._grpc = grpc
        front = _GrpcFront((host, port), refuse)
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="receiver")
        # Without so_reuseport=0, two receivers would share a port and each get some of the events.
        self._server = grpc.server(
            self._workers, handlers=[self], options=[("grpc.so_reuseport", 0)]
        )
        front.inner_port = self._server.add_insecure_port(f"{_LOOPBACK}:0")
        self._server.start()
        front.start()
        self._front = front

    @property
    def port(self) -> int:
        if self._front is None:
            raise ImportError(
                "receiving over gRPC needs an extra package: pip install 'codex_otel_logging[grpc]'"
            )
        return self._front.port

    def stop(self) -> None:
        """Stop listening, give calls that are under way a second to end, and hang up."""
        if self._front is not None:
            self._front.stop()
            self._server.stop(grace=1).wait(timeout=2)
            self._workers.shutdown()
            self._front.hang_up()

    def service(self, call: Any) -> Any:
        """Return what handles a call of any method, as `grpc.GenericRpcHandler` has it."""
        if call.method == _LOGS_METHOD:
            return self._grpc.unary_unary_rpc_method_handler(self._export)
        return self._grpc.unary_unary_rpc_method_handler(partial(self._unknown, call.method))

    def _export(self, body: bytes, context: Any) -> bytes:
        """Receive one export request."""
        headers = dict(context.invocation_metadata())
        try:
            # Not by gRPC, which would print a traceback.
            message = ExportLogsServiceRequest.FromString(body)
        except Exception as error:
            reason = f"the message cannot be read: {type(error).__name__}"
            self._abort(context, "INVALID_ARGUMENT", self._refuse(reason, _SEND_LOGS))
        try:
            self._receive(ReceivedRequest("grpc", headers, message))
        except Full:
            self._abort(context, "UNAVAILABLE", _BUSY)
        return ExportLogsServiceResponse().SerializeToString()

    def _unknown(self, method: str, body: bytes, context: Any) -> bytes:
        """Refuse a call of another method than the one for logs."""
        if method in _OTHER_SIGNALS:
            short = method.rpartition(".")[2]
            refusal = _other_signal(short, _OTHER_SIGNALS[method])
        else:
            refusal = f"{_brief(method, False)}: unknown method", _USE_LOGS_METHOD
        self._abort(context, "UNIMPLEMENTED", self._refuse(*refusal))

    def _abort(self, context: Any, code: str, text: object) -> NoReturn:
        context.abort(self._grpc.StatusCode[code], str(text))
        raise AssertionError
