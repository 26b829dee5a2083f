"""Going a way to a collector step by step, with nothing but sockets, to see where it ends.

Each step raises `DeadEndError` when it cannot be made: what happened, and what to do about it, in
words for people. Nothing of the settings' secrets is sent; a proxy gets the credentials meant for
it. A deadline limits all steps together; only name resolution is excluded.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ...config.settings import ExporterConfig, TlsConfig
from ...otlp import deadlines
from ...otlp.deadlines import Deadline
from ...otlp.reasons import safe_reason
from ...otlp.route import Proxy, Route, usual_authorities

PORTS = "4318 is usually the port of OTLP/HTTP, 4317 that of OTLP/gRPC"

SET_AUTHORITY = (
    "set ca-certificate in the exporter's tls to the PEM file of the authority that signed the "
    "collector's certificate"
)

_PROBE_TIMEOUT_S = 2.0
_ALERT_TIMEOUT_S = 0.3
"""How long a server may take to say that it wanted a client's certificate."""

_CLOSED = b"(closed)"
"""Stands for the end of a connection before a word."""

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""https://www.rfc-editor.org/rfc/rfc9113#section-3.4, with an empty SETTINGS frame."""

_SETTINGS_FRAME = b"\x04\0\0\0\0\0"
"""What stands behind the length in the SETTINGS frame that a server begins with."""

_HTTP1_REQUEST = b"GET / HTTP/1.1\r\nHost: collector\r\nConnection: close\r\n\r\n"


Then = Literal["stop", "send", "look"]
"""What is worth doing after a step that failed: nothing; letting the exporter try, which may know
more authorities; the same, and looking what is spoken there."""


class DeadEndError(Exception):
    """The way ends here: what happened, what people can do, and what is worth doing still."""

    def __init__(self, what: str, advice: str, then: Then = "stop") -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.then = then


class Found(NamedTuple):
    """A way that has been gone: the addresses of a name."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        return str(self.sockaddr[0])


def resolve(route: Route) -> list[Found]:
    """Look up the name of the collector, or of the proxy before it."""
    name, port = route.first
    shown, where = _named(route)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not a name"
        raise DeadEndError(
            f"the name {shown} is not known ({said})",
            f"check the host in {where}, and whether this machine can look it up (DNS, VPN)",
        ) from None
    return [Found(family, sockaddr) for family, _, _, _, sockaddr in found]


def connect(route: Route, found: Sequence[Found], deadline: Deadline) -> socket.socket:
    """Connect to the first address that accepts the connection."""
    try:
        return deadlines.connect(found, deadline)
    except OSError as error:
        raise _no_connection(route, error, deadline.timeout_s) from None


def _no_connection(route: Route, error: OSError, timeout_s: float) -> DeadEndError:
    port = route.first.port
    _, where = _named(route)
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return DeadEndError(
            f"no connection within {timeout_s:g} s",
            f"nothing answers at port {port}, not even to refuse: check the host and the port in "
            f"{where}, and whether a firewall is in between",
        )
    if isinstance(error, ConnectionRefusedError):
        advice = f"check {where}; is the proxy running?" if route.proxy else _REFUSED
        return DeadEndError(f"refused: nobody listens at port {port}", advice)
    return DeadEndError(
        f"no connection: {error.strerror or type(error).__name__}",
        f"check the host and the port in {where}, and this machine's network",
    )


_REFUSED = f"is the collector running, and is the port right? {PORTS}"


def _named(route: Route) -> tuple[str, str]:
    """Return what the address is that the connection goes to, and where it stands."""
    if route.proxy:
        return f"{route.proxy.address.host} (the proxy)", route.proxy.variable
    return route.host_shown, "endpoint"


def tunnel(
    connection: socket.socket,
    route: Route,
    proxy: Proxy,
    deadline: Deadline,
    exporter: ExporterConfig,
) -> None:
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
        raise DeadEndError(
            f"the proxy did not answer ({error.strerror or 'timed out'})",
            f"is {proxy.variable} the address of an HTTP proxy?",
        ) from None
    status = answer.partition(b"\r\n")[0].decode("latin-1")
    if not status.startswith("HTTP/1."):
        raise DeadEndError("the proxy answered in no HTTP", f"is {proxy.variable} an HTTP proxy?")
    code = status.partition(" ")[2]
    said = safe_reason(code, exporter)
    if code.startswith("407"):
        raise DeadEndError(
            f"the proxy wants to know who asks ({said})",
            f"put user and password into {proxy.variable}: http://user:password@host:port",
        )
    if not code.startswith("2"):
        raise DeadEndError(
            f"the proxy does not connect to the collector ({said})",
            "ask who runs the proxy to let this host and port through, or name the collector's "
            "host in no_proxy if it can be reached without",
        )


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
) -> ssl.SSLSocket:
    """Begin TLS as the exporter does, and check the collector's certificate."""
    try:
        context = _context(exporter)
    except (OSError, ValueError) as error:
        raise DeadEndError(
            f"the certificates cannot be loaded ({getattr(error, 'strerror', None) or error})",
            "check the files of the exporter's tls, or of the variables that name them",
        ) from None
    context.set_alpn_protocols(["http/1.1" if exporter.name == "otlp-http" else "h2"])
    try:
        deadline.limit(connection)
        return context.wrap_socket(connection, server_hostname=route.collector.host)
    except OSError as error:
        raise _no_tls(error, route) from None


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


_OTHER_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET = 9  # X509_V_ERR_CERT_NOT_YET_VALID

_NO_CLIENT_CERTIFICATE = "the collector wants a client's certificate"
_GIVE_CERTIFICATE = (
    "set client-certificate and client-private-key in the exporter's tls, signed by an authority "
    "that the collector trusts"
)


def _no_tls(error: OSError, route: Route) -> DeadEndError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _bad_certificate(error, route.host_shown)
    if isinstance(error, TimeoutError):
        return DeadEndError("no answer to the beginning of TLS", _PLAINTEXT)
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return DeadEndError(f"{_NO_CLIENT_CERTIFICATE} ({reason})", _GIVE_CERTIFICATE, "send")
    return DeadEndError(f"the other side speaks no such TLS ({reason})", "", "look")


_PLAINTEXT = "if the collector takes plaintext there, begin the endpoint with http://"


def _bad_certificate(error: ssl.SSLCertVerificationError, host: str) -> DeadEndError:
    code, said = error.verify_code, error.verify_message
    if code == _EXPIRED:
        what, advice = f"has expired ({said})", "have it renewed"
    elif code == _NOT_YET:
        what, advice = f"is not valid yet ({said})", "is this machine's clock right?"
    elif code in _OTHER_HOST:
        what = f"is for another host than {host}"
        advice = "give the name that is in the certificate as the host of endpoint"
    else:
        what = f"is from an unknown authority ({said})"
        advice = SET_AUTHORITY
    return DeadEndError(f"the collector's certificate {what}", advice, "send")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What is spoken at a port; HTTP/2 is what gRPC speaks."""

    tls: bool
    http1: bool
    http2: bool


def spoken_at(exporter: ExporterConfig, route: Route, timeout_s: float) -> Spoken | None:
    """Find out what is spoken at a port, with TLS or without; None where nothing is said.

    Raises:
        DeadEndError: a client's certificate is wanted, or seems to be.

    """
    timeout_s = min(timeout_s, _PROBE_TIMEOUT_S)
    for tls in (route.tls, not route.tls):
        answers = [
            _first_words(exporter, route, timeout_s, tls, protocol, words)
            for protocol, words in (("h2", _HTTP2_PREFACE), ("http/1.1", _HTTP1_REQUEST))
        ]
        http2 = any(answer[3:9] == _SETTINGS_FRAME for answer in answers)
        http1 = any(answer.startswith(b"HTTP/1.") for answer in answers)
        if http1 or http2:
            return Spoken(tls, http1, http2)
        if tls == route.tls and all(answer == _CLOSED for answer in answers):
            raise DeadEndError(
                "it hangs up as soon as TLS has begun, as collectors do that want a client's "
                "certificate",
                _GIVE_CERTIFICATE,
            )
    return None


def _first_words(
    exporter: ExporterConfig, route: Route, timeout_s: float, tls: bool, protocol: str, words: bytes
) -> bytes:
    """Say something, and return the beginning of what is said to it, or before it."""
    try:
        found = resolve(route)
        deadline = Deadline(timeout_s)
        with connect(route, found, deadline) as connection:
            if route.proxy:
                tunnel(connection, route, route.proxy, deadline, exporter)
            if not tls:
                return _answer(connection, words, deadline)
            context = _context(exporter, verify=False)
            context.set_alpn_protocols([protocol])
            deadline.limit(connection)
            with context.wrap_socket(connection, server_hostname=route.collector.host) as secure:
                first = _said_first(secure)
                return _answer(secure, words, deadline) if first is None else first or _CLOSED
    except (OSError, DeadEndError) as error:
        if "CERTIFICATE_REQUIRED" in (getattr(error, "reason", None) or ""):
            raise DeadEndError(_NO_CLIENT_CERTIFICATE, _GIVE_CERTIFICATE) from None
        return b""


def _said_first(connection: ssl.SSLSocket) -> bytes | None:
    """Return what a server says without being asked, None if it waits.

    gRPC's begin so, and refusals come so.
    """
    try:
        return _received(connection, Deadline(_ALERT_TIMEOUT_S))
    except TimeoutError:
        return None


def _answer(connection: socket.socket, words: bytes, deadline: Deadline) -> bytes:
    deadline.limit(connection)
    connection.sendall(words)
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
