"""Events over OTLP/gRPC, through the official exporter.

The official exporter knows how to call. Its `export` says only whether that went well; so an
interceptor on its channel keeps the answer of each call for `GrpcExporter` to judge. The official
encoder takes longer than all the rest; so the exporter gets nothing to encode, and the interceptor
sends the request that `otlp_requests` filled. The exporter's own retries are off, because ours know
what is queued behind. Answers are judged as the specification says:
https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-response
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

from .exporters import (
    PERHAPS_CLIENT_CERTIFICATE,
    Origin,
    Outcome,
    Verdict,
    delivered,
    safe_reason,
    tls_failure,
)
from .forks import no_fork
from .otlp_requests import OtlpRequests
from .records import Event
from .settings import ExporterConfig, TlsConfig

_RETRYABLE = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)

_TONIC_TOO_LARGE = "message length too large"
"""What servers built with Rust's tonic say of a message beyond their limit, as OUT_OF_RANGE."""

_NOT_RESOLVED = re.compile(
    r"(?:errors resolving|DNS resolution failed for) .*: (?P<why>[^:\]]+)\]?", re.DOTALL
)
_NOT_CONNECTED = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: \S+: (?P<why>.*)", re.DOTALL
)
_OPENSSL = re.compile(r"OPENSSL_internal:(?P<what>\w+)(?:: (?P<why>.*?))?(?:: OK)?$", re.DOTALL)
_OTHER_HOST = "Hostname Verification Check failed"
_HUNG_UP = re.compile("Socket closed|Connection reset by peer|Broken pipe")
"""What gRPC's C core says when there is no connection."""

_NO_OWN_RETRIES = (grpc.StatusCode.OK,)
"""The codes on which the exporter retries by itself: one that no failure has, as none at all
would mean its default."""

_SPARE_DESCRIPTORS = 16
"""How many files gRPC may have to open for a channel, with some room."""


class GrpcExporter:
    """Sends events to an OTLP/gRPC collector; see `exporters.Exporter`."""

    def __init__(self, config: ExporterConfig, origin: Origin) -> None:
        self._config = config
        self._requests = OtlpRequests(origin)
        self._answers = _Answers(config)
        self._exporter = _InterceptedExporter(self._answers, **_arguments(config))

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Send the events in one call and judge the answer."""
        self._answers.request = self._requests.request(events)
        self._answers.last = None
        self._answers.timeout_s = timeout_s
        try:
            with no_fork(give_up=self._exporter.hang_up):
                self._exporter.export(())
        except OSError:
            raise
        except Exception:
            if self._answers.last is None:
                raise
            # The exporter fell over the answer, for example over details it could not read.
        if self._exporter.has_hung_up:
            raise InterruptedError(errno.EINTR, "interrupted by a fork")
        if self._answers.last is None:
            raise ValueError("the exporter made no call")
        return self._judge(self._answers.last)

    def shutdown(self) -> None:
        """Close the channel."""
        self._exporter.shutdown()

    def _judge(self, call: Any) -> Outcome:
        code = call.code()
        if code is grpc.StatusCode.OK:
            success = call.result().partial_success
            return delivered(success.rejected_log_records, success.error_message, self._config)
        words = _what_failed(call.details() or "", self._config)
        reason = safe_reason(f"gRPC {code.name}: {words}", self._config)
        retry_after_s = _retry_after_s(call)
        verdict: Verdict = "refused"
        if code is grpc.StatusCode.OUT_OF_RANGE and _TONIC_TOO_LARGE in reason:
            verdict = "too large"
        elif code in _RETRYABLE:
            verdict = "retry"
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # With a time to wait the collector is busy; without one the message is too large.
            verdict = "too large" if retry_after_s is None else "retry"
        if verdict != "retry":
            retry_after_s = None
        return Outcome(verdict, reason, retry_after_s=retry_after_s, status=code.name)


def _arguments(config: ExporterConfig) -> dict[str, Any]:
    if config.endpoint is None:
        # The exporter refuses the value "none", which the specification has.
        return {} if _environment_says_gzip() else {"compression": grpc.Compression.NoCompression}
    plaintext = config.endpoint.lower().startswith("http://")
    return {
        "endpoint": config.endpoint,
        "insecure": plaintext,
        "credentials": None if plaintext else _credentials(config.tls or TlsConfig()),
        "timeout": config.timeout_ms / 1000,
        "compression": (
            grpc.Compression.Gzip
            if config.compression == "gzip"
            else grpc.Compression.NoCompression
        ),
    }


def _environment_says_gzip() -> bool:
    for variable in ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"):
        if value := os.environ.get(variable, "").strip().lower():
            return value == "gzip"
    return False


def _credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    files = (tls.ca_certificate, tls.client_private_key, tls.client_certificate)
    return grpc.ssl_channel_credentials(*(Path(f).read_bytes() if f else None for f in files))


class _InterceptedExporter(OTLPLogExporter):
    """The official exporter, with our interceptor on every channel it makes.

    Its constructor takes no interceptor, and it makes its channel anew after an outage; the method
    that does so is private, and the only private name used here.
    """

    def __init__(self, answers: _Answers, **arguments: Any) -> None:
        self._answers = answers
        self.has_hung_up = False
        super().__init__(retryable_error_codes=_NO_OWN_RETRIES, **arguments)

    def hang_up(self) -> None:
        """End the call that another thread is making; no other can be made any more."""
        self.has_hung_up = True
        self.shutdown()

    def _initialize_channel_and_stub(self) -> None:
        _spare_descriptors()
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        channel = grpc.intercept_channel(self._channel, self._answers)
        self._client = self._stub(channel)


def _spare_descriptors() -> None:
    """Raise where too few files can be opened: gRPC's C core would end the whole process.

    Raises:
        OSError: the process has as many files open as it may.

    """
    with ExitStack() as opened:
        for _ in range(_SPARE_DESCRIPTORS):
            opened.enter_context(open(os.devnull))  # noqa: PTH123


class _Answers(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Sends `request` with the headers of the settings, and keeps the answer of the last call.

    With an endpoint in the settings, the headers of `OTEL_EXPORTER_OTLP_HEADERS` are not sent.
    """

    def __init__(self, config: ExporterConfig) -> None:
        self._metadata = None if config.endpoint is None else tuple(config.headers.items())
        self.request: Any = None
        self.last: Any = None
        self.timeout_s: float | None = None

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Make the call, with our request, and keep its answer."""
        details = _CallDetails(client_call_details)
        if self._metadata is not None:
            details.metadata = self._metadata
        if self.timeout_s is not None:
            details.timeout = min(details.timeout, self.timeout_s)
        self.last = continuation(details, self.request)
        self.request = None
        return self.last


class _CallDetails(grpc.ClientCallDetails):  # type: ignore[misc]
    """The details of a call, to be changed."""

    def __init__(self, details: grpc.ClientCallDetails) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = details.metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


def _what_failed(details: str, config: ExporterConfig) -> str:
    """Return what gRPC says of a failed call; where it could not be made, in a few words why.

    Without the collector's name and addresses, which a variable may hold.
    """
    if found := _NOT_RESOLVED.match(details):
        return f"no address: {found['why']}"
    found = _NOT_CONNECTED.match(details)
    if not found:
        return details
    why: str = found["why"]
    if _OTHER_HOST in why:
        return tls_failure("certificate verify failed", "hostname mismatch")
    if found := _OPENSSL.search(why):
        verifying = found["what"] == "CERTIFICATE_VERIFY_FAILED"
        return tls_failure(found["what"], (verifying and found["why"]) or "")
    over_tls = config.endpoint is not None and not config.endpoint.lower().startswith("http://")
    return why + (PERHAPS_CLIENT_CERTIFICATE if over_tls and _HUNG_UP.search(why) else "")


def _retry_after_s(call: Any) -> float | None:
    """Return the seconds of the `RetryInfo` in a failed call's status, if it has one."""
    try:
        for key, value in call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return max(float(info.retry_delay.ToTimedelta().total_seconds()), 0.0)
    except Exception:  # details in no form the specification has; the code says enough
        pass
    return None
