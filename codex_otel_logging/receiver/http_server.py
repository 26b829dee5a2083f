"""Receives OTLP/HTTP, as https://opentelemetry.io/docs/specs/otlp/#otlphttp has it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Full
from typing import Any

from ..text import brief
from . import messages, refusals
from .connections import HTTP2_PREFACE, TLS_HANDSHAKE, ConnectionServer
from .received import LOGS_PATH, ReceivedRequest, Transport
from .refusals import OTHER_SIGNALS, RefusalError, Refuse, other_signal

BUSY = "not now; send it again"

_TEXT = "text/plain; charset=utf-8"


class HttpServer(ConnectionServer):
    """Hands each decoded request to `receive`."""

    def __init__(
        self,
        address: tuple[str, int],
        receive: Callable[[ReceivedRequest], object],
        refuse: Refuse,
    ) -> None:
        super().__init__(address, _HttpHandler, refuse)
        self.receive = receive


class _HttpHandler(BaseHTTPRequestHandler):
    """Serves one connection."""

    server: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Where a connection does not begin with a request, the base class has set none of these.
    requestline = command = ""
    raw_requestline = b""

    def handle_one_request(self) -> None:
        """Serve one request, or end a connection that does not begin as HTTP does."""
        if self.rfile.peek(1).startswith(TLS_HANDSHAKE):  # type: ignore[attr-defined]
            self._refuse_connection(RefusalError(400, refusals.TLS, refusals.USE_HTTP_PLAINTEXT))
        else:
            super().handle_one_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the base class does not take for a POST request."""
        if self.raw_requestline.startswith(HTTP2_PREFACE):
            reason = "HTTP/2, which gRPC uses, at the port for OTLP/HTTP"
            refusal = RefusalError(code, reason, refusals.USE_OTHER_HTTP)
        elif code == HTTPStatus.NOT_IMPLEMENTED:
            reason = f"{brief(self.command)} {_path(self.path)}: OTLP requests use POST"
            refusal = RefusalError(405, reason, refusals.USE_POST, ("Allow", "POST"))
        else:
            refusal = RefusalError(code, f"not HTTP: {HTTPStatus(code).phrase}", refusals.USE_HTTP)
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
                message = messages.parse(body, transport)
            except Exception as error:
                reason = f"the body cannot be read: {type(error).__name__}"
                raise RefusalError(400, reason, refusals.SEND_ENCODED) from error
        except RefusalError as refusal:
            self._refuse(refusal)
            return
        try:
            self.server.receive(ReceivedRequest(transport, headers, message))
        except Full:
            self._answer(503, _TEXT, f"{BUSY}\n".encode(), ("Retry-After", "1"))
            return
        except BaseException:
            self._answer(500, _TEXT, b"the receiver failed\n")
            raise
        if transport == "http/json":
            self._answer(200, "application/json", b"{}")
        else:
            self._answer(200, "application/x-protobuf", messages.EMPTY_RESPONSE)

    def _transport(self, headers: Mapping[str, str]) -> Transport:
        """Return how the logs are encoded, if they came to the right path in a known encoding."""
        path = self.path.partition("?")[0]
        if path in OTHER_SIGNALS:
            raise RefusalError(404, *other_signal(f"POST {path}", OTHER_SIGNALS[path]))
        if path != LOGS_PATH:
            advice = refusals.USE_BASE if path.endswith(2 * LOGS_PATH) else refusals.USE_HTTP
            raise RefusalError(404, f"POST {_path(path)}: unknown path", advice)
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            reason = f"unsupported Content-Encoding {brief(encoding)}"
            raise RefusalError(415, reason, refusals.USE_GZIP)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "application/x-protobuf":
            return "http/protobuf"
        if media_type == "application/json":
            return "http/json"
        reason = f"unsupported Content-Type {brief(media_type)}"
        grpc = media_type.startswith("application/grpc")
        raise RefusalError(415, reason, refusals.USE_OTHER_HTTP if grpc else refusals.USE_PROTOBUF)

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
            raise RefusalError(400, reason, refusals.SEND_ENCODED) from error
        return body

    def _read(self, size: int) -> bytes:
        if size < 0:
            raise ValueError(size)
        read = self.rfile.read(size)
        if len(read) < size:
            raise ValueError(size)
        return read

    def _refuse_connection(self, refusal: RefusalError) -> None:
        """Refuse, and hang up: where the next request begins is not known."""
        self.request_version = self.protocol_version  # answer with a status line in any case
        self.close_connection = True
        self._refuse(refusal)

    def _refuse(self, refusal: RefusalError) -> None:
        refused = self.server.refuse(refusal.reason, refusal.advice)
        self._answer(refusal.status, _TEXT, f"{refused}\n".encode(), *refusal.headers)

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
        """Print nothing: users read `Receiver.events`."""


def _path(path: str) -> str:
    """Return a request's path for people, without a query, which may hold a secret."""
    return brief(path.partition("?")[0])
