"""Listens on a port and serves each connection in a thread, with a time limit."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from contextlib import suppress
from ipaddress import ip_address
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn
from time import monotonic, sleep
from typing import Any

from .refusals import Refuse

TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection; no HTTP method begins with it."""

HTTP2_PREFACE = b"PRI * HTTP/2.0"
"""The beginning of an HTTP/2 connection: https://www.rfc-editor.org/rfc/rfc9113#section-3.4"""

IDLE_TIMEOUT_S = 60.0
"""How long a connection may be idle, before its first byte or between requests."""

_CLOSING_POLL_S = 0.005
_POLL_S = 0.05
"""The interval at which `serve_forever` looks for late connections and for `shutdown`."""

_OUT_OF_RESOURCES_PAUSE_S = 0.1
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class PortError(OSError):
    """A port cannot be listened on, usually because it is in use; `port` is its number."""

    def __init__(self, error: OSError, host: str, port: int) -> None:
        where = f"{url_host(host)}:{port}"
        super().__init__(error.errno, f"cannot listen on {where}: {error.strerror}")
        self.port = port


def url_host(host: str) -> str:
    """Return a host as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


class ConnectionServer(ThreadingMixIn, TCPServer):
    """Serves each connection in a thread of its own and ends those that exceed their time.

    It listens as soon as it is built, and serves once it is started.
    """

    daemon_threads = True
    request_queue_size = 128  # the default of 5 is too few when many senders start at once

    def __init__(
        self, address: tuple[str, int], handler: type[BaseRequestHandler], refuse: Refuse
    ) -> None:
        self.host, self.port = address
        self.refuse = refuse
        self.address_family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # Deadlines instead of socket timeouts: a sender of one byte now and then never reaches
        # the timeout of a single operation.
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(address, handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="receiver", daemon=True
        )

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can connect."""
        return ip_address(str(self.server_address[0])).is_loopback

    def start(self) -> None:
        """Begin to serve connections."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join(timeout=1)
        self.server_close()

    def wait_until_disconnected(self, timeout_s: float) -> None:
        """Wait until all connections have ended, for at most `timeout_s` seconds."""
        deadline = monotonic() + timeout_s
        while self._deadlines and monotonic() < deadline:
            sleep(_CLOSING_POLL_S)

    def disconnect_all(self) -> None:
        """End all connections."""
        for connection in list(self._deadlines):
            _end(connection)

    def disconnect_after(self, connection: socket.socket, seconds: float) -> None:
        """End a connection in `seconds`, unless this is called again before then."""
        self._deadlines[connection] = monotonic() + seconds

    def service_actions(self) -> None:
        """End late connections; `serve_forever` calls this several times a second."""
        now = monotonic()
        for connection, deadline in list(self._deadlines.items()):
            if deadline <= now:
                _end(connection)

    def server_bind(self) -> None:
        """Bind the socket.

        Raises:
            PortError: the port is taken or not allowed.

        """
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((self.host, self.port))
        except OSError as error:
            raise PortError(error, self.host, self.port) from error
        self.server_address = self.socket.getsockname()
        self.port = self.server_address[1]

    def get_request(self) -> Any:
        """Accept a connection; pause if no file descriptor or memory is available."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                # The connection stays in the queue and keeps the port readable: without a pause,
                # the loop would spin until a descriptor is free.
                sleep(_OUT_OF_RESOURCES_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, without a deadline at first."""
        self.disconnect_after(request, float("inf"))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and forget its deadline."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback, unless the client closed the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _end(connection: socket.socket) -> None:
    # `shutdown` and not `close`: it wakes up the thread that is reading, which then closes.
    with suppress(OSError):  # the client has already closed it
        connection.shutdown(socket.SHUT_RDWR)
