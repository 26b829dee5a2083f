"""What the steps of a delivery can find, and what to do about it: the words, as data.

`{name}` stands for a value that `Diagnosis.about` inserts. Dictionaries hold what depends on a
code: of a certificate's fault, of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ...config.endpoints import LOGS_PATH

NextStep = Literal["continue", "send", "look", "stop"]
"""What is worth doing after a step.

`continue` with the next one. After a failure: let the exporter try (`send`), which may know more
authorities; the same, and then find out what is spoken at the port (`look`); or nothing (`stop`).
"""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a step found, what people can do about it, and what is worth doing next."""

    text: str
    advice: str = ""
    next: NextStep = "stop"

    @property
    def ok(self) -> bool:
        """Whether the step succeeded."""
        return self.next == "continue"

    def about(self, **values: object) -> Diagnosis:
        """Return the diagnosis with these values inserted into text and advice."""
        text, advice = self.text.format_map(values), self.advice.format_map(values)
        return replace(self, text=text, advice=advice)


def _good(text: str) -> Diagnosis:
    return Diagnosis(text, next="continue")


NOT_IMPORTED = Diagnosis("{error}")
NOT_BUILT = Diagnosis("the exporter cannot be built: {error}", "install its package again")

RESOLVED = _good("{route.host_shown} is {addresses}")
NUMBER = _good("{addresses} is a number, there is nothing to look up")
RESOLVED_PROXY = _good("{route.first.host}, the proxy of {route.setting}, is {addresses}")
UNKNOWN_NAME = Diagnosis(
    "the name {route.host_shown} is not known ({reason})",
    "check the host in {route.setting}, and whether this machine can look it up (DNS, VPN)",
)
UNKNOWN_PROXY = replace(
    UNKNOWN_NAME, text="the name {route.first.host} (the proxy) is not known ({reason})"
)

CONNECTED = _good("connected to {peer[0]}, port {peer[1]}")
UNREACHABLE = Diagnosis(
    "no connection within {timeout_s:g} s",
    "nothing answers at port {route.first.port}, not even to refuse: check the host and the port "
    "in {route.setting}, and whether a firewall is in between",
)
REFUSED = Diagnosis(
    "refused: nobody listens at port {route.first.port}",
    "is the collector running, and is the port right? 4318 is usually the port of OTLP/HTTP, 4317 "
    "that of OTLP/gRPC",
)
PROXY_REFUSED = replace(REFUSED, advice="check {route.setting}; is the proxy running?")
NOT_CONNECTED = Diagnosis(
    "no connection: {reason}",
    "check the host and the port in {route.setting}, and this machine's network",
)

TUNNELED = _good("the proxy connects to the collector")
SILENT_PROXY = Diagnosis(
    "the proxy did not answer ({reason})", "is {route.setting} the address of an HTTP proxy?"
)
NO_HTTP_PROXY = Diagnosis("the proxy answered in no HTTP", "is {route.setting} an HTTP proxy?")
PROXY_AUTHENTICATION = Diagnosis(
    "the proxy wants to know who asks ({reason})",
    "put user and password into {route.setting}: http://user:password@host:port",
)
NO_TUNNEL = Diagnosis(
    "the proxy does not connect to the collector ({reason})",
    "ask who runs the proxy to let this host and port through, or name the collector's host in "
    "no_proxy if it can be reached without",
)

_SET_AUTHORITY = (
    "set ca-certificate in the exporter's tls to the PEM file of the authority that signed the "
    "collector's certificate"
)
SECURE = _good("{version}, the collector's certificate is good")
UNREADABLE_CERTIFICATES = Diagnosis(
    "the certificates cannot be loaded ({reason})",
    "check the files of the exporter's tls, or of the variables that name them",
)
INVALID_NAME = Diagnosis(
    "TLS does not accept the name {route.host_shown}", "check the host in endpoint"
)
NO_HANDSHAKE = Diagnosis(
    "no answer to the beginning of TLS",
    "if the collector takes plaintext there, begin the endpoint with http://",
)
NO_TLS = Diagnosis("the other side speaks no such TLS ({reason})", next="look")
CLIENT_CERTIFICATE = Diagnosis(
    "the collector wants a client's certificate",
    "set client-certificate and client-private-key in the exporter's tls, signed by an authority "
    "that the collector trusts",
)
NO_CLIENT_CERTIFICATE = replace(
    CLIENT_CERTIFICATE, text=f"{CLIENT_CERTIFICATE.text} ({{reason}})", next="send"
)
UNKNOWN_AUTHORITY = Diagnosis(
    "the collector's certificate is from an unknown authority ({reason})", _SET_AUTHORITY, "send"
)
_OTHER_HOST = Diagnosis(
    "the collector's certificate is for another host than {route.host_shown}",
    "give the name that is in the certificate as the host of endpoint",
    "send",
)
CERTIFICATES: Mapping[int, Diagnosis] = {
    9: Diagnosis(
        "the collector's certificate is not valid yet ({reason})",
        "is this machine's clock right?",
        "send",
    ),
    10: Diagnosis("the collector's certificate has expired ({reason})", "have it renewed", "send"),
    62: _OTHER_HOST,  # the host's name
    64: _OTHER_HOST,  # its address
}
"""Faults of a certificate, by the code of OpenSSL's `X509_verify_cert_error_string`."""

_LOG = "see the collector's log"
_BUSY = "it is busy, or over a quota; events are kept and tried again, so see that this ends"
_TOO_LARGE = (
    "one event is too large for it already: raise the largest request the collector takes, and set "
    "batch.max_request_bytes below that"
)
_BEHIND_PROXY = (
    "a proxy or load balancer answers, but the collector behind it does not: is it running?"
)
ACCEPTED = _good("accepted")
ACCEPTED_WITH_WARNING = _good("accepted, with a warning: {reason}")
WEB_PAGE = Diagnosis(
    "the answer is a web page ({reason})",
    "is {exporter.safe_endpoint} the collector's address? a collector does not answer with a web "
    "page; a proxy, a sign-in page or a captive portal does",
)
REJECTED = Diagnosis(
    "the collector left the event out ({reason})",
    f"{_LOG}: it drops such events on purpose, for their age, size or a quota",
)
REJECTED_WITHOUT_REASON = REJECTED.about(reason="it did not say why")
FAILED = Diagnosis("{reason}", _LOG)
UNEXPLAINED = Diagnosis("{reason}", next="look")
UNEXPLAINED_WITHOUT_ROUTE = Diagnosis(
    "{reason}", "is {exporter.safe_endpoint} the collector's address?"
)
ASKED_TO_WAIT = "; it asks to be left alone for {:g} s"

_ADVICE: Mapping[int | str | None, str] = {
    "headers": "check the values of the headers that were sent: {headers}; is the key the right "
    "one?",
    "no header": "no header is set; put the key or token it wants into headers of the exporter",
    "redirect": "redirects are not followed: events go to the endpoint and nowhere else",
    "path": f"the host does not know {LOGS_PATH} below this path; is the endpoint right?",
    "no path": f"collectors take logs at {LOGS_PATH}; try endpoint = {{logs_endpoint!r}}",
    400: f"is it an OTLP/HTTP collector, and the endpoint the one for logs? {_LOG}",
    405: "no collector takes logs at this path; is the endpoint right?",
    407: "the proxy wants a user and password: http://user:password@host:port in its variable",
    413: _TOO_LARGE,
    415: "it does not take protocol = {exporter.protocol!r}; try {other_protocol!r}",
    429: _BUSY,
    502: _BEHIND_PROXY,
    503: _BUSY,
    504: _BEHIND_PROXY,
    "RESOURCE_EXHAUSTED, retry": _BUSY,
    "RESOURCE_EXHAUSTED, too large": _TOO_LARGE,
    "RESOURCE_EXHAUSTED, refused": "a quota is exhausted, and the collector named no time to wait: "
    f"{_LOG}",
    "UNIMPLEMENTED": "something speaks gRPC there, but takes no logs: is it the collector's port "
    "for OTLP, and does it have a pipeline for logs?",
}
ANSWERS = {subject: replace(FAILED, advice=advice) for subject, advice in _ADVICE.items()}
"""Refusals by what they are about, or else by their status; all others are just `FAILED`."""

HIDDEN = Diagnosis(
    "the proxy of {route.setting} is between here and the collector", "see the proxy's log"
)
NO_PROTOCOL = Diagnosis(
    "what listens there speaks neither HTTP nor gRPC",
    "it hangs, is overloaded, or is no collector: is the port right, and what does the collector's "
    "log say?",
)
HANGS_UP = replace(
    CLIENT_CERTIFICATE,
    text="it hangs up as soon as TLS has begun, as collectors do that want a client's certificate",
)
PROTOCOLS = Diagnosis("speaks {protocols} {tls} TLS", "{mismatches}")
UNTRUSTED_BY_GRPC = replace(
    PROTOCOLS,
    advice=f"gRPC does not trust a certificate that this machine trusts; {_SET_AUTHORITY}",
)
UNWILLING = replace(PROTOCOLS, advice=f"the collector is there, but takes no events now: {_LOG}")
USE_SCHEME = {True: "begin the endpoint with https://", False: "begin the endpoint with http://"}
"""Advice by whether TLS is spoken at the port."""

USE_EXPORTER = {
    "HTTP/1": "use exporter otlp-grpc, or the collector's port for HTTP, usually 4318",
    "gRPC": "use exporter otlp-http, or the collector's port for gRPC, usually 4317",
}
"""Advice by the exporter's protocol, which is not spoken at the port."""
