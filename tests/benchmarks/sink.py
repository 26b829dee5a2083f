"""A collector that answers at once, in its own process so that its CPU time is not measured.

Usage: sink.py http|grpc [PORT]

Prints its port and then, for each line of its standard input, how much it has received since the
last one. Decodes nothing: each event contains `CALL_ID` once, so counting it counts the events.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

from application import CALL_ID

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class Counts:
    """Counts since the last `take`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = self._requests = self._bytes = 0

    def add(self, body: bytes) -> None:
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        events = body.count(CALL_ID.encode())
        with self._lock:
            self._events += events
            self._requests += 1
            self._bytes += len(body)

    def take(self) -> dict[str, int]:
        with self._lock:
            counts = {"events": self._events, "requests": self._requests, "bytes": self._bytes}
            self._events = self._requests = self._bytes = 0
        return counts


def serve_http(counts: Counts, port: int) -> int:
    """Start answering all HTTP/1.1 requests; return the port."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def accept() -> None:
        while True:
            connection = listener.accept()[0]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while (body := _request_body(stream)) is not None:
                connection.sendall(_ANSWER)  # first, so that the sender does not wait for `add`
                counts.add(body)

    threading.Thread(target=accept, daemon=True).start()
    bound: int = listener.getsockname()[1]
    return bound


def _request_body(stream: BinaryIO) -> bytes | None:
    """Read one request; return its body, or None if the client has closed the connection."""
    length = 0
    chunked = False
    if not stream.readline():
        return None
    while (line := stream.readline().lower()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = b"chunked" in value
    if not chunked:
        return stream.read(length)
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size + 2)[:size]
    stream.readline()
    return body


def serve_grpc(counts: Counts, port: int) -> int:
    """Start answering calls of the OTLP logs service; return the port."""
    import grpc

    def export(request: bytes, _context: Any) -> bytes:
        counts.add(request)
        return b""

    method = grpc.unary_unary_rpc_method_handler(export)
    service = "opentelemetry.proto.collector.logs.v1.LogsService"
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    handler = grpc.method_handlers_generic_handler(service, {"Export": method})
    server.add_generic_rpc_handlers((handler,))
    bound: int = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    # Keeps a reference: a server that is garbage collected stops.
    threading.Thread(target=server.wait_for_termination, daemon=True).start()
    return bound


def main(transport: str, port: int) -> None:
    counts = Counts()
    print((serve_grpc if transport == "grpc" else serve_http)(counts, port), flush=True)
    for _ in sys.stdin:
        print(json.dumps(counts.take()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
