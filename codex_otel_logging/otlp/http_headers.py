"""Lets an HTTP request carry its own headers only.

Tracing agents add headers at every layer: to the request, to the connection pool's call, or while
the connection writes the request. All of them pass the connection's `putheader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """Return the headers of the settings as `OwnHeaders` compares them."""
    return {name.lower(): (value,) for name, value in headers.items()}


class OwnHeaders:
    """Mixed into a connection: writes the headers that HTTP needs and those in `own_headers`."""

    own_headers: Mapping[str, tuple[str]]

    def putheader(self, header: str | bytes, *values: Any) -> None:
        """Write a header of the request, or drop it."""
        name = (header.decode("latin-1") if isinstance(header, bytes) else header).lower()
        if name in _PROTOCOL_HEADERS or self.own_headers.get(name) == values:
            super().putheader(header, *values)  # type: ignore[misc]
