"""Events over OTLP/HTTP, as protobuf or JSON, through the official exporters.

The official exporter knows where to post, with what headers and how. Its `export` says only whether
that went well, retries on its own, and takes a redirect for success; so the `requests.Session` it
posts through is ours. The session keeps each answer for `HttpExporter` to judge, and shows the
exporter a plain refusal where it would have begun to retry. The official encoder of protobuf takes
longer than all the rest; so that exporter gets nothing to encode, and the session posts the request
that `otlp_requests` filled. Answers are judged as the specification says:
https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import gzip
import json
import ssl
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk.version import __version__ as sdk_version
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers, get_auth_from_url

from .exporters import (
    PERHAPS_CLIENT_CERTIFICATE,
    Origin,
    Outcome,
    Verdict,
    delivered,
    safe_reason,
    tls_failure,
)
from .otlp_records import OtlpRecords
from .otlp_requests import OtlpRequests
from .records import Event
from .settings import ExporterConfig, TlsConfig

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

_RETRYABLE = (429, 502, 503, 504)
_TOO_LARGE = 413
_REFUSAL = 400

_CONTENT_TYPES = {"binary": "application/x-protobuf", "json": "application/json"}
_USER_AGENT = f"OTel-OTLP-Exporter-Python/{sdk_version}"

_COMPRESS: dict[Any, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
"""How a body is compressed, by the header that says it is."""

_MAX_BODY = 65_536

_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)


@dataclass(slots=True)
class Answer:
    """What a collector answered; of its body no more than anybody reads."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """The body's media type, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class HttpExporter:
    """Sends events to an OTLP/HTTP collector; see `exporters.Exporter`."""

    def __init__(self, config: ExporterConfig, origin: Origin) -> None:
        self._config = config
        self._records = OtlpRecords(origin) if config.protocol == "json" else None
        self._requests = OtlpRequests(origin)
        self._session = _Session(config)
        self._exporter = (_json_exporter if config.protocol == "json" else _protobuf_exporter)(
            config, self._session
        )

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Post the events in one request and judge the answer."""
        self._session.forget(timeout_s)
        if self._records is not None:
            self._exporter.export(self._records.batch(events))
        else:
            self._session.body = self._requests.request(events).SerializeToString()
            self._exporter.export(())
        if (error := self._session.error) is not None:
            return self._outcome("retry", _what_failed(error, self._config))
        if (answer := self._session.answer) is None:
            raise ValueError("the exporter could not encode the events")
        return self._judge(answer)

    def shutdown(self) -> None:
        """Close the connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _judge(self, answer: Answer) -> Outcome:
        if 200 <= answer.status < 300:
            return delivered(*_partial_success(answer), self._config)
        reason = f"HTTP {answer.status} {answer.reason or ''}".strip()
        if 300 <= answer.status < 400:
            reason += ", a redirect; give the address it leads to as endpoint"
        elif message := _message(answer):
            reason += f": {message}"
        verdict: Verdict = "refused"
        if answer.status in _RETRYABLE:
            verdict = "retry"
        elif answer.status == _TOO_LARGE:
            verdict = "too large"
        return self._outcome(verdict, reason, answer)

    def _outcome(self, verdict: Verdict, reason: str, answer: Answer | None = None) -> Outcome:
        return Outcome(
            verdict,
            safe_reason(reason, self._config),
            retry_after_s=_retry_after_s(answer) if answer and verdict == "retry" else None,
            status=answer.status if answer else None,
        )


def _protobuf_exporter(config: ExporterConfig, session: _Session) -> LogRecordExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    if config.endpoint is None:
        return OTLPLogExporter(session=session)
    return OTLPLogExporter(
        endpoint=config.endpoint,
        headers=dict(config.headers),
        timeout=config.timeout_ms / 1000,
        compression=Compression(config.compression),
        session=session,
    )


def _json_exporter(config: ExporterConfig, session: _Session) -> LogRecordExporter:
    # This exporter has no session argument. A transport is what it can be given, though only under
    # a private name, as the module that makes transports is private too.
    from opentelemetry.exporter.http.transport._requests import RequestsHTTPTransport
    from opentelemetry.exporter.otlp.common.http import Compression
    from opentelemetry.exporter.otlp.json.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter(
        endpoint=config.endpoint,
        headers=dict(config.headers),
        timeout=config.timeout_ms / 1000,
        compression=Compression(config.compression),
        _transport=RequestsHTTPTransport(session=session),
    )


class _Session(requests.Session):
    """Posts as the settings say, keeps the answer, and never lets the exporter retry.

    `body`, if there is one, is posted in place of the exporter's.

    With an endpoint in the settings, the environment adds no header and no certificate of ours to
    a request: nothing of `OTEL_EXPORTER_OTLP_*`, no password of a `.netrc` file. Proxies and
    `REQUESTS_CA_BUNDLE` are the machine's way out, and stay.
    """

    def __init__(self, config: ExporterConfig) -> None:
        super().__init__()
        self._config = config
        self.auth = _basic_auth  # with none at all, requests would look into .netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.body: bytes | None = None
        self._timeout_s: float | None = None

    def forget(self, timeout_s: float | None) -> None:
        """Forget the last answer, before the next request; that one may take `timeout_s`."""
        self.answer = self.error = None
        self._timeout_s = timeout_s

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send one request; show the exporter no more of the answer than yes or no."""
        kwargs |= {"allow_redirects": False, "stream": True}
        if self._timeout_s is not None:
            kwargs["timeout"] = min(kwargs["timeout"], self._timeout_s)
        if self._config.endpoint is not None:
            self._apply_settings(kwargs)
        elif isinstance(self.verify, str):
            kwargs["verify"] = self.verify  # or else REQUESTS_CA_BUNDLE would win over it
        if self.body is not None:
            headers = CaseInsensitiveDict({**self.headers, **kwargs.get("headers", {})})
            kwargs["data"] = _COMPRESS.get(headers.get("Content-Encoding"), bytes)(self.body)
            self.body = None
        shown = requests.Response()
        shown.status_code, shown.url = _REFUSAL, url
        try:
            with super().request(method, url, *args, **kwargs) as response:
                self.answer = Answer(response.status_code, response.reason, response.headers)
                self.answer.body = _body(response)
        except Exception as error:  # of requests, urllib3, ssl, or a file that is gone
            self.error = None if self.answer else error
        if self.answer and 200 <= self.answer.status < 300:
            shown.status_code = self.answer.status
        return shown

    def _apply_settings(self, kwargs: dict[str, Any]) -> None:
        config = self._config
        headers: dict[str, Any] = dict.fromkeys((*self.headers, *kwargs.get("headers", ())))
        headers |= default_headers()
        headers["User-Agent"] = _USER_AGENT
        headers["Content-Type"] = _CONTENT_TYPES[config.protocol]
        if config.compression != "none":
            headers["Content-Encoding"] = config.compression
        given = CaseInsensitiveDict(headers)
        given.update(config.headers)
        kwargs["headers"] = given
        tls = config.tls or TlsConfig()
        # Given with the request, because REQUESTS_CA_BUNDLE would win over the session's own.
        kwargs["verify"] = tls.ca_certificate or True
        self.cert = None
        if tls.client_certificate and tls.client_private_key:
            self.cert = (tls.client_certificate, tls.client_private_key)
        kwargs["cert"] = self.cert


def _basic_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send the user and password of the endpoint, if it has them."""
    user, password = get_auth_from_url(request.url or "")
    return requests.auth.HTTPBasicAuth(user, password)(request) if user else request


def _body(response: requests.Response) -> bytes:
    """Return the beginning of an answer's body, or nothing where it cannot be read."""
    body = b""
    with suppress(Exception):  # the status has been said; a broken body cannot change it
        for chunk in response.iter_content(_MAX_BODY):
            body += chunk
            if len(body) >= _MAX_BODY:
                break
    return body


def _partial_success(answer: Answer) -> tuple[int, str]:
    """Return how many events a collector left out, and what it said; nothing if it cannot be read.

    https://opentelemetry.io/docs/specs/otlp/#partial-success-1
    """
    try:
        if answer.media_type == _CONTENT_TYPES["json"]:
            partial = json.loads(answer.body or b"{}").get("partialSuccess") or {}
            rejected = int(partial.get("rejectedLogRecords") or 0)
            return rejected, str(partial.get("errorMessage") or "")
        success = ExportLogsServiceResponse.FromString(answer.body).partial_success
        return success.rejected_log_records, success.error_message
    except Exception:  # an answer in no form the specification has; the status was 2xx
        return 0, ""


def _message(answer: Answer) -> str:
    """Return what a collector said when it refused."""
    try:
        if answer.media_type == _CONTENT_TYPES["json"]:
            return str(json.loads(answer.body)["message"])
        if answer.media_type == _CONTENT_TYPES["binary"]:
            return str(Status.FromString(answer.body).message)
        if answer.media_type == "text/plain":
            return answer.body.decode("utf-8", "replace")
    except Exception:  # an answer in no form the specification has; the status says enough
        pass
    return ""


def _retry_after_s(answer: Answer) -> float | None:
    """Return the seconds of `Retry-After`, given as a number or a date (RFC 9110, 10.2.3)."""
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
    """Say in a few words why there was no answer."""
    within = (
        f" within {config.timeout_ms / 1000:g} s" if config.endpoint is not None else " in time"
    )
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection{within}"
    if isinstance(error, requests.Timeout):
        return f"no answer{within}"
    cause: BaseException = error
    while (deeper := _cause_of(cause)) is not None:
        cause = deeper
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return tls_failure(cause.reason, getattr(cause, "verify_message", ""))
    if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        return "no connection: what came is not HTTP"  # and the cause's text is what came
    what = "TLS failed" if isinstance(error, requests.exceptions.SSLError) else "no connection"
    text = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
    text = text.partition(" (_ssl.c:")[0]
    over_tls = (config.endpoint or "").lower().startswith("https://")
    hint = PERHAPS_CLIENT_CERTIFICATE if over_tls and isinstance(cause, _HUNG_UP) else ""
    return f"{what}: {text}{hint}"


def _cause_of(error: BaseException) -> BaseException | None:
    """Return what lies behind an error; requests and urllib3 wrap in more than one way."""
    wrapped = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
    return next((e for e in wrapped if isinstance(e, BaseException) and e is not error), None)
