"""Receives OTLP/gRPC, as https://opentelemetry.io/docs/specs/otlp/#otlpgrpc has it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Full
from socketserver import BaseRequestHandler
from typing import Any, NoReturn

from ..text import brief
from . import messages, refusals
from .connections import HTTP2_PREFACE, TLS_HANDSHAKE, ConnectionServer
from .http_server import BUSY
from .received import ReceivedRequest
from .refusals import LOGS_METHOD, OTHER_SIGNALS, Refuse, other_signal

_LOOPBACK = "127.0.0.1"
_PUMPED_BYTES = 1 << 16


class _GrpcFront(ConnectionServer):
    """Passes connections on to the gRPC server, and reports those in another protocol.

    gRPC's own server hangs up on such a connection without telling the application.
    """

    def __init__(self, address: tuple[str, int], refuse: Refuse) -> None:
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
        if first.startswith(HTTP2_PREFACE):
            return True
        if HTTP2_PREFACE.startswith(first):
            return False
        if first.startswith(TLS_HANDSHAKE):
            self.server.refuse(refusals.TLS, refusals.USE_GRPC_PLAINTEXT)
        elif first[:1].isupper():
            self.server.refuse("HTTP/1 at the port for OTLP/gRPC", refusals.USE_OTHER_GRPC)
        else:
            reason = "neither HTTP nor TLS at the port for OTLP/gRPC"
            self.server.refuse(reason, refusals.USE_GRPC)
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


class GrpcServer:
    """Hands each request to `receive`; without the package `grpcio` it does nothing."""

    def __init__(
        self,
        address: tuple[str, int],
        receive: Callable[[ReceivedRequest], object],
        refuse: Refuse,
    ) -> None:
        self._receive = receive
        self._refuse = refuse
        self._front: _GrpcFront | None = None
        try:
            import grpc
        except ImportError:
            return
        self._grpc = grpc
        front = _GrpcFront(address, refuse)
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
        """Stop listening, give calls in progress a second to end, and hang up."""
        if self._front is not None:
            self._front.stop()
            self._server.stop(grace=1).wait(timeout=2)
            self._workers.shutdown()
            self._front.hang_up()

    def service(self, call: Any) -> Any:
        """Return the handler of a call of any method, as `grpc.GenericRpcHandler` requires."""
        if call.method == LOGS_METHOD:
            return self._grpc.unary_unary_rpc_method_handler(self._export)
        return self._grpc.unary_unary_rpc_method_handler(partial(self._unknown, call.method))

    def _export(self, body: bytes, context: Any) -> bytes:
        """Receive one export request."""
        headers = dict(context.invocation_metadata())
        try:
            # Not as gRPC's deserializer, for which gRPC prints a traceback.
            message = messages.parse(body, "grpc")
        except Exception as error:
            reason = f"the message cannot be read: {type(error).__name__}"
            self._abort(context, "INVALID_ARGUMENT", self._refuse(reason, refusals.SEND_LOGS))
        try:
            self._receive(ReceivedRequest("grpc", headers, message))
        except Full:
            self._abort(context, "UNAVAILABLE", BUSY)
        return messages.EMPTY_RESPONSE

    def _unknown(self, method: str, body: bytes, context: Any) -> bytes:
        """Refuse a call of another method than the one for logs."""
        if method in OTHER_SIGNALS:
            short = method.rpartition(".")[2]
            refusal = other_signal(short, OTHER_SIGNALS[method])
        else:
            refusal = f"{brief(method)}: unknown method", refusals.USE_LOGS_METHOD
        self._abort(context, "UNIMPLEMENTED", self._refuse(*refusal))

    def _abort(self, context: Any, code: str, text: object) -> NoReturn:
        context.abort(self._grpc.StatusCode[code], str(text))
        raise AssertionError
