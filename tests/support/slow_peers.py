"""Peers that send or read slowly, for tests of deadlines."""

from __future__ import annotations

import socket

from support import http2
from support.scripted_peers import OK, Serve, drip, dripping, silent

SLOW = b"X-Slow: " + b"a" * 200 + b"\r\n"
"""A header that takes four seconds when sent byte by byte."""

SLOW_ANSWERS: dict[str, Serve] = {
    "none": silent,
    "status line": dripping(b" " * 200 + b"OK\r\nContent-Length: 0\r\n\r\n", first=b"HTTP/1.1 200"),
    "headers": dripping(SLOW + b"Content-Length: 0\r\n\r\n", first=b"HTTP/1.1 200 OK\r\n"),
    "100 Continue": dripping(SLOW + b"\r\n" + OK, first=b"HTTP/1.1 100 Continue\r\n"),
    "103 Early Hints": dripping(SLOW + b"\r\n" + OK, first=b"HTTP/1.1 103 Early Hints\r\n"),
    "interim answers without end": dripping(b"HTTP/1.1 102 Processing\r\n\r\n" * 8 + OK),
}


def slow_handshake(connection: socket.socket) -> None:
    """Begin a TLS record and send it byte by byte."""
    connection.recv(65_536)
    drip(connection, b"\x16\x03\x03\x40\x00" + bytes(200))


TUNNEL = b"HTTP/1.1 200 Connection established\r\n"

SLOW_TUNNELS: dict[str, Serve] = {
    "none": silent,
    "status line": dripping(b" " * 200 + b"OK\r\n\r\n", first=b"HTTP/1.1 200"),
    "headers": dripping(SLOW + b"\r\n", first=TUNNEL),
    "interim answer": dripping(SLOW + b"\r\n" + TUNNEL + b"\r\n", first=b"HTTP/1.1 103 Early\r\n"),
}


def begun(stream: int) -> bytes:
    """Return the headers of an answer to a call."""
    return http2.headers(stream, http2.GRPC)


SLOW_CALLS: dict[str, Serve] = {
    "none": silent,
    "settings": http2.answering(http2.accepted, first=http2.LONG_SETTINGS),
    "answer": http2.answering(lambda _: b""),
    "message": http2.answering(begun),
    "status": http2.answering(lambda stream: begun(stream) + http2.data(stream, http2.MESSAGE)),
}

BODY = b"a" * 200

BODIES = {
    "with a length": b"Content-Length: 200\r\n\r\n",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n" + b"c8\r\n",
    "until the connection ends": b"Connection: close\r\n\r\n",
    "an event stream": b"Content-Type: text/event-stream\r\n\r\n",
}
