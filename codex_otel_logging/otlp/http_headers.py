"""Drops HTTP headers that tracing agents add to a request.

Agents add headers at every layer: to the request, to the connection pool's call, or while the
connection writes the request. All of them end up in the connection's `putheader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# An allowlist: which headers the agents of the future add is not known.
_PROTOCOL_HEADERS = (
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "proxy-authorization",
    "transfer-encoding",
    "user-agent",
)


def own_headers(headers: Mapping[str, str]) -> Mapping[str, tuple[str]]:
    """Return the headers of the settings in the form that `OwnHeaders` compares with."""
    return {name.lower(): (value,) for name, value in headers.items()}


class OwnHeaders:
    """A mixin for connections: writes the headers of the protocol and those in `own_headers`."""

    own_headers: Mapping[str, tuple[str]]

    def putheader(self, header: str | bytes, *values: Any) -> None:
        """Write a header of the request, or drop it if it is not the request's own."""
        name = (header.decode("latin-1") if isinstance(header, bytes) else header).lower()
        if name in _PROTOCOL_HEADERS or self.own_headers.get(name) == values:
            super().putheader(header, *values)  # type: ignore[misc]
