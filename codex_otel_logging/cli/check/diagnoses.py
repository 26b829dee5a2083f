"""The results of the delivery steps and the advice for each, as data.

`Diagnosis.about` replaces `{name}` placeholders. Dictionaries map error codes to diagnoses: those
of certificate verification, and those of a collector's answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ...config.endpoints import LOGS_PATH

NextStep = Literal["continue", "send", "detect", "stop"]
"""What to do after a step.

- `continue`: the step succeeded, run the next one.
- `send`: it failed, but let the exporter try: it may trust more authorities than the probe.
- `detect`: as `send`, and if that fails too, detect which protocols the port speaks.
- `stop`: the diagnosis is final.
"""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of a step, advice for the user, and what to do next."""

    text: str
    advice: str = ""
    next: NextStep = "stop"

    @property
    def ok(self) -> bool:
        """Whether the step succeeded."""
        return self.next == "continue"

    def about(self, **values: object) -> Diagnosis:
        """Return the diagnosis with its placeholders replaced in text and advice."""
        text, advice = self.text.format_map(values), self.advice.format_map(values)
        return replace(self, text=text, advice=advice)


def _success(text: str) -> Diagnosis:
    return Diagnosis(text, next="continue")


NOT_IMPORTED = Diagnosis("{error}")
NOT_BUILT = Diagnosis("the exporter cannot be built: {error}", "reinstall its package")

RESOLVED = _success("{route.host_shown} is {addresses}")
IP_ADDRESS = _success("{addresses} is an IP address, no lookup needed")
RESOLVED_PROXY = _success("{route.first.host}, the proxy from {route.setting}, is {addresses}")
UNKNOWN_NAME = Diagnosis(
    "unknown host {route.host_shown} ({reason})",
    "check the host in {route.setting} and this machine's name resolution (DNS, VPN)",
)
UNKNOWN_PROXY = replace(UNKNOWN_NAME, text="unknown proxy host {route.first.host} ({reason})")

CONNECTED = _success("connected to {peer[0]}, port {peer[1]}")
UNREACHABLE = Diagnosis(
    "no connection within {timeout_s:g} s",
    "port {route.first.port} neither accepts nor refuses: check host and port in {route.setting}, "
    "and firewalls on the route",
)
REFUSED = Diagnosis(
    "connection refused at port {route.first.port}",
    "check that the collector is running and that the port is correct: OTLP/HTTP usually uses "
    "4318, OTLP/gRPC 4317",
)
PROXY_REFUSED = replace(
    REFUSED, advice="check the address in {route.setting} and that the proxy is running"
)
NOT_CONNECTED = Diagnosis(
    "no connection: {reason}",
    "check host and port in {route.setting}, and this machine's network",
)

TUNNELED = _success("the proxy connected to the collector")
SILENT_PROXY = Diagnosis(
    "no answer from the proxy ({reason})",
    "check that {route.setting} is the address of an HTTP proxy",
)
NOT_AN_HTTP_PROXY = Diagnosis(
    "the proxy's answer is not HTTP", "check that {route.setting} is the address of an HTTP proxy"
)
PROXY_AUTHENTICATION = Diagnosis(
    "proxy authentication required ({reason})",
    "set user and password in {route.setting}: http://user:password@host:port",
)
TUNNEL_REFUSED = Diagnosis(
    "the proxy refused to connect to the collector ({reason})",
    "ask the proxy's administrator to allow this host and port; if the collector can be reached "
    "directly, add its host to no_proxy",
)

_SET_AUTHORITY = (
    "set ca-certificate in the exporter's tls table to the PEM file of the authority that signed "
    "the collector's certificate"
)
TLS_ESTABLISHED = _success("{version}, the collector's certificate is valid")
UNREADABLE_CERTIFICATES = Diagnosis(
    "the certificates cannot be loaded ({reason})",
    "check the files in the exporter's tls table, or in the variables that name them",
)
INVALID_NAME = Diagnosis(
    "invalid host name for TLS: {route.host_shown}", "check the host in endpoint"
)
HANDSHAKE_TIMEOUT = Diagnosis(
    "no answer to the TLS handshake",
    "if this port expects plaintext, begin the endpoint with http://",
)
HANDSHAKE_FAILED = Diagnosis("TLS handshake failed ({reason})", next="detect")
CLIENT_CERTIFICATE = Diagnosis(
    "the collector requires a client certificate",
    "set client-certificate and client-private-key in the exporter's tls table, signed by an "
    "authority that the collector trusts",
)
NO_CLIENT_CERTIFICATE = replace(
    CLIENT_CERTIFICATE, text=f"{CLIENT_CERTIFICATE.text} ({{reason}})", next="send"
)
UNKNOWN_AUTHORITY = Diagnosis(
    "the collector's certificate was signed by an unknown authority ({reason})",
    _SET_AUTHORITY,
    "send",
)
_OTHER_HOST = Diagnosis(
    "the collector's certificate is not valid for {route.host_shown}",
    "use a host name from the certificate in endpoint",
    "send",
)
CERTIFICATES: Mapping[int, Diagnosis] = {
    9: Diagnosis(
        "the collector's certificate is not valid yet ({reason})",
        "check this machine's clock",
        "send",
    ),
    10: Diagnosis(
        "the collector's certificate has expired ({reason})", "renew the certificate", "send"
    ),
    62: _OTHER_HOST,  # X509_V_ERR_HOSTNAME_MISMATCH
    64: _OTHER_HOST,  # X509_V_ERR_IP_ADDRESS_MISMATCH
}
"""Certificate errors by verification code.

The codes are those of https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/. The probe
trusts the system's authorities, the exporter's library may trust others: hence `send`.
"""

_LOG = "see the collector's log"
_BUSY = "the collector is busy or over a quota; a handler keeps events queued and retries"
_TOO_LARGE = (
    "even one event exceeds the collector's request limit: raise that limit, and set "
    "batch.max_request_bytes below it"
)
_BEHIND_PROXY = (
    "a proxy or load balancer answered, the collector behind it did not: check that the collector "
    "is running"
)
ACCEPTED = _success("accepted")
ACCEPTED_WITH_WARNING = _success("accepted, with a warning: {reason}")
WEB_PAGE = Diagnosis(
    "the answer is a web page ({reason})",
    "check that {exporter.safe_endpoint} is the collector's address: web pages come from a proxy, "
    "a sign-in page or a captive portal, not from a collector",
)
REJECTED = Diagnosis(
    "collector rejected the event ({reason})",
    f"{_LOG}: it rejects such events by configuration, for their age, size or a quota",
)
REJECTED_WITHOUT_REASON = REJECTED.about(reason="no reason given")
FAILED = Diagnosis("{reason}", _LOG)
UNEXPLAINED = Diagnosis("{reason}", next="detect")
UNEXPLAINED_WITHOUT_ROUTE = Diagnosis(
    "{reason}", "check that {exporter.safe_endpoint} is the collector's address"
)
RETRY_AFTER = "; Retry-After: {:g} s"

# The keys are subjects, HTTP statuses, or gRPC statuses. gRPC has only RESOURCE_EXHAUSTED for a
# busy collector, a large message and a quota; the outcome of judging the answer tells them apart,
# following https://opentelemetry.io/docs/specs/otlp/#failures.
_ADVICE: Mapping[int | str | None, str] = {
    "headers": "check the values of the headers that were sent: {headers}",
    "no header": "the request had no credentials; set the collector's key or token in the "
    "exporter's headers",
    "redirect": "redirects are not followed; set endpoint to the final address",
    "path": f"the host does not serve {LOGS_PATH} below this path; check the endpoint",
    "no path": f"collectors receive logs at {LOGS_PATH}; try endpoint = {{logs_endpoint!r}}",
    400: f"check that endpoint is an OTLP/HTTP collector's address for logs; {_LOG}",
    405: "this path does not accept logs; check the endpoint",
    407: "the proxy requires a user and password: set http://user:password@host:port in its "
    "environment variable",
    413: _TOO_LARGE,
    415: "the collector does not accept protocol = {exporter.protocol!r}; try {other_protocol!r}",
    429: _BUSY,
    502: _BEHIND_PROXY,
    503: _BUSY,
    504: _BEHIND_PROXY,
    "RESOURCE_EXHAUSTED, retry": _BUSY,
    "RESOURCE_EXHAUSTED, too large": _TOO_LARGE,
    "RESOURCE_EXHAUSTED, refused": "a quota is exhausted, and the collector did not say when to "
    f"retry: {_LOG}",
    "UNIMPLEMENTED": "a gRPC server without the OTLP logs service: check that the port is the "
    "collector's OTLP port and that it has a logs pipeline",
}
ANSWERS = {subject: replace(FAILED, advice=advice) for subject, advice in _ADVICE.items()}
"""Diagnoses of failed exports by the subject of the answer or its status; otherwise `FAILED`."""

HIDDEN_BY_PROXY = Diagnosis(
    "the proxy from {route.setting} hides the collector", "see the proxy's log"
)
NO_PROTOCOL = Diagnosis(
    "the port speaks neither HTTP nor gRPC",
    "the server hangs, is overloaded or is not a collector: check the port and the collector's log",
)
CLOSED_IN_HANDSHAKE = replace(
    CLIENT_CERTIFICATE,
    text="the connection is closed during the TLS handshake, as by collectors that require a "
    "client certificate",
)
PROTOCOLS = Diagnosis("the port speaks {protocols} {tls} TLS", "{mismatches}")
UNTRUSTED_BY_GRPC = replace(
    PROTOCOLS,
    advice=f"this machine trusts the collector's certificate, gRPC does not; {_SET_AUTHORITY}",
)
NOT_ACCEPTING = replace(
    PROTOCOLS, advice=f"the collector runs, but does not accept events at present: {_LOG}"
)
USE_SCHEME = {True: "begin the endpoint with https://", False: "begin the endpoint with http://"}
"""Advice by whether the port speaks TLS."""

USE_EXPORTER = {
    "HTTP/1": "use exporter otlp-grpc, or the collector's HTTP port, usually 4318",
    "gRPC": "use exporter otlp-http, or the collector's gRPC port, usually 4317",
}
"""Advice by the exporter's protocol, if the port does not speak it."""
