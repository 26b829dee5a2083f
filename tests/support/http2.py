"""Minimal HTTP/2 for gRPC answers built frame by frame, including invalid ones.

Frames: https://www.rfc-editor.org/rfc/rfc9113#section-4.1
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from itertools import chain, repeat

from support.scripted_peers import Serve, drip, receive

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_PREFACE = 24

GRPC = {":status": "200", "content-type": "application/grpc"}
STATUS_OK = {"grpc-status": "0"}


def message(response: bytes) -> bytes:
    """Return a response message with gRPC's length prefix."""
    return b"\0" + struct.pack(">I", len(response)) + response


MESSAGE = message(b"")
"""An empty response."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload


SETTINGS = frame(_SETTINGS, 0, 0, b"")
LONG_SETTINGS = frame(_SETTINGS, 0, 0, 33 * b"\xff\x00\x00\x00\x00\x00")
"""Unknown settings, which clients ignore. Sending them byte by byte takes four seconds."""


def headers(stream: int, fields: dict[str, str], *, end: bool = False) -> bytes:
    """Return a HEADERS frame with uncompressed fields."""
    block = b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field)
        for field in fields.items()
    )
    return frame(_HEADERS, _END_HEADERS | (end and _END_STREAM), stream, block)


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return frame(_DATA, end and _END_STREAM, stream, payload)


def accepted(stream: int, response: bytes = MESSAGE) -> bytes:
    """Return a successful answer to a gRPC call."""
    return headers(stream, GRPC) + data(stream, response) + headers(stream, STATUS_OK, end=True)


def going_away(_stream: int) -> bytes:
    """Return a GOAWAY frame, which says that no stream was processed."""
    return frame(_GOAWAY, 0, 0, bytes(8))


def answering(*answers: Callable[[int], bytes], first: bytes = SETTINGS) -> Serve:
    """Return a server that answers each call with the next function, then repeats the last one.

    A function takes the stream's number and returns frames.
    """

    def serve(connection: socket.socket) -> None:
        left = chain(answers, repeat(answers[-1]))
        read = _Reader(connection)
        read(_PREFACE)
        drip(connection, first, 0.02 if len(first) > len(SETTINGS) else 0)
        while True:
            head = read(9)
            payload = read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                answer = payload if kind == _PING else b""
                connection.sendall(frame(kind, _ACK, 0, answer))
            elif kind == _DATA and flags & _END_STREAM:
                connection.sendall(next(left)(stream))

    return serve


class _Reader:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = b""

    def __call__(self, size: int) -> bytes:
        while len(self._data) < size:
            self._data += receive(self._connection)
        data, self._data = self._data[:size], self._data[size:]
        return data
