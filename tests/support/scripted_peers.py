"""Servers on loopback that send scripted bytes, at once or one at a time.

A `Peer` serves each connection with a function: for HTTP/1 one from this module, for gRPC one from
`http2`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from support.collectors import Tls

Serve = Callable[[socket.socket], None]
"""Serves one connection. The connection ends when it returns or raises `OSError`."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Peer:
    """Serves each connection with the next function, then repeats the last one.

    A context manager; on exit it closes all connections.
    """

    def __init__(self, *serve: Serve, tls: Tls | None = None) -> None:
        self._serve = chain(serve, repeat(serve[-1]))
        self._tls = tls and tls.context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.connections = 0
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection = self._listener.accept()[0]
                with self._lock:
                    self._open.append(connection)
                    self.connections += 1
                    serve = next(self._serve)
                threading.Thread(target=self._run, args=(connection, serve), daemon=True).start()

    def _run(self, connection: socket.socket, serve: Serve) -> None:
        with suppress(OSError), connection:
            if self._tls is None:
                serve(connection)
            else:
                with self._tls.wrap_socket(connection, server_side=True) as secure:
                    serve(secure)

    def __enter__(self) -> Peer:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


def read_request(connection: socket.socket, begun: bytes = b"") -> None:
    """Read one HTTP/1 request; `begun` is the part that has already been read."""
    data = bytearray(begun)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += receive(connection)
    size = end + 4
    for line in data[:end].lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        size += int(value) if name == b"content-length" else 0
    while len(data) < size:
        data += receive(connection)


def receive(connection: socket.socket) -> bytes:
    """Return the next bytes.

    Raises:
        ConnectionError: the client closed the connection.

    """
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError
    return data


def answering(*answers: bytes) -> Serve:
    """Answer each request with the next answer, then repeat the last one."""

    def serve(connection: socket.socket) -> None:
        for answer in chain(answers, repeat(answers[-1])):
            read_request(connection)
            connection.sendall(answer)

    return serve


def once(answer: bytes) -> Serve:
    """Answer the first request, read the second, and close the connection."""

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)
        read_request(connection)

    return serve


def silent(connection: socket.socket) -> None:
    """Read everything and never answer."""
    while True:
        receive(connection)


def reading_slowly(connection: socket.socket) -> None:
    """Read the first megabytes of a request in two seconds, then accept it."""
    data = b""
    for _ in range(100):
        data += connection.recv(65_536)
        threading.Event().wait(0.02)
    read_request(connection, data)
    connection.sendall(OK)


def tunneling(connection: socket.socket) -> None:
    """Connect to the address of a CONNECT request and forward everything."""
    host, _, port = connection.recv(65_536).split()[1].decode().partition(":")
    with socket.create_connection((host, int(port))) as target:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=_pass_on, args=(target, connection), daemon=True).start()
        _pass_on(connection, target)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket, data: bytes, pause_s: float = 0.02) -> None:
    """Send one byte at a time."""
    for byte in data:
        connection.sendall(bytes([byte]))
        threading.Event().wait(pause_s)


def dripping(data: bytes, *, first: bytes = b"", done: threading.Event | None = None) -> Serve:
    """Answer a request with the `first` bytes at once and `data` byte by byte, then close.

    Sets `done` if the client keeps the connection open until the end.
    """

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(first)
        drip(connection, data)
        if done is not None:
            done.set()

    return serve
