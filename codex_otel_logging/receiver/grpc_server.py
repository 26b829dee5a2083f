"""Receives OTLP/gRPC (https://opentelemetry.io/docs/specs/otlp/#otlpgrpc)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Full
from socketserver import BaseRequestHandler
from typing import Any, NoReturn

from ..text import brief
from . import connections, messages, refusals
from .bodies import Decompress, from_deflate, from_gzip
from .connections import HTTP2_PREFACE, TLS_HANDSHAKE, ConnectionServer, url_host
from .intake import MAX_CONCURRENT, Intake
from .refusals import LOGS_METHOD, OTHER_SIGNALS, RefusalError, Refuse, other_signal

MAX_AGE_S = 300
"""How long a gRPC connection may last. A client opens another one without failing a call."""

GRACE_S = 30
"""How long calls in progress may take when a connection has reached that age."""

CLOSING_S = 1.0
"""How long calls in progress may take when the server stops."""

LAST_ANSWERS_S = 5.0
"""How long to wait for the last answers to a client that has ended its side.

Without a free descriptor, gRPC's server does not even accept the connection. If the front waited
for that, it would keep the descriptors that gRPC's server needs.
"""

_PUMPED_BYTES = 1 << 16
_CODES = {400: "INVALID_ARGUMENT", 413: "RESOURCE_EXHAUSTED"}
"""The code of gRPC for each HTTP status of a refusal."""


class _GrpcFront(ConnectionServer):
    """Forwards connections to gRPC's own server, and reports those in another protocol.

    gRPC's server closes a connection in another protocol without notifying the application, so an
    `otlp-http` endpoint with gRPC's port would fail without a report.
    """

    inner_port = 0
    """The port of gRPC's own server."""

    def __init__(self, address: tuple[str, int], refuse: Refuse) -> None:
        super().__init__(address, _GrpcConnection, refuse)
        self.inner_host = "::1" if ":" in self.host else "127.0.0.1"


class _GrpcConnection(BaseRequestHandler):
    server: _GrpcFront
    request: socket.socket

    def handle(self) -> None:
        """Forward bytes in both directions until one side ends the connection.

        gRPC's own server ends an idle connection.
        """
        try:
            server = socket.create_connection((self.server.inner_host, self.server.inner_port))
        except OSError:  # the server is closing, or out of descriptors; the client tries again
            return
        with server:
            for end in (self.request, server):
                # Otherwise Nagle's algorithm delays small frames of the second hop.
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=self._forward_answers, args=(server,), daemon=True)
            answers.start()
            _pump(self.request, server, self._detect_protocol)
            # Only this direction: the last answers may still be on their way to the client.
            _shut_down(server, socket.SHUT_WR)
            answers.join(LAST_ANSWERS_S)
            _shut_down(server, socket.SHUT_RDWR)  # ends the thread, if it still waits

    def _forward_answers(self, server: socket.socket) -> None:
        """Forward what gRPC sends, then end the connection."""
        _pump(server, self.request)
        _shut_down(self.request, socket.SHUT_RDWR)

    def _detect_protocol(self, first: bytes) -> bool:
        """Report a protocol other than gRPC; return whether `first` is enough to tell."""
        if HTTP2_PREFACE.startswith(first):  # too short to tell
            return False
        if first.startswith(HTTP2_PREFACE):
            return True
        if first.startswith(TLS_HANDSHAKE):
            self.server.refuse(refusals.TLS, refusals.USE_GRPC_PLAINTEXT)
        elif first[:1].isupper():
            self.server.refuse("HTTP/1 on the OTLP/gRPC port", refusals.USE_OTHER_GRPC)
        else:
            reason = "neither HTTP nor TLS on the OTLP/gRPC port"
            self.server.refuse(reason, refusals.USE_GRPC)
        # The bytes are forwarded anyway: gRPC answers, so that a client that probes for the
        # protocol finds gRPC.
        return True


def _pump(
    source: socket.socket, sink: socket.socket, detect: Callable[[bytes], bool] | None = None
) -> None:
    """Forward bytes until the source ends or the sink cannot be reached.

    `detect` is called with all bytes so far, until it returns True.
    """
    first = b""
    with suppress(OSError):
        while data := source.recv(_PUMPED_BYTES):
            if detect is not None:
                first += data
                if detect(first):
                    detect = None
            sink.sendall(data)


def _shut_down(end: socket.socket, how: int) -> None:
    with suppress(OSError):  # already ended
        end.shutdown(how)


class GrpcServer:
    """Gives each message to `intake`. Without the package `grpcio`, it does nothing."""

    def __init__(self, address: tuple[str, int], intake: Intake, refuse: Refuse) -> None:
        self._intake = intake
        self._refuse = refuse
        self._front: _GrpcFront | None = None
        try:
            import grpc
        except ImportError:
            return
        self._grpc = grpc
        front = _GrpcFront(address, refuse)
        self._workers = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="receiver")
        self._server = grpc.server(
            self._workers, handlers=[self], options=_options(intake.max_bytes)
        )
        front.inner_port = self._server.add_insecure_port(f"{url_host(front.inner_host)}:0")
        self._server.start()
        front.start()
        self._front = front

    @property
    def port(self) -> int:
        """The port for gRPC.

        Raises:
            ImportError: the package `grpcio` is not installed.

        """
        if self._front is None:
            raise ImportError(
                "receiving over gRPC needs an extra package: pip install 'codex_otel_logging[grpc]'"
            )
        return self._front.port

    def stop(self) -> None:
        """Stop listening, give calls in progress a second to end, and end all connections."""
        if self._front is not None:
            self._front.stop()
            self._server.stop(grace=CLOSING_S).wait(timeout=2 * CLOSING_S)
            self._workers.shutdown()
            # gRPC has ended its connections, but the front may not have forwarded the last answers.
            self._front.wait_until_disconnected(CLOSING_S)
            self._front.disconnect_all()

    def service(self, call: Any) -> Any:
        """Return the handler for a call of any method, as `grpc.GenericRpcHandler` requires."""
        # On the wire, a stream of one message equals a single message. But for a stream, gRPC also
        # calls the handler if the message is too large, so that the refusal can be reported.
        if call.method == LOGS_METHOD:
            return self._grpc.stream_unary_rpc_method_handler(self._export)
        return self._grpc.stream_unary_rpc_method_handler(partial(self._unknown, call.method))

    def _export(self, bodies: Iterator[bytes], context: Any) -> bytes:
        """Receive one export request."""
        headers = dict(context.invocation_metadata())
        try:
            # The intake decodes the message. gRPC would print a traceback if it is malformed.
            body = self._message(bodies)
            self._intake.accept("grpc", headers, body, _decompressor(body))
        except RefusalError as refusal:
            refused = self._refuse(refusal.reason, refusal.advice)
            self._abort(context, _CODES[refusal.status], refused)
        except Full:
            self._abort(context, "UNAVAILABLE", refusals.BUSY)
        return messages.EMPTY_RESPONSE

    def _message(self, bodies: Iterator[bytes]) -> bytes:
        """Return the message of a call.

        Raises:
            RefusalError: there is none; gRPC does not report why.

        """
        with suppress(self._grpc.RpcError):
            for body in bodies:
                return body
        _, advice = refusals.too_large(self._intake.max_bytes)
        reason = (
            "the call ended without a message: it was cancelled, "
            f"or the message is larger than {self._intake.max_bytes:,} bytes"
        )
        raise RefusalError(413, reason, advice)

    def _unknown(self, method: str, bodies: Iterator[bytes], context: Any) -> bytes:
        """Refuse a call of a method other than the one for logs."""
        if method in OTHER_SIGNALS:
            short = method.rpartition(".")[2]
            refusal = other_signal(short, OTHER_SIGNALS[method])
        else:
            refusal = f"{brief(method)}: unknown method", refusals.USE_LOGS_METHOD
        self._abort(context, "UNIMPLEMENTED", self._refuse(*refusal))

    def _abort(self, context: Any, code: str, text: object) -> NoReturn:
        context.abort(self._grpc.StatusCode[code], str(text))  # raises
        raise AssertionError


def _decompressor(body: bytes) -> Decompress | None:
    """Return the function that decompresses a message, or None if it is not compressed."""
    # With its own decompression off, gRPC does not report whether or how a message is compressed.
    # The first bytes are enough: no protobuf message begins like gzip, and only one with a field 15
    # like deflate; OTLP has no such field there.
    if body.startswith(b"\x1f\x8b"):
        return from_gzip
    if body.startswith((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")):
        return from_deflate
    return None


def _options(max_request_bytes: int) -> list[tuple[str, int]]:
    return [
        # Otherwise two receivers could share a port, and each would get some of the events.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_request_bytes),
        # Off, because grpcio 1.63 decompresses without a limit; `_decompressor` has one.
        ("grpc.per_message_decompression", 0),
        ("grpc.max_concurrent_streams", 100),
        ("grpc.max_connection_idle_ms", int(connections.IDLE_TIMEOUT_S * 1000)),
        # Also ends calls whose message never arrives; they would occupy all threads of the pool.
        ("grpc.max_connection_age_ms", MAX_AGE_S * 1000),
        ("grpc.max_connection_age_grace_ms", GRACE_S * 1000),
    ]
