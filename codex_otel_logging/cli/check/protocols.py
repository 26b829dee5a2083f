"""Detects which protocols a port speaks, to explain a failure that has no other cause.

Tries HTTP/1 and HTTP/2, which gRPC runs over, with and without TLS, on plain sockets as in `steps`.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import NamedTuple

from ...config.settings import ExporterConfig
from ...otlp.deadlines import Deadline
from ...otlp.route import Route
from . import diagnoses
from .diagnoses import Diagnosis
from .steps import connect, open_tunnel, resolve, tls_context, wrap_tls

_PROBE_TIMEOUT_S = 2.0
"""Maximum time of each attempt to detect a protocol."""

_ALERT_TIMEOUT_S = 0.3
"""How long to wait for a server's alert that a client certificate is required.

In TLS 1.3 the client's handshake is complete before the server has checked its certificate, so the
alert arrives on the first read: RFC 8446, 4.4.2.4 and 6.2.
"""

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""The client connection preface with an empty SETTINGS frame: RFC 9113, 3.4."""

_SETTINGS_FRAME = b"\x04\0\0\0\0\0"
"""Type, flags and stream of the SETTINGS frame that a server sends first, after its length."""

# GET, because every HTTP/1 server answers it, at least with an error; it changes nothing there.
_HTTP1_REQUEST = b"GET / HTTP/1.1\r\nHost: collector\r\nConnection: close\r\n\r\n"

_CLOSED, _CERTIFICATE_REQUIRED = b"(closed)", b"(certificate required)"
"""Results of `_first_bytes` if the connection ends before the first byte."""


class _Detected(NamedTuple):
    """The protocols that a port speaks, and whether over TLS."""

    tls: bool
    http1: bool
    http2: bool


def detect_protocols(exporter: ExporterConfig, route: Route, answer: Diagnosis) -> Diagnosis:
    """Return which protocols the port speaks, and what that means for the failure in `answer`.

    The expected use of TLS is tried first. Each attempt opens a new connection, at most four
    in all, of at most two seconds each.
    """
    if route.proxy and route.proxy.opaque:
        return diagnoses.HIDDEN_BY_PROXY.about(route=route)
    for tls in (route.tls, not route.tls):
        received = [
            _first_bytes(exporter, route, tls, "h2", _HTTP2_PREFACE),
            _first_bytes(exporter, route, tls, "http/1.1", _HTTP1_REQUEST),
        ]
        if _CERTIFICATE_REQUIRED in received:
            return diagnoses.CLIENT_CERTIFICATE
        http1 = any(data.startswith(b"HTTP/1.") for data in received)
        # A frame begins with its length in three bytes: RFC 9113, 4.1.
        http2 = any(data[3:9] == _SETTINGS_FRAME for data in received)
        if http1 or http2:
            return _compare(_Detected(tls, http1, http2), exporter, route, answer)
        if tls == route.tls and all(data == _CLOSED for data in received):
            return diagnoses.CLOSED_IN_HANDSHAKE
    return diagnoses.NO_PROTOCOL


def _compare(
    detected: _Detected, exporter: ExporterConfig, route: Route, answer: Diagnosis
) -> Diagnosis:
    """Return advice on the differences between the port's protocols and the settings."""
    spoken = {"HTTP/1": detected.http1, "gRPC": detected.http2}
    expected = "HTTP/1" if exporter.over_http else "gRPC"
    mismatches = []
    if detected.tls != route.tls:
        mismatches.append(diagnoses.USE_SCHEME[detected.tls])
    if not spoken[expected]:
        mismatches.append(diagnoses.USE_EXPORTER[expected])
    diagnosis = diagnoses.PROTOCOLS
    if not mismatches:
        # The probe verified the certificate, so only gRPC's own authorities can have rejected it.
        untrusted = "TLS failed" in answer.text
        diagnosis = diagnoses.UNTRUSTED_BY_GRPC if untrusted else diagnoses.NOT_ACCEPTING
    return diagnosis.about(
        protocols=" and ".join(name for name in spoken if spoken[name]),
        tls="with" if detected.tls else "without",
        mismatches="; ".join(mismatches),
    )


def _first_bytes(
    exporter: ExporterConfig, route: Route, tls: bool, protocol: str, request: bytes
) -> bytes:
    """Send a request and return the first bytes received, before or after it.

    Certificates are not verified: only the protocol matters here.
    """
    _, addresses = resolve(route)
    deadline = Deadline(min(exporter.timeout_ms / 1000, _PROBE_TIMEOUT_S))
    _, connection = connect(route, addresses, deadline)
    if connection is None:
        return b""
    try:
        with connection:
            proxy = route.proxy
            if proxy and not open_tunnel(connection, exporter, route, proxy, deadline).ok:
                return b""
            if not tls:
                return _exchange(connection, request, deadline)
            context = tls_context(exporter, verify=False)
            with wrap_tls(connection, context, protocol, route, deadline) as secure:
                # An HTTP/2 server sends its SETTINGS unasked, and a TLS alert arrives unasked too.
                with suppress(TimeoutError):
                    return _received(secure, Deadline(_ALERT_TIMEOUT_S)) or _CLOSED
                return _exchange(secure, request, deadline)
    except (OSError, UnicodeError) as error:
        required = "CERTIFICATE_REQUIRED" in (getattr(error, "reason", None) or "")
        return _CERTIFICATE_REQUIRED if required else b""


def _exchange(connection: socket.socket, request: bytes, deadline: Deadline) -> bytes:
    deadline.limit(connection)
    connection.sendall(request)
    return _received(connection, deadline)


def _received(connection: socket.socket, deadline: Deadline) -> bytes:
    """Return the next nine bytes, or fewer at the end: the length of an HTTP/2 frame header."""
    data = b""
    while len(data) < 9:
        deadline.limit(connection)
        if not (more := connection.recv(9 - len(data))):
            break
        data += more
    return data
