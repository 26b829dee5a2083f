"""One time limit for all socket operations of a request.

The timeout of a socket limits a single operation. It never expires while the peer sends a byte now
and then, so a request to such a peer could last forever.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..native import monotonic

_NEGLIGIBLE = 0.01
"""How much a socket's timeout may differ from the time left, as a fraction of the time limit."""


class Deadline:
    """The time by which a request must be complete. Not thread-safe.

    Args:
        timeout_s: the time limit in seconds, starting now; `start` sets a new one.

    """

    def __init__(self, timeout_s: float = 0.0) -> None:
        self.start(timeout_s)

    def start(self, timeout_s: float) -> None:
        """Set the deadline to `timeout_s` seconds from now."""
        self.timeout_s = timeout_s
        self._at = monotonic() + timeout_s

    def left_s(self) -> float:
        """Return the seconds left, always more than 0.

        Raises:
            TimeoutError: the deadline has passed.

        """
        left_s = self._at - monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s

    def limit(self, connection: Any) -> None:
        """Set the timeout of a socket to the time left. Call this before each operation.

        Raises:
            TimeoutError: the deadline has passed.

        """
        # Setting a timeout is a system call, for which Python releases the GIL. A busy thread then
        # takes it for 5 ms, each time. So a timeout that is nearly right stays.
        left_s = self.left_s()
        timeout_s = connection.gettimeout()
        if timeout_s is None or abs(timeout_s - left_s) > _NEGLIGIBLE * self.timeout_s:
            connection.settimeout(left_s)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Extend the deadline by the time spent inside, for calls that cannot time out."""
        started = monotonic()
        try:
            yield
        finally:
            self._at += monotonic() - started


def connect(
    addresses: Sequence[tuple[int, Any]],
    deadline: Deadline,
    options: Iterable[tuple[int, int, int | bytes]] = (),
) -> socket.socket:
    """Connect over TCP to the first address that accepts the connection.

    Args:
        addresses: address family and socket address of each, as `getaddrinfo` returns them.
        deadline: limits connecting, and the next operation of the returned socket.
        options: arguments for `setsockopt`.

    Raises:
        OSError: no address accepted the connection; the error of the last one.

    """
    error: OSError = ConnectionRefusedError()
    for position, (family, address) in enumerate(addresses):
        # Equal shares of the time left: otherwise an unreachable address, typically the IPv6 one of
        # a host that has both, would leave no time for the next.
        try:
            share_s = deadline.left_s() / (len(addresses) - position)
            connection = _connect(family, address, share_s, options)
        except OSError as failed:
            error = failed
        else:
            return limited(connection, deadline)
    raise error


def limited(connection: socket.socket, deadline: Deadline) -> socket.socket:
    """Limit the connection's next operation and return it; close it if the deadline has passed.

    Raises:
        TimeoutError: the deadline has passed.

    """
    try:
        deadline.limit(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(
    family: int, address: Any, timeout_s: float, options: Iterable[tuple[int, int, int | bytes]]
) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            connection.setsockopt(*option)
        connection.settimeout(timeout_s)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection
