"""Listens on a port, serves each connection in a thread, and recognizes protocols."""

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
"""The first byte of a TLS connection, which no HTTP method begins with."""

HTTP2_PREFACE = b"PRI * HTTP/2.0"
"""The beginning of an HTTP/2 connection: https://www.rfc-editor.org/rfc/rfc9113#section-3.4"""

IDLE_TIMEOUT_S = 60.0
"""How long a connection may wait for its first byte, or from one request to the next."""

_POLL_ENDS_S = 0.005
_POLL_S = 0.05
_WITHOUT_DESCRIPTORS_S = 0.1
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class PortError(OSError):
    """A port that cannot be listened on; `port` is its number."""

    def __init__(self, error: OSError, host: str, port: int) -> None:
        where = f"{url_host(host)}:{port}"
        super().__init__(error.errno, f"cannot listen on {where}: {error.strerror}")
        self.port = port


def url_host(host: str) -> str:
    """Return a host as URLs have it: an address of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


class ConnectionServer(ThreadingMixIn, TCPServer):
    """Serves each connection in a thread of its own, and can hang up on any of them.

    It listens as soon as it is built, and serves once it is started.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: type[BaseRequestHandler], refuse: Refuse
    ) -> None:
        self.host, self.port = address
        self.refuse = refuse
        self.address_family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
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

    def wait_for_ends(self, seconds: float) -> None:
        """Wait until all connections have ended, for at most `seconds`."""
        deadline = monotonic() + seconds
        while self._deadlines and monotonic() < deadline:
            sleep(_POLL_ENDS_S)

    def hang_up(self) -> None:
        """End all connections."""
        for connection in list(self._deadlines):
            _end(connection)

    def hang_up_in(self, connection: socket.socket, seconds: float) -> None:
        """End a connection in `seconds`, unless this is called again before then."""
        self._deadlines[connection] = monotonic() + seconds

    def service_actions(self) -> None:
        """End connections that are late; called between two looks at the port."""
        now = monotonic()
        for connection, deadline in list(self._deadlines.items()):
            if deadline <= now:
                _end(connection)

    def server_bind(self) -> None:
        """Bind, and name the port when that is impossible."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((self.host, self.port))
        except OSError as error:
            raise PortError(error, self.host, self.port) from error
        self.server_address = self.socket.getsockname()
        self.port = self.server_address[1]

    def get_request(self) -> Any:
        """Accept a connection; pause when that is impossible for now."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                # The connection stays in the queue and keeps the port readable: without a pause,
                # the loop would spin until a descriptor is free.
                sleep(_WITHOUT_DESCRIPTORS_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, and remember it."""
        self.hang_up_in(request, float("inf"))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback, except for a client that hung up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)
