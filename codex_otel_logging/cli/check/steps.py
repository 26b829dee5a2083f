"""The steps of a delivery, in their order: each returns what it found, and what to do about it.

Up to the answer they take nothing but sockets, to see where the way to the collector ends. None of
the settings' secrets is sent; a proxy gets the credentials meant for it. A deadline limits them
together; only name resolution is excluded.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...config.endpoints import LOGS_PATH
from ...config.otel_config import OtelConfig
from ...config.settings import ExporterConfig, TlsConfig
from ...delivery.exporter import Exporter, Outcome
from ...diagnostics import suppress_own_records
from ...events.event import Event
from ...handler import shared_attributes_of
from ...otlp import deadlines, factory
from ...otlp.deadlines import Deadline
from ...otlp.reasons import safe_reason
from ...otlp.route import Proxy, Route, usual_authorities
from . import diagnoses
from .diagnoses import Diagnosis

_PROBE_TIMEOUT_S = 2.0
_ALERT_TIMEOUT_S = 0.3
"""How long a server may take to say that it wanted a client's certificate."""

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""https://www.rfc-editor.org/rfc/rfc9113#section-3.4, with an empty SETTINGS frame."""

_SETTINGS_FRAME = b"\x04\0\0\0\0\0"
"""What stands behind the length in the SETTINGS frame that a server begins with."""

_HTTP1_REQUEST = b"GET / HTTP/1.1\r\nHost: collector\r\nConnection: close\r\n\r\n"

_CLOSED, _CERTIFICATE_REQUIRED = b"(closed)", b"(certificate required)"
"""Stand for the end of a connection before a byte arrived."""

_LOCAL_STATUSES = (None, "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN")
"""Without an answer there is none of HTTP's, and gRPC makes these up itself."""


class ResolvedAddress(NamedTuple):
    """An address of a name, as `socket.connect` takes it."""

    family: int
    sockaddr: Any


class DetectedProtocols(NamedTuple):
    """What is spoken at a port, with TLS or without; HTTP/2 is what gRPC speaks."""

    tls: bool
    http1: bool
    http2: bool


def build(exporter: ExporterConfig, config: OtelConfig) -> Exporter | Diagnosis:
    """Build the exporter that a handler would build; only a failure is worth a diagnosis."""
    try:
        with suppress_own_records():
            return factory.connect(exporter, shared_attributes_of(config, None))
    except ImportError as error:
        return diagnoses.NOT_IMPORTED.about(error=error)
    except RuntimeError as error:
        return diagnoses.NOT_BUILT.about(error=error)


def resolve(route: Route) -> tuple[Diagnosis, Sequence[ResolvedAddress]]:
    """Look up the name of the collector, or of the proxy before it."""
    try:
        found = socket.getaddrinfo(*route.first, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name"
        diagnosis = diagnoses.UNKNOWN_PROXY if route.proxy else diagnoses.UNKNOWN_NAME
        return diagnosis.about(route=route, reason=reason), ()
    resolved = [ResolvedAddress(family, sockaddr) for family, _, _, _, sockaddr in found]
    addresses = ", ".join(dict.fromkeys(str(sockaddr[0]) for _, sockaddr in resolved))
    diagnosis = diagnoses.NUMBER if addresses == route.host_shown else diagnoses.RESOLVED
    if route.proxy:
        diagnosis = diagnoses.RESOLVED_PROXY
    return diagnosis.about(route=route, addresses=addresses), resolved


def connect(
    route: Route, addresses: Sequence[ResolvedAddress], deadline: Deadline
) -> tuple[Diagnosis, socket.socket | None]:
    """Connect to the first address that accepts the connection."""
    try:
        connection = deadlines.connect(addresses, deadline)
        return diagnoses.CONNECTED.about(peer=_peer(connection)), connection
    except TimeoutError:
        return diagnoses.UNREACHABLE.about(route=route, timeout_s=deadline.timeout_s), None
    except ConnectionRefusedError:
        diagnosis = diagnoses.PROXY_REFUSED if route.proxy else diagnoses.REFUSED
        return diagnosis.about(route=route), None
    except OSError as error:
        return diagnoses.NOT_CONNECTED.about(route=route, reason=_reason(error)), None


def _peer(connection: socket.socket) -> Any:
    try:
        return connection.getpeername()
    except OSError:  # it has reset the connection already
        connection.close()
        raise


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def open_tunnel(
    connection: socket.socket,
    exporter: ExporterConfig,
    route: Route,
    proxy: Proxy,
    deadline: Deadline,
) -> Diagnosis:
    """Ask a proxy for a connection to the collector: RFC 9110, 9.3.6."""
    request = f"CONNECT {route.collector} HTTP/1.1\r\nHost: {route.collector}\r\n"
    if proxy.authorization:
        request += f"Proxy-Authorization: {proxy.authorization}\r\n"
    try:
        deadline.limit(connection)
        connection.sendall(f"{request}\r\n".encode())
        while re.match(rb"HTTP/1\.\d 1\d\d ", answer := _head_of_answer(connection, deadline)):
            pass  # skip interim answers: RFC 9110, 15.2
    except OSError as error:
        reason = error.strerror or "timed out"
        return diagnoses.SILENT_PROXY.about(route=route, reason=reason)
    version, _, status = answer.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1."):
        diagnosis = diagnoses.NO_HTTP_PROXY
    elif status.startswith("2"):
        diagnosis = diagnoses.TUNNELED
    elif status.startswith("407"):
        diagnosis = diagnoses.PROXY_AUTHENTICATION
    else:
        diagnosis = diagnoses.NO_TUNNEL
    return diagnosis.about(route=route, reason=safe_reason(status, exporter))


def _head_of_answer(connection: socket.socket, deadline: Deadline) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65_536:
        deadline.limit(connection)
        if not (data := connection.recv(1)):  # TLS begins right after the head
            break
        head += data
    return head


def shake_hands(
    connection: socket.socket, exporter: ExporterConfig, route: Route, deadline: Deadline
) -> Diagnosis:
    """Begin TLS as the exporter does, check the collector's certificate, and end the connection."""
    try:
        context = _context(exporter)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return diagnoses.UNREADABLE_CERTIFICATES.about(reason=reason)
    protocol = "http/1.1" if exporter.over_http else "h2"
    try:
        with _secured(connection, context, protocol, route, deadline) as secure:
            return diagnoses.SECURE.about(version=secure.version())
    except ssl.SSLCertVerificationError as error:
        diagnosis = diagnoses.CERTIFICATES.get(error.verify_code, diagnoses.UNKNOWN_AUTHORITY)
        return diagnosis.about(route=route, reason=error.verify_message)
    except UnicodeError:  # only a proxy has been given the name so far
        return diagnoses.INVALID_NAME.about(route=route)
    except TimeoutError:
        return diagnoses.NO_HANDSHAKE
    except OSError as error:
        reason = getattr(error, "reason", None) or _reason(error)
        wanted = "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason
        diagnosis = diagnoses.NO_CLIENT_CERTIFICATE if wanted else diagnoses.NO_TLS
        return diagnosis.about(reason=reason)


def _context(exporter: ExporterConfig, *, verify: bool = True) -> ssl.SSLContext:
    tls = exporter.tls or TlsConfig()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities := tls.ca_certificate or usual_authorities(exporter):
        is_folder = os.path.isdir(authorities)  # noqa: PTH112
        context.load_verify_locations(**{"capath" if is_folder else "cafile": authorities})
    else:
        context.load_default_certs()
    if tls.client_certificate:
        context.load_cert_chain(tls.client_certificate, tls.client_private_key)
    return context


def _secured(
    connection: socket.socket,
    context: ssl.SSLContext,
    protocol: str,
    route: Route,
    deadline: Deadline,
) -> ssl.SSLSocket:
    host = route.collector.host
    host.encode("idna")  # Python 3.10 leaves the connection open if `wrap_socket` finds the fault
    context.set_alpn_protocols([protocol])
    deadline.limit(connection)
    return context.wrap_socket(connection, server_hostname=host)


def send(
    client: Exporter, event: Event, exporter: ExporterConfig, route: Route | None
) -> Diagnosis:
    """Export the event, and judge what came of it."""
    try:
        with suppress_own_records():
            outcome = client.export([event])
    except OSError as error:
        outcome = Outcome("retry", f"no connection: {_reason(error)}")
    except Exception as error:  # from a library; its text may hold anything
        outcome = Outcome("refused", f"the exporter failed: {type(error).__name__}")
    if outcome.web_page:
        diagnosis = diagnoses.WEB_PAGE
    elif outcome.rejected:
        diagnosis = diagnoses.REJECTED if outcome.reason else diagnoses.REJECTED_WITHOUT_REASON
    elif outcome.verdict == "delivered":
        diagnosis = diagnoses.ACCEPTED_WITH_WARNING if outcome.reason else diagnoses.ACCEPTED
    elif outcome.status in _LOCAL_STATUSES:
        diagnosis = diagnoses.UNEXPLAINED if route else diagnoses.UNEXPLAINED_WITHOUT_ROUTE
    else:
        diagnosis = diagnoses.ANSWERS.get(_subject(outcome, exporter), diagnoses.FAILED)
    reason = outcome.reason
    if outcome.retry_after_s is not None:
        reason += diagnoses.ASKED_TO_WAIT.format(outcome.retry_after_s)
    return diagnosis.about(
        reason=reason,
        exporter=exporter,
        headers=", ".join(exporter.headers),
        logs_endpoint=f"{exporter.safe_endpoint.rstrip('/')}{LOGS_PATH}",
        other_protocol="json" if exporter.protocol == "binary" else "binary",
    )


def _subject(outcome: Outcome, exporter: ExporterConfig) -> int | str | None:
    """Return what an answer is about, or else its status."""
    status = outcome.status
    if status in (401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED"):
        return "headers" if exporter.headers else "no header"
    if status == 404:
        path = urlsplit(exporter.endpoint).path.rstrip("/")
        return "path" if path.endswith(LOGS_PATH) else "no path"
    if isinstance(status, int) and 300 <= status < 400:
        return "redirect"
    if status == "RESOURCE_EXHAUSTED":
        return f"{status}, {outcome.verdict}"
    return status


def detect_protocols(exporter: ExporterConfig, route: Route, answer: Diagnosis) -> Diagnosis:
    """Find out what is spoken at the port, after an answer that nothing else explains."""
    if route.proxy and route.proxy.opaque:
        return diagnoses.HIDDEN.about(route=route)
    for tls in (route.tls, not route.tls):
        received = [
            _first_bytes(exporter, route, tls, "h2", _HTTP2_PREFACE),
            _first_bytes(exporter, route, tls, "http/1.1", _HTTP1_REQUEST),
        ]
        if _CERTIFICATE_REQUIRED in received:
            return diagnoses.CLIENT_CERTIFICATE
        http1 = any(data.startswith(b"HTTP/1.") for data in received)
        http2 = any(data[3:9] == _SETTINGS_FRAME for data in received)
        if http1 or http2:
            return _compare(DetectedProtocols(tls, http1, http2), exporter, route, answer)
        if tls == route.tls and all(data == _CLOSED for data in received):
            return diagnoses.HANGS_UP
    return diagnoses.NO_PROTOCOL


def _compare(
    detected: DetectedProtocols, exporter: ExporterConfig, route: Route, answer: Diagnosis
) -> Diagnosis:
    """Compare what is spoken at the port with what the settings say."""
    spoken = {"HTTP/1": detected.http1, "gRPC": detected.http2}
    expected = "HTTP/1" if exporter.over_http else "gRPC"
    mismatches = []
    if detected.tls != route.tls:
        mismatches.append(diagnoses.USE_SCHEME[detected.tls])
    if not spoken[expected]:
        mismatches.append(diagnoses.USE_EXPORTER[expected])
    diagnosis = diagnoses.PROTOCOLS
    if not mismatches:
        untrusted = "TLS failed" in answer.text
        diagnosis = diagnoses.UNTRUSTED_BY_GRPC if untrusted else diagnoses.UNWILLING
    return diagnosis.about(
        protocols=" and ".join(name for name in spoken if spoken[name]),
        tls="with" if detected.tls else "without",
        mismatches="; ".join(mismatches),
    )


def _first_bytes(
    exporter: ExporterConfig, route: Route, tls: bool, protocol: str, request: bytes
) -> bytes:
    """Send a request, and return the first bytes of what comes back, or came before it."""
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
            context = _context(exporter, verify=False)
            with _secured(connection, context, protocol, route, deadline) as secure:
                with suppress(TimeoutError):  # gRPC servers begin by themselves, and so do alerts
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
    """Return the next bytes, as many as tell what is spoken, or fewer at the end."""
    data = b""
    while len(data) < 9:
        deadline.limit(connection)
        if not (more := connection.recv(9 - len(data))):
            break
        data += more
    return data
