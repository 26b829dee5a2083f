"""A time limit for several socket operations together, and connecting within it.

A socket's own timeout limits one operation. A peer that sends a byte now and then never lets it
expire, so a request could last forever.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Deadline:
    """The time by which a request must be answered. Not thread-safe.

    Args:
        timeout_s: seconds from now; `start` sets it again.

    """

    def __init__(self, timeout_s: float = 0.0) -> None:
        self.start(timeout_s)

    def start(self, timeout_s: float) -> None:
        """Set the deadline to `timeout_s` seconds from now."""
        self.timeout_s = timeout_s
        self._at = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return the seconds left; always more than 0.

        Raises:
            TimeoutError: the deadline has passed.

        """
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s

    def limit(self, connection: Any) -> None:
        """Limit the next operation of a socket to the time left.

        Raises:
            TimeoutError: the deadline has passed.

        """
        connection.settimeout(self.left_s())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude what happens inside: name resolution, for which Python has no time limit."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._at += time.monotonic() - started


def connect(
    addresses: Sequence[tuple[int, Any]],
    deadline: Deadline,
    options: Iterable[tuple[int, int, int | bytes]] = (),
) -> socket.socket:
    """Connect over TCP to the first address that accepts the connection.

    Each address gets an equal share of the time left, so that the first one cannot use up the time
    of the others, as an unreachable IPv6 address of a host with two addresses would.

    Args:
        addresses: address family and socket address of each, as `getaddrinfo` returns them.
        deadline: when to give up; also the limit of the socket's next operation.
        options: arguments of `setsockopt`.

    Raises:
        OSError: no address accepted the connection; the error of the last one.

    """
    error: OSError = ConnectionRefusedError()
    for position, (family, address) in enumerate(addresses):
        try:
            share_s = deadline.left_s() / (len(addresses) - position)
            connection = _connect(family, address, share_s, options)
            deadline.limit(connection)
        except OSError as failed:
            error = failed
        else:
            return connection
    raise error


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
