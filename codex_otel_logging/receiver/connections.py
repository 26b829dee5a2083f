"""Listens on a port, serves each connection in a thread, and recognizes protocols."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn
from typing import Any

from .refusals import Refuse

TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection, which no HTTP method begins with."""

HTTP2_PREFACE = b"PRI * HTTP/2.0"
"""The beginning of an HTTP/2 connection: https://www.rfc-editor.org/rfc/rfc9113#section-3.4"""


class PortError(OSError):
    """A port that cannot be listened on; `port` is its number."""

    def __init__(self, error: OSError, host: str, port: int) -> None:
        super().__init__(error.errno, f"cannot listen on {host}:{port}: {error.strerror}")
        self.port = port


class ConnectionServer(ThreadingMixIn, TCPServer):
    """Serves each connection in a thread of its own, and can hang up on all of them.

    It listens as soon as it is built, and serves once it is started.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: type[BaseRequestHandler], refuse: Refuse
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
        """Bind, and name the port when that is impossible."""
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
        """Print a traceback, except for a client that hung up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
