"""Converts answers of OTLP/HTTP collectors, and errors of failed requests, to outcomes.

Follows https://opentelemetry.io/docs/specs/otlp/#otlphttp-response.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, RemoteDisconnected, UnknownProtocol

import requests
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from ..config.settings import ExporterConfig
from ..delivery.exporter import Outcome, Verdict
from .reasons import PERHAPS_CLIENT_CERTIFICATE, delivered, safe_reason, tls_failure

CONTENT_TYPES = {"binary": "application/x-protobuf", "json": "application/json"}
"""The media type of requests and answers for each `protocol` of the settings."""

_VERDICTS: dict[int, Verdict] = {
    400: "invalid",
    413: "too large",
    429: "retry",
    502: "retry",
    503: "retry",
    504: "retry",
}
"""The verdict for each status that is neither a success nor `refused`.

The specification makes 429, 502, 503 and 504 retryable, and no other status. 400 and 413 lead to
smaller requests: one invalid event must not cost the whole batch.
"""

_HTML = ("text/html", "application/xhtml+xml")
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE
)
"""The beginning of a web page. Login pages and captive portals may declare any media type."""

_CLOSED_BY_PEER = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)
"""Errors that mean that the peer closed the connection."""


@dataclass(slots=True)
class Answer:
    """The answer of a collector. Of a long body, `body` holds only the beginning."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """The media type of the body, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def is_web_page(self) -> bool:
        """Whether the body is a web page, which a collector never sends."""
        return (self.media_type in _HTML and b"<" in self.body) or bool(_PAGE.match(self.body))


def judge(answer: Answer, config: ExporterConfig) -> Outcome:
    """Return the outcome of a request that was answered."""
    status = f"HTTP {answer.status} {answer.reason or ''}".strip()
    if 200 <= answer.status < 300:
        if answer.is_web_page:
            # Most likely a proxy's login page. The status is what counts in OTLP, so the events
            # count as exported, and the sender reports the page once.
            page = safe_reason(f"{status}, {answer.media_type or 'HTML'}", config)
            return Outcome("delivered", page, status=answer.status, web_page=True)
        return delivered(*_partial_success(answer), config)
    reason = status
    if 300 <= answer.status < 400:
        # A redirect is never followed: it would send events and headers to another host.
        reason += ": redirects are not followed; set endpoint to the redirect's target"
    elif message := _message(answer):
        reason += f": {message}"
    verdict = _VERDICTS.get(answer.status, "refused")
    return Outcome(
        verdict,
        safe_reason(reason, config),
        retry_after_s=_retry_after_s(answer) if verdict == "retry" else None,
        status=answer.status,
    )


def unanswered(error: Exception, config: ExporterConfig) -> Outcome:
    """Return the outcome of a request that failed with an error before an answer arrived."""
    return Outcome("retry", safe_reason(_what_failed(error, config), config))


def _partial_success(answer: Answer) -> tuple[int, str]:
    """Return the number of rejected events and the message of a partial success.

    https://opentelemetry.io/docs/specs/otlp/#partial-success-1
    """
    try:
        if answer.media_type == CONTENT_TYPES["json"]:
            # In OTLP/JSON, 64-bit numbers are strings, and null means the default.
            partial = json.loads(answer.body or b"{}").get("partialSuccess") or {}
            rejected = int(partial.get("rejectedLogRecords") or 0)
            return rejected, str(partial.get("errorMessage") or "")
        success = ExportLogsServiceResponse.FromString(answer.body).partial_success
        return success.rejected_log_records, success.error_message
    except Exception:  # not a valid OTLP answer; the status was 2xx
        return 0, ""


def _message(answer: Answer) -> str:
    """Return the message of a collector that refused a request, or an empty string."""
    try:
        if answer.media_type == CONTENT_TYPES["json"]:
            return str(json.loads(answer.body)["message"] or "")
        if answer.media_type == CONTENT_TYPES["binary"]:
            return str(Status.FromString(answer.body).message)
        if answer.media_type == "text/plain":
            return answer.body.decode("utf-8", "replace")
    except Exception:  # not a valid OTLP answer; the status suffices
        pass
    return ""


def _retry_after_s(answer: Answer) -> float | None:
    """Return `Retry-After` in seconds; the value is a number or a date (RFC 9110, 10.2.3)."""
    value = answer.headers.get("Retry-After", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _what_failed(error: Exception, config: ExporterConfig) -> str:
    """Return a short description of why no answer arrived."""
    # Only the innermost cause is shown: requests and urllib3 add addresses and names of objects.
    within = f" within {config.timeout_ms / 1000:g} s"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection{within}"
    if isinstance(error, requests.Timeout):
        return f"no answer{within}"
    cause: BaseException = error
    while (deeper := _cause_of(cause)) is not None:
        cause = deeper
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return tls_failure(cause.reason, getattr(cause, "verify_message", ""))
    is_other_protocol = isinstance(cause, (BadStatusLine, UnknownProtocol))
    if is_other_protocol and not isinstance(cause, RemoteDisconnected):
        return "no connection: the answer is not HTTP"  # the cause would quote the answer
    if isinstance(cause, TimeoutError):
        return f"no answer{within}"
    what = "TLS failed" if isinstance(error, requests.exceptions.SSLError) else "no connection"
    text = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
    text = text.partition(" (_ssl.c:")[0]  # the position in CPython's source
    is_closed = config.uses_tls and isinstance(cause, _CLOSED_BY_PEER)
    return f"{what}: {text}{PERHAPS_CLIENT_CERTIFICATE if is_closed else ''}"


def _cause_of(error: BaseException) -> BaseException | None:
    """Return the direct cause of an error, or None.

    requests passes it as an argument, urllib3 as `reason`, and both raise errors from others.
    """
    wrapped = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
    return next((e for e in wrapped if isinstance(e, BaseException) and e is not error), None)
