"""Events over OTLP/HTTP, as protobuf or JSON, through the official exporters.

The official exporter encodes, compresses and posts. Its `export` says only whether that went well,
retries on its own, and takes a redirect for success; so the `requests.Session` it posts through is
ours. The session keeps each answer for `HttpExporter` to judge, and shows the exporter a plain
refusal where it would have begun to retry. Answers are judged as the specification says:
https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import requests
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from .config import ExporterConfig
from .exporters import DELIVERED, Origin, Outcome, safe_reason
from .otlp_records import OtlpRecords
from .records import Event

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

_RETRYABLE = (429, 502, 503, 504)
_TOO_LARGE = 413
_REFUSAL = 400

_PROTOCOL_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-type", "user-agent"}
)


class HttpExporter:
    """Sends events to an OTLP/HTTP collector; see `exporters.Exporter`."""

    def __init__(self, config: ExporterConfig, origin: Origin) -> None:
        self._config = config
        self._records = OtlpRecords(origin)
        self._session = _Session(config)
        self._exporter = (_json_exporter if config.protocol == "json" else _protobuf_exporter)(
            config, self._session
        )

    def export(self, events: Sequence[Event]) -> Outcome:
        """Post the events in one request and judge the answer."""
        self._session.forget()
        self._exporter.export(self._records.batch(events))
        if (error := self._session.error) is not None:
            return self._outcome("retry", _what_failed(error, self._config))
        if (answer := self._session.answer) is None:
            raise ValueError("the exporter could not encode the events")
        return self._judge(answer)

    def shutdown(self) -> None:
        """Close the connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _judge(self, answer: requests.Response) -> Outcome:
        status = answer.status_code
        if 200 <= status < 300:
            rejected, message = _partial_success(answer)
            if not rejected and not message:
                return DELIVERED
            return Outcome("delivered", safe_reason(message, self._config), max(rejected, 0))
        reason = f"HTTP {status} {answer.reason or ''}".strip()
        if 300 <= status < 400:
            reason += ", a redirect; give the address it leads to as endpoint"
        elif message := _message(answer):
            reason += f": {message}"
        if status in _RETRYABLE:
            return self._outcome("retry", reason, _retry_after_s(answer))
        return self._outcome("too large" if status == _TOO_LARGE else "refused", reason)

    def _outcome(self, verdict: Any, reason: str, retry_after_s: float | None = None) -> Outcome:
        return Outcome(verdict, safe_reason(reason, self._config), retry_after_s=retry_after_s)


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

    With an endpoint in the settings nothing around the process adds to a request: no header of
    `OTEL_EXPORTER_OTLP_HEADERS`, no password of a `.netrc` file, no other certificates.
    """

    def __init__(self, config: ExporterConfig) -> None:
        super().__init__()
        self._config = config
        self._allowed = _PROTOCOL_HEADERS | {name.lower() for name in config.headers}
        self.auth = _unchanged  # with none at all, requests would look into .netrc
        self.answer: requests.Response | None = None
        self.error: requests.RequestException | None = None

    def forget(self) -> None:
        """Forget the last answer, before the next request."""
        self.answer = self.error = None

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send one request, and answer with a refusal whatever it was that failed."""
        kwargs["allow_redirects"] = False
        if self._config.endpoint is not None:
            self._apply_settings(kwargs)
        try:
            self.answer = super().request(method, url, *args, **kwargs)
        except requests.RequestException as error:
            self.error = error
        else:
            if 200 <= self.answer.status_code < 300:
                return self.answer
        refusal = requests.Response()
        refusal.status_code = _REFUSAL
        refusal.url = url
        return refusal

    def _apply_settings(self, kwargs: dict[str, Any]) -> None:
        headers = {**self.headers, **(kwargs.get("headers") or {})}
        kwargs["headers"] = {
            name: value if name.lower() in self._allowed else None
            for name, value in headers.items()
        }
        # Given with the request, because REQUESTS_CA_BUNDLE would win over the session's own.
        tls = self._config.tls
        kwargs["verify"] = (tls and tls.ca_certificate) or True
        kwargs["cert"] = (
            (tls.client_certificate, tls.client_private_key)
            if tls and tls.client_certificate
            else None
        )


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _partial_success(answer: requests.Response) -> tuple[int, str]:
    """Return how many events a collector left out, and what it said; nothing if it cannot be read.

    https://opentelemetry.io/docs/specs/otlp/#partial-success-1
    """
    try:
        if _is_json(answer):
            partial = json.loads(answer.content or b"{}").get("partialSuccess", {})
            return int(partial.get("rejectedLogRecords", 0)), str(partial.get("errorMessage", ""))
        success = ExportLogsServiceResponse.FromString(answer.content).partial_success
        return success.rejected_log_records, success.error_message
    except Exception:  # an answer in no form the specification has; the status was 2xx
        return 0, ""


def _message(answer: requests.Response) -> str:
    """Return what a collector said when it refused."""
    try:
        if _is_json(answer):
            return str(json.loads(answer.content)["message"])
        if "protobuf" in answer.headers.get("Content-Type", ""):
            return str(Status.FromString(answer.content).message)
        if answer.headers.get("Content-Type", "").startswith("text/plain"):
            return answer.text
    except Exception:  # an answer in no form the specification has; the status says enough
        pass
    return ""


def _is_json(answer: requests.Response) -> bool:
    return "json" in answer.headers.get("Content-Type", "")


def _retry_after_s(answer: requests.Response) -> float | None:
    """Return the seconds of `Retry-After`, given as a number or a date (RFC 9110, 10.2.3)."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _what_failed(error: requests.RequestException, config: ExporterConfig) -> str:
    """Say in a few words why there was no answer."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {config.timeout_ms / 1000:g} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {config.timeout_ms / 1000:g} s"
    cause: BaseException = error
    while (deeper := _cause_of(cause)) is not None:
        cause = deeper
    what = "TLS failed" if isinstance(error, requests.exceptions.SSLError) else "no connection"
    text = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
    return f"{what}: {text}"


def _cause_of(error: BaseException) -> BaseException | None:
    """Return what lies behind an error; requests and urllib3 wrap in more than one way."""
    wrapped = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
    return next((e for e in wrapped if isinstance(e, BaseException) and e is not error), None)
