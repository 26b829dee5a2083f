"""HTTP connections on which a whole request has one deadline.

The timeouts of requests and urllib3 limit single operations of a socket. Here each operation is
limited to the time that is left for the request instead: to connect, to ask a proxy for a tunnel,
to shake hands, to send, and to read the answer. No thread watches over it, so there is none to
start, to lose in a fork, or to keep from blocking the end of the process.

Only two operations cover more than one read or write. `socket.sendall` and the operations of
`ssl.SSLSocket` do, and they take their timeout as the limit of the whole.
"""

from __future__ import annotations

import io
import socket
from http.client import HTTPResponse, parse_headers
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from .deadlines import Deadline, connect

if TYPE_CHECKING:
    from urllib3 import PoolManager

_SWITCHING_PROTOCOLS = 101


class DeadlineAdapter(HTTPAdapter):
    """Sends requests by `deadline`, which is set before each of them."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the connections to collectors."""
        super().init_poolmanager(*args, **kwargs)
        self._limit(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the connections through a proxy."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if is_new:
            self._limit(manager)
        return manager

    def _limit(self, manager: PoolManager) -> None:
        """Have the manager create connections that keep the deadline, over TLS and SOCKS too."""
        classes: dict[str, Any] = manager.pool_classes_by_scheme
        pools = {}
        for scheme, pool in classes.items():
            bases = (_DeadlineConnection, pool.ConnectionCls)
            connection = type(pool.ConnectionCls.__name__, bases, {"deadline": self._deadline})
            pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
        manager.pool_classes_by_scheme = pools


class _DeadlineConnection(HTTPConnection):
    """A connection whose operations end at the deadline of the current request."""

    deadline: Deadline

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, *args: Any, **kwargs: Any
    ) -> HTTPResponse:
        """Return what reads an answer, be it the answer of a proxy asked for a tunnel."""
        return _DeadlineResponse(self.deadline, sock, *args, **kwargs)

    def send(self, data: Any) -> None:
        """Send a part of the request."""
        if self.sock is None:
            self.connect()
        self.deadline.limit(self.sock)
        super().send(data)

    def _new_conn(self) -> socket.socket:
        self.timeout = self.deadline.left_s()
        inherited: Any = super()._new_conn
        if inherited.__func__ is not HTTPConnection._new_conn:  # it negotiates with a SOCKS proxy
            connection: socket.socket = inherited()
            self.deadline.limit(connection)
            return connection
        try:
            with self.deadline.paused():
                host = self._dns_host.strip("[]")
                found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
            addresses = [(family, address) for family, _, _, _, address in found]
            return connect(addresses, self.deadline, self.socket_options or ())
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a connection: {error}") from error

    def _tunnel(self) -> None:
        super()._tunnel()
        self.deadline.limit(self.sock)  # the TLS handshake comes next


class _DeadlineResponse(HTTPResponse):
    """The final answer to a request, read by the deadline."""

    def __init__(self, deadline: Deadline, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(deadline, sock, self.fp.detach()))

    def begin(self) -> None:
        """Read the status and the headers."""
        super().begin()
        if self.status == _SWITCHING_PROTOCOLS:
            self.will_close = True  # whatever is spoken now is no HTTP/1

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status line of the final answer.

        A client must be able to skip interim answers that it did not ask for, but `http.client`
        skips 100 alone: https://www.rfc-editor.org/rfc/rfc9110#section-15.2. An answer taken for
        final too early would leave the final one in the connection, as the answer to the next
        request. 101 is final: the collector has left HTTP, though nobody asked it to.
        """
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == _SWITCHING_PROTOCOLS:
                return version, status, reason
            parse_headers(self.fp)


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket's file by the deadline."""

    def __init__(self, deadline: Deadline, sock: socket.socket, file: io.RawIOBase) -> None:
        self._deadline = deadline
        self._socket = sock
        self._file = file

    def readable(self) -> bool:
        """Return True; there is no writing."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what there is, and wait for it if there is nothing yet."""
        self._deadline.limit(self._socket)
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()
