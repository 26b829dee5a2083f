"""What to do about an event that did not arrive, in words for people."""

from __future__ import annotations

from urllib.parse import urlsplit

from ...config.settings import ExporterConfig
from ...delivery.exporter import Outcome
from ...otlp.route import Route
from .probes import SET_AUTHORITY, Spoken

_PATH = "/v1/logs"

_TOO_LARGE = (
    "one event is too large for it already: raise the largest request the collector takes, and set "
    "batch.max_request_bytes below that"
)
_BUSY = "it is busy, or over a quota; events are kept and tried again, so see that this ends"
_SEE_ITS_LOG = "see the collector's log"
_QUOTA = f"a quota is exhausted, and the collector named no time to wait: {_SEE_ITS_LOG}"


def advice_on_answer(outcome: Outcome, exporter: ExporterConfig) -> str | None:
    """Say what to do about an answer, or None if that depends on what is spoken at the port."""
    status = outcome.status
    if outcome.web_page:
        return _about_web_page(exporter)
    if outcome.verdict == "delivered":
        return f"{_SEE_ITS_LOG}: it drops such events on purpose, for their age, size or a quota"
    if status in (401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED"):
        return _about_headers(exporter)
    if isinstance(status, int):
        return _about_http(status, exporter)
    if status == "RESOURCE_EXHAUSTED":
        return {"retry": _BUSY, "too large": _TOO_LARGE}.get(outcome.verdict, _QUOTA)
    if status == "UNIMPLEMENTED":
        return (
            "something speaks gRPC there, but takes no logs: is it the collector's port for OTLP, "
            "and does it have a pipeline for logs?"
        )
    if status is None or status in _UNCERTAIN:
        return None
    return _SEE_ITS_LOG


_UNCERTAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN")
"""The codes that gRPC also makes up itself, when no collector has answered."""


def _about_headers(exporter: ExporterConfig) -> str:
    if not exporter.headers:
        return "no header is set; put the key or token it wants into headers of the exporter"
    names = ", ".join(exporter.headers)
    return f"check the values of the headers that were sent: {names}; is the key the right one?"


def _about_http(status: int, exporter: ExporterConfig) -> str:
    if status == 404:
        return _about_path(exporter)
    if 300 <= status < 400:
        return "redirects are not followed: events go to the endpoint and nowhere else"
    if status == 415:
        other = "json" if exporter.protocol == "binary" else "binary"
        return f"it does not take protocol = {exporter.protocol!r}; try {other!r}"
    return _ABOUT_HTTP.get(status) or _SEE_ITS_LOG


_ABOUT_HTTP = {
    400: f"is it an OTLP/HTTP collector, and the endpoint the one for logs? {_SEE_ITS_LOG}",
    405: "no collector takes logs at this path; is the endpoint right?",
    407: "the proxy wants a user and password: http://user:password@host:port in its variable",
    413: _TOO_LARGE,
    429: _BUSY,
    502: "a proxy or load balancer answers, but the collector behind it does not: is it running?",
    503: _BUSY,
    504: "a proxy or load balancer answers, but the collector behind it does not: is it running?",
}


def _about_web_page(exporter: ExporterConfig) -> str:
    return (
        f"is {exporter.safe_endpoint} the collector's address? a collector does not answer with a "
        "web page; a proxy, a sign-in page or a captive portal does"
    )


def _about_path(exporter: ExporterConfig) -> str:
    path = urlsplit(exporter.endpoint or "").path
    if path.rstrip("/").endswith(_PATH):
        return f"the host does not know {_PATH} below this path; is the endpoint right?"
    address = (exporter.safe_endpoint or "").rstrip("/")
    return f"collectors take logs at {_PATH}; try endpoint = {f'{address}{_PATH}'!r}"


def advice_on_port(
    spoken: Spoken | None, outcome: Outcome, exporter: ExporterConfig, route: Route
) -> str:
    """Say what to do about an outcome that is no answer, knowing what is spoken at the port."""
    if spoken is None:
        return (
            "it hangs, is overloaded, or is no collector: is the port right, and what does the "
            "collector's log say?"
        )
    advice = []
    if spoken.tls != route.tls:
        advice.append(f"begin the endpoint with {'https' if spoken.tls else 'http'}://")
    if exporter.name == "otlp-http" and not spoken.http1:
        advice.append("use exporter otlp-grpc, or the collector's port for HTTP, usually 4318")
    elif exporter.name == "otlp-grpc" and not spoken.http2:
        advice.append("use exporter otlp-http, or the collector's port for gRPC, usually 4317")
    if advice:
        return "; ".join(advice)
    if "TLS failed" in outcome.reason:
        return f"gRPC does not trust a certificate that this machine trusts; {SET_AUTHORITY}"
    return f"the collector is there, but takes no events now: {_SEE_ITS_LOG}"
