"""Receives OTLP/HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp).

A request is refused before its body is read, if its line and headers are enough to tell.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from email.errors import (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from queue import Full
from typing import Any
from urllib.parse import urlsplit

from ..config.endpoints import LOGS_PATH
from ..text import brief
from . import connections, messages, refusals
from .bodies import Decompress, from_gzip, has_body, read_body
from .connections import HTTP2_PREFACE, TLS_HANDSHAKE, ConnectionServer
from .intake import Intake
from .received import Transport
from .refusals import OTHER_SIGNALS, RefusalError, Refuse, other_signal

REQUEST_TIMEOUT_S = 30.0
"""How long a whole request may take to arrive."""

_LINGER_S = 2.0
"""How long the rest of a refused request is read, so that the client sees the answer."""

_LINGER_BYTES = 16 << 20
"""How much of that rest is read."""

_HEADER_DEFECTS = (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
"""What Python's parser, which is one for e-mail, notes about lines that are not headers."""

_TEXT = "text/plain; charset=utf-8"
_TRANSPORTS: Mapping[str, Transport] = {
    "application/x-protobuf": "http/protobuf",
    "application/json": "http/json",
}


class HttpServer(ConnectionServer):
    """Gives the body of each acceptable request to `intake`."""

    def __init__(self, address: tuple[str, int], intake: Intake, refuse: Refuse) -> None:
        super().__init__(address, _HttpHandler, refuse)
        self.intake = intake


class _HttpHandler(BaseHTTPRequestHandler):
    """Serves one connection."""

    server: HttpServer
    request: socket.socket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # The base class sets these when it has read a request line. A refusal may come before.
    requestline = command = ""
    raw_requestline = b""
    _unread = False
    """Whether the client may have sent bytes that were not read, such as a body."""
    _awaits_continue = False
    """Whether the client waits for 100 Continue before it sends the body."""

    def setup(self) -> None:
        """Begin to serve the connection, with the idle timeout."""
        super().setup()
        self.server.disconnect_after(self.request, connections.IDLE_TIMEOUT_S)

    def handle_one_request(self) -> None:
        """Serve one request, or refuse a TLS connection."""
        self._unread = self._awaits_continue = False
        # Blocks until the first byte. The time limit of a request begins with it, however long the
        # connection was idle.
        first = self.rfile.peek(1)  # type: ignore[attr-defined]
        self.server.disconnect_after(self.request, REQUEST_TIMEOUT_S)
        if first.startswith(TLS_HANDSHAKE):
            self._refuse_connection(RefusalError(400, refusals.TLS, refusals.USE_HTTP_PLAINTEXT))
        else:
            super().handle_one_request()

    def handle_expect_100(self) -> bool:
        """Postpone 100 Continue until the request is known to be acceptable."""
        self._awaits_continue = True
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the base class rejects: other methods, and anything but HTTP/1."""
        if self.raw_requestline.startswith(HTTP2_PREFACE):
            reason = "HTTP/2, which gRPC uses, on the OTLP/HTTP port"
            refusal = RefusalError(code, reason, refusals.USE_OTHER_HTTP)
        elif code == HTTPStatus.NOT_IMPLEMENTED:
            reason = f"{brief(self.command)} {_path(self.path)}: OTLP requests use POST"
            refusal = RefusalError(405, reason, refusals.USE_POST, ("Allow", "POST"))
        else:
            refusal = RefusalError(code, f"not HTTP: {HTTPStatus(code).phrase}", refusals.USE_HTTP)
        self._refuse_connection(refusal)

    def do_POST(self) -> None:
        """Receive one export request."""
        # Repeated headers are joined (RFC 9110, 5.3), so that none of them hides another: two
        # Content-Length headers must be as invalid as "2, 3".
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known}, {value}"
        self._unread = has_body(headers)
        try:
            self._check_header_lines()
            self._check_host_and_origin(headers)
            self._check_path()
            transport = _transport(headers)
            decompress = _decompressor(headers)
            body = self._read_body(headers)
            self._accept(transport, headers, body, decompress)
        except RefusalError as refusal:
            # An unread body may hold a second request that a proxy did not see.
            self.close_connection |= self._unread
            self._refuse(refusal)

    def finish(self) -> None:
        """Flush the answer and give the client time to read it."""
        super().finish()
        if not self._unread:
            return
        # Closing a connection with unread data resets it, and the client may lose the answer
        # (https://www.rfc-editor.org/rfc/rfc9112#section-9.6). So the rest is read and discarded.
        self.server.disconnect_after(self.request, _LINGER_S)
        left = _LINGER_BYTES
        with suppress(OSError):  # the client has already closed it
            self.request.shutdown(socket.SHUT_WR)
            while left > 0 and (data := self.request.recv(65_536)):
                left -= len(data)

    def _check_header_lines(self) -> None:
        """Refuse a request with a line in its head that is not a header (RFC 9112, 5.1 and 5.2)."""
        # Python's parser ignores such a line and, in most cases, all that follow it. Without a
        # Content-Length that was among these, an empty request would be accepted, and the body
        # would be read as the next request.
        if any(isinstance(defect, _HEADER_DEFECTS) for defect in self.headers.defects):
            self._unread = True
            raise RefusalError(400, "invalid header line", refusals.MALFORMED)

    def _check_host_and_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse requests that a web page makes a browser send to a loopback address."""
        # DNS rebinding: the author of a web page can let a name of theirs resolve to 127.0.0.1. The
        # browser then takes the receiver for part of that site, but it sends the name as `Host`.
        if not self.server.is_local:
            return
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not self._is_local(f"//{host}"):
            reason = f"Host {brief(host)} does not name this machine"
            raise RefusalError(403, reason, refusals.USE_HTTP)
        if origin is not None and not self._is_local(origin):
            reason = f"Origin {brief(origin)} is not this machine"
            raise RefusalError(403, reason, refusals.SEND_FROM_PROGRAM)

    def _is_local(self, url: str) -> bool:
        try:
            host = urlsplit(url).hostname or ""
            if host in ("localhost", self.server.host.lower()) or host.endswith(".localhost"):
                return True
            return ip_address(host).is_loopback
        except ValueError:
            return False

    def _check_path(self) -> None:
        path = self.path.partition("?")[0]
        if path in OTHER_SIGNALS:
            raise RefusalError(404, *other_signal(f"POST {path}", OTHER_SIGNALS[path]))
        if path != LOGS_PATH:
            advice = refusals.USE_BASE if path.endswith(2 * LOGS_PATH) else refusals.USE_HTTP
            raise RefusalError(404, f"POST {_path(path)}: unknown path", advice)

    def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if self._awaits_continue:
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        body = read_body(self.rfile, headers, self.server.intake.max_bytes)
        self._unread = False
        return body

    def _accept(
        self,
        transport: Transport,
        headers: Mapping[str, str],
        body: bytes,
        decompress: Decompress | None,
    ) -> None:
        """Hand over a request and answer it."""
        self.server.disconnect_after(self.request, float("inf"))  # `on_request` has no time limit
        try:
            self.server.intake.accept(transport, headers, body, decompress)
        except RefusalError:
            raise
        except Full:
            self._answer(503, _TEXT, f"{refusals.BUSY}\n".encode(), ("Retry-After", "1"))
        except BaseException:
            self._answer(500, _TEXT, b"the receiver failed; see its standard error\n")
            raise
        else:
            if transport == "http/json":
                self._answer(200, "application/json", b"{}")
            else:
                self._answer(200, "application/x-protobuf", messages.EMPTY_RESPONSE)

    def _refuse_connection(self, refusal: RefusalError) -> None:
        """Refuse a request and end the connection: the next request's position is unknown."""
        self.request_version = self.protocol_version  # HTTP/0.9 would get no status line
        self.close_connection = self._unread = True
        self._refuse(refusal)

    def _refuse(self, refusal: RefusalError) -> None:
        refused = self.server.refuse(refusal.reason, refusal.advice)
        self._answer(refusal.status, _TEXT, f"{refused}\n".encode(), *refusal.headers)

    def _answer(self, status: int, content_type: str, body: bytes, *more: tuple[str, str]) -> None:
        self.server.disconnect_after(self.request, connections.IDLE_TIMEOUT_S)
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
        """Print nothing: users read `Receiver.events`."""


def _transport(headers: Mapping[str, str]) -> Transport:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in _TRANSPORTS:
        return _TRANSPORTS[media_type]
    reason = f"unsupported Content-Type {brief(media_type)}"
    grpc = media_type.startswith("application/grpc")
    raise RefusalError(415, reason, refusals.USE_OTHER_HTTP if grpc else refusals.USE_PROTOBUF)


def _decompressor(headers: Mapping[str, str]) -> Decompress | None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        reason = f"unsupported Content-Encoding {brief(encoding)}"
        raise RefusalError(415, reason, refusals.USE_GZIP)
    return from_gzip if encoding == "gzip" else None


def _path(target: str) -> str:
    """Return a request's path for a message. A query or a whole URL may hold a secret."""
    return brief(target.partition("?")[0]) if target.startswith("/") else "(not a path)"
