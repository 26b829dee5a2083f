"""The steps of a delivery, in order. Each returns a `Diagnosis`.

All steps except `send` use plain sockets, to find out which part of the route fails. They send none
of the configured headers; a proxy receives the credentials from its own address. One deadline
limits them together. Name resolution is exempt, because `getaddrinfo` has no timeout.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...config.endpoints import LOGS_PATH
from ...config.otel_config import OtelConfig
from ...config.settings import ExporterConfig, TlsConfig
from ...delivery.exporter import Exporter, Outcome
from ...delivery.sender import no_connection
from ...diagnostics import suppress_own_records
from ...events.event import Event
from ...handler import shared_attributes_of
from ...otlp import deadlines, factory
from ...otlp.deadlines import Deadline
from ...otlp.reasons import safe_reason
from ...otlp.route import Proxy, Route, usual_authorities
from . import diagnoses
from .diagnoses import Diagnosis

_ALMOST_LOGS_PATH = re.compile(r"(?<!/)/+(v1(/+(logs?|traces?|metrics?)?)?)?/*\Z")
"""The end of an endpoint that `LOGS_PATH` replaces: slashes, or the path of another signal."""

_LOCAL_STATUSES = (None, "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN")
"""Statuses without an answer of a collector: None for HTTP; gRPC generates the others itself."""


class ResolvedAddress(NamedTuple):
    """One address of a host, in the form that `socket.connect` takes."""

    family: int
    sockaddr: Any


def build(exporter: ExporterConfig, config: OtelConfig) -> Exporter | Diagnosis:
    """Return the exporter that a handler would build, or a diagnosis if that fails."""
    try:
        with suppress_own_records():  # the libraries would log what the diagnosis reports
            return factory.connect(exporter, shared_attributes_of(config, None))
    except ImportError as error:
        return diagnoses.NOT_IMPORTED.about(error=error)
    except RuntimeError as error:
        return diagnoses.NOT_BUILT.about(error=error)


def resolve(route: Route) -> tuple[Diagnosis, Sequence[ResolvedAddress]]:
    """Look up the host name of the collector, or of the proxy in front of it. Blocks."""
    try:
        found = socket.getaddrinfo(*route.first, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        # UnicodeError: a label of the name is empty or longer than 63 bytes.
        reason = error.strerror if isinstance(error, OSError) else "invalid name"
        diagnosis = diagnoses.UNKNOWN_PROXY if route.proxy else diagnoses.UNKNOWN_NAME
        return diagnosis.about(route=route, reason=reason), ()
    resolved = [ResolvedAddress(family, sockaddr) for family, _, _, _, sockaddr in found]
    addresses = ", ".join(dict.fromkeys(str(sockaddr[0]) for _, sockaddr in resolved))
    diagnosis = diagnoses.IP_ADDRESS if addresses == route.host_shown else diagnoses.RESOLVED
    if route.proxy:
        diagnosis = diagnoses.RESOLVED_PROXY
    return diagnosis.about(route=route, addresses=addresses), resolved


def connect(
    route: Route, addresses: Sequence[ResolvedAddress], deadline: Deadline
) -> tuple[Diagnosis, socket.socket | None]:
    """Connect to the first address that accepts. Return a diagnosis, and the connection if any."""
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
    except OSError:  # the peer has already reset the connection
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
    """Ask a proxy to connect to the collector: CONNECT, RFC 9110, 9.3.6."""
    request = f"CONNECT {route.collector} HTTP/1.1\r\nHost: {route.collector}\r\n"
    if proxy.authorization:
        request += f"Proxy-Authorization: {proxy.authorization}\r\n"
    try:
        deadline.limit(connection)
        connection.sendall(f"{request}\r\n".encode())
        while re.match(rb"HTTP/1\.\d 1\d\d ", answer := _response_head(connection, deadline)):
            pass  # skip interim responses: RFC 9110, 15.2
    except OSError as error:
        reason = error.strerror or "timed out"
        return diagnoses.SILENT_PROXY.about(route=route, reason=reason)
    # A status line has no defined encoding; Latin-1 decodes any byte.
    version, _, status = answer.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1."):
        diagnosis = diagnoses.NOT_AN_HTTP_PROXY
    elif status.startswith("2"):
        diagnosis = diagnoses.TUNNELED
    elif status.startswith("407"):
        diagnosis = diagnoses.PROXY_AUTHENTICATION
    else:
        diagnosis = diagnoses.TUNNEL_REFUSED
    return diagnosis.about(route=route, reason=safe_reason(status, exporter))


def _response_head(connection: socket.socket, deadline: Deadline) -> bytes:
    head = b""
    # Bounded, because the peer is possibly not a proxy at all.
    while b"\r\n\r\n" not in head and len(head) < 65_536:
        deadline.limit(connection)
        # One byte at a time: what follows the head belongs to the TLS handshake.
        if not (data := connection.recv(1)):
            break
        head += data
    return head


def tls_handshake(
    connection: socket.socket, exporter: ExporterConfig, route: Route, deadline: Deadline
) -> Diagnosis:
    """Perform a TLS handshake as the exporter does, verify the certificate, and disconnect."""
    try:
        context = tls_context(exporter)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return diagnoses.UNREADABLE_CERTIFICATES.about(reason=reason)
    # The ALPN protocol that the exporter offers: a server may refuse a handshake without its own.
    protocol = "http/1.1" if exporter.over_http else "h2"
    try:
        with wrap_tls(connection, context, protocol, route, deadline) as secure:
            return diagnoses.TLS_ESTABLISHED.about(version=secure.version())
    except ssl.SSLCertVerificationError as error:
        diagnosis = diagnoses.CERTIFICATES.get(error.verify_code, diagnoses.UNKNOWN_AUTHORITY)
        return diagnosis.about(route=route, reason=error.verify_message)
    except UnicodeError:  # behind a proxy, `resolve` has not looked at this name
        return diagnoses.INVALID_NAME.about(route=route)
    except TimeoutError:
        return diagnoses.HANDSHAKE_TIMEOUT
    except OSError as error:
        reason = getattr(error, "reason", None) or _reason(error)
        # TLS 1.2 has no separate alert for a missing client certificate: RFC 5246, 7.4.6.
        wanted = "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason
        diagnosis = diagnoses.NO_CLIENT_CERTIFICATE if wanted else diagnoses.HANDSHAKE_FAILED
        return diagnosis.about(reason=reason)


def tls_context(exporter: ExporterConfig, *, verify: bool = True) -> ssl.SSLContext:
    """Return a TLS context with the exporter's authorities and client certificate.

    Raises:
        OSError, ValueError: a file cannot be loaded.

    """
    tls = exporter.tls or TlsConfig()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        # In this order: CERT_NONE is refused while the host name is checked.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities := tls.ca_certificate or usual_authorities(exporter):
        # `requests` accepts a folder in REQUESTS_CA_BUNDLE.
        is_folder = os.path.isdir(authorities)  # noqa: PTH112
        context.load_verify_locations(**{"capath" if is_folder else "cafile": authorities})
    else:
        context.load_default_certs()
    if tls.client_certificate:
        context.load_cert_chain(tls.client_certificate, tls.client_private_key)
    return context


def wrap_tls(
    connection: socket.socket,
    context: ssl.SSLContext,
    protocol: str,
    route: Route,
    deadline: Deadline,
) -> ssl.SSLSocket:
    """Perform the TLS handshake with the collector, and offer `protocol` by ALPN.

    Raises:
        OSError: the handshake fails or times out.
        UnicodeError: the collector's host name is invalid.

    """
    host = route.collector.host
    host.encode("idna")  # on an invalid name, `wrap_socket` of Python 3.10 leaks the connection
    context.set_alpn_protocols([protocol])
    deadline.limit(connection)
    return context.wrap_socket(connection, server_hostname=host)


def send(
    client: Exporter, event: Event, exporter: ExporterConfig, route: Route | None
) -> Diagnosis:
    """Export the event and return a diagnosis of the outcome. Blocks up to the `timeout_ms`."""
    try:
        with suppress_own_records():
            outcome = client.export([event])
    except OSError as error:
        outcome = no_connection(error)
    except Exception as error:  # from a library: its text may contain secrets
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
        reason += diagnoses.RETRY_AFTER.format(outcome.retry_after_s)
    return diagnosis.about(
        reason=reason,
        exporter=exporter,
        headers=", ".join(exporter.headers),
        logs_endpoint=_ALMOST_LOGS_PATH.sub("", exporter.safe_endpoint) + LOGS_PATH,
        other_protocol="json" if exporter.protocol == "binary" else "binary",
    )


def _subject(outcome: Outcome, exporter: ExporterConfig) -> int | str | None:
    """Return the key of the advice for an answer: its subject if known, or else its status."""
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
