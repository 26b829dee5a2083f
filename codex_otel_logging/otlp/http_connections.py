"""HTTP connections with one deadline for a whole request.

requests and urllib3 apply their timeouts to single socket operations. Here, the timeout of each
operation is the time left for the request: connecting, the CONNECT request to a proxy, the TLS
handshake, sending, and reading the answer. This needs no watchdog thread, which would have to be
restarted after a fork and could not be started at exit.

Setting the timeout before each Python call is enough: `socket.sendall` and the methods of
`ssl.SSLSocket` may read or write several times, but apply the timeout to the call as a whole.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPResponse, parse_headers
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from .deadlines import Deadline, connect, limited
from .http_headers import OwnHeaders, own_headers

if TYPE_CHECKING:
    from urllib3 import PoolManager

_SWITCHING_PROTOCOLS = 101


class DeadlineAdapter(HTTPAdapter):
    """Sends requests within a deadline, without headers that tracing agents add.

    Args:
        deadline: limits each request; the session starts it before each one.
        headers: the headers of the settings, which are sent in any case.

    """

    def __init__(self, deadline: Deadline, headers: Mapping[str, str]) -> None:
        self._attributes = {"deadline": deadline, "own_headers": own_headers(headers)}
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._limit(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pools for connections through a proxy."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if is_new:
            self._limit(manager)
        return manager

    def _limit(self, manager: PoolManager) -> None:
        """Make the manager create connections with the deadline, for every scheme."""
        # urllib3 creates the connections, and looks up their class here. The new classes derive
        # from the existing ones, which differ for a SOCKS proxy. Other managers keep their own.
        classes: dict[str, Any] = manager.pool_classes_by_scheme
        pools = {}
        for scheme, pool in classes.items():
            bases = (_DeadlineConnection, OwnHeaders, pool.ConnectionCls)
            connection = type(pool.ConnectionCls.__name__, bases, dict(self._attributes))
            pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
        manager.pool_classes_by_scheme = pools


class _DeadlineConnection(HTTPConnection):
    """A connection whose operations time out at the deadline."""

    # Set on the class by `DeadlineAdapter`, because urllib3 creates the connections.
    deadline: Deadline
    _in_headers = False
    _headers = b""

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, *args: Any, **kwargs: Any
    ) -> HTTPResponse:
        """Return the reader of an answer, from the collector or to a CONNECT request."""
        return _DeadlineResponse(self.deadline, sock, *args, **kwargs)

    def connect(self) -> None:
        """Connect, through a proxy if one is set, and complete the TLS handshake."""
        try:
            super().connect()
        except OSError as error:
            _close_abandoned(error)
            raise

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request, its headers and body in one system call if possible."""
        # Python releases the GIL for each send. A busy application thread then takes it and keeps
        # it for the switch interval of 5 ms. So `endheaders` keeps the headers, and the first
        # `send` of the body sends both.
        super().request(*args, **kwargs)
        if self._headers:  # the request has no body
            self.send(b"")

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        """Keep the headers until the body is sent."""
        # The base class passes them to `send`, which stores them while `_in_headers` is set.
        self._headers = b""
        self._in_headers = True
        try:
            super().endheaders(*args, **kwargs)
        finally:
            self._in_headers = False

    def send(self, data: Any) -> None:
        """Send part of a request."""
        if self._in_headers:
            self._headers += data
            return
        if self.sock is None:
            self.connect()
        self.deadline.limit(self.sock)
        data, self._headers = self._headers + data, b""
        super().send(data)

    def _new_conn(self) -> socket.socket:
        self.timeout = self.deadline.left_s()
        inherited: Any = super()._new_conn
        # urllib3's class for SOCKS proxies has its own `_new_conn`: it connects to the proxy and
        # negotiates, within `self.timeout`.
        if inherited.__func__ is not HTTPConnection._new_conn:
            return limited(inherited(), self.deadline)
        try:
            # Excluded from the deadline: Python cannot interrupt `getaddrinfo`, and a slow resolver
            # must not make every request fail.
            with self.deadline.paused():
                host = self._dns_host.strip("[]")
                found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
            addresses = [(family, address) for family, _, _, _, address in found]
            return connect(addresses, self.deadline, self.socket_options or ())
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a connection: {error}") from error

    def _connect_tls_proxy(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        connection: Any = super()._connect_tls_proxy(*args, **kwargs)  # type: ignore[misc]
        # `ssl` creates the socket, in a context that requests and urllib3 choose. Its class can
        # only be changed afterwards.
        connection.__class__ = _ProxySocket
        connection.deadline = self.deadline
        return cast("_ProxySocket", connection)

    def _tunnel(self) -> None:
        super()._tunnel()
        self.deadline.limit(self.sock)  # the TLS handshake comes next


def _close_abandoned(error: OSError) -> None:
    """Close the TLS sockets that only the traceback of a failed connection refers to.

    When the peer resets the connection before the handshake, `SSLSocket._create` leaves its socket
    open before CPython 3.13, until the garbage collector finds it.
    """
    for frame, _ in walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, ssl.SSLSocket):
                with suppress(OSError):
                    value.close()


class _ProxySocket(ssl.SSLSocket):
    """A connection to an HTTPS proxy whose operations time out at the deadline.

    urllib3 implements TLS inside TLS in Python, on top of this socket. It reads several times for
    one handshake or record without setting the timeout in between.
    """

    deadline: Deadline

    def recv(self, *args: Any) -> bytes:
        """Read available bytes; block until there are any."""
        self.deadline.limit(self)
        return super().recv(*args)

    def sendall(self, *args: Any) -> None:
        """Send all bytes."""
        self.deadline.limit(self)
        super().sendall(*args)


class _DeadlineResponse(HTTPResponse):
    """Reads the final answer to a request within the deadline."""

    def __init__(self, deadline: Deadline, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        # `fp` reads several times for one line. Inserting a raw reader below its buffer sets the
        # timeout before each of these reads.
        self.fp = io.BufferedReader(_DeadlineReader(deadline, sock, self.fp.detach()))

    def begin(self) -> None:
        """Read the status and the headers."""
        super().begin()
        if self.status == _SWITCHING_PROTOCOLS:
            self.will_close = True  # the connection no longer carries HTTP/1

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status line of the final answer, skipping interim (1xx) answers."""
        # A client must be able to skip interim answers, even unexpected ones
        # (https://www.rfc-editor.org/rfc/rfc9110#section-15.2), but `http.client` skips only 100.
        # If 103 counted as the answer, the final answer would be read as that of the next request.
        # 101 is final: it ends HTTP on this connection, although no upgrade was requested.
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == _SWITCHING_PROTOCOLS:
                return version, status, reason
            parse_headers(self.fp)


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket's file within the deadline."""

    def __init__(self, deadline: Deadline, sock: socket.socket, file: io.RawIOBase) -> None:
        self._deadline = deadline
        self._socket = sock
        self._file = file

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read available bytes; block until there are any."""
        self._deadline.limit(self._socket)
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()
