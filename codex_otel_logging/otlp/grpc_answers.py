"""Converts answers of OTLP/gRPC collectors to outcomes.

Follows https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-response.
"""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from ..config.settings import ExporterConfig
from ..delivery.exporter import DELIVERED, Outcome, Verdict
from .reasons import PERHAPS_CLIENT_CERTIFICATE, delivered, safe_reason, tls_failure

LARGE_REQUEST = 512 * 1024
"""The encoded size in bytes from which a request may be too large for a collector.

RESOURCE_EXHAUSTED without RetryInfo means either that the message is too large or that a quota is
exhausted. gRPC's default limit is 4 MiB, and the smallest limit of an OpenTelemetry Collector is
1 MiB. So for a smaller request the code means a quota, and sending halves would only use more of
it.
"""

_RETRYABLE = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
"""The specification's retryable codes, except RESOURCE_EXHAUSTED, which depends on RetryInfo."""

_TOO_LARGE = re.compile(
    "larger than max|exceeds (the )?maximum (configured message )?size|message length too large"
)
"""How gRPC implementations report a message that exceeds their limit.

With RESOURCE_EXHAUSTED: C++, Python, Node, Go, Java, .NET. With OUT_OF_RANGE: Rust's tonic.
"""

_HTTP_STATUS = re.compile(r"Received http2 header with status: (?P<status>\d+)")
"""How gRPC's C core reports an HTTP error, typically of a proxy."""

_HTTP_VERDICTS: dict[str, Verdict] = {"400": "invalid", "413": "too large"}
"""The HTTP statuses that gRPC maps to a code with another verdict."""

_NOT_RESOLVED = re.compile(
    r"(?:errors resolving|DNS resolution failed for) .*: (?P<why>[^:\]]+)\]?", re.DOTALL
)
_NOT_CONNECTED = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: \S+: (?P<why>.*)", re.DOTALL
)
_OPENSSL = re.compile(r"OPENSSL_internal:(?P<what>\w+)(?:: (?P<why>.*?))?(?:: OK)?$", re.DOTALL)
_OTHER_HOST = "Hostname Verification Check failed"
_CLOSED_BY_PEER = re.compile("Socket closed|Connection reset by peer|Broken pipe")
"""How gRPC's C core reports a failed connection."""


def judge(call: Any, size: int, config: ExporterConfig) -> Outcome:
    """Return the outcome of a completed call; `size` is the encoded size of its request."""
    code = call.code()
    if code is grpc.StatusCode.OK:
        response = call.result()
        if response is None:  # a status without a response; the status is final
            return DELIVERED
        success = response.partial_success
        return delivered(success.rejected_log_records, success.error_message, config)
    details = call.details() or ""
    retry_after_s = _retry_after_s(call)
    verdict = _verdict(code, details, size, has_retry_info=retry_after_s is not None)
    return Outcome(
        verdict,
        safe_reason(f"gRPC {code.name}: {what_failed(details, config)}", config),
        retry_after_s=retry_after_s if verdict == "retry" else None,
        status=code.name,
    )


def _verdict(code: grpc.StatusCode, details: str, size: int, *, has_retry_info: bool) -> Verdict:
    found = _HTTP_STATUS.match(details)
    if found and found["status"] in _HTTP_VERDICTS:
        return _HTTP_VERDICTS[found["status"]]
    too_large = bool(_TOO_LARGE.search(details))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if has_retry_info:
            return "retry"
        # An exhausted quota is a permanent refusal: the specification allows a retry only if the
        # server signals with RetryInfo that it can recover.
        return "too large" if too_large or size >= LARGE_REQUEST else "refused"
    if code is grpc.StatusCode.OUT_OF_RANGE and too_large:
        return "too large"
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return "invalid"
    return "retry" if code in _RETRYABLE else "refused"


def what_failed(details: str, config: ExporterConfig) -> str:
    """Return the details of a failed call; for a failed connection, a short description.

    The description contains no host name or address, because a `${NAME}` may have supplied them.
    """
    if found := _NOT_RESOLVED.match(details):
        return f"host name not resolved: {found['why']}"
    found = _NOT_CONNECTED.match(details)
    if not found:
        return details
    why: str = found["why"]
    if _OTHER_HOST in why:
        return tls_failure("certificate verify failed", "hostname mismatch")
    if found := _OPENSSL.search(why):
        # OpenSSL gives a reason only for a failed verification.
        verifying = found["what"] == "CERTIFICATE_VERIFY_FAILED"
        return tls_failure(found["what"], (verifying and found["why"]) or "")
    is_closed = config.uses_tls and _CLOSED_BY_PEER.search(why)
    return f"{why}{PERHAPS_CLIENT_CERTIFICATE if is_closed else ''}"


def _retry_after_s(call: Any) -> float | None:
    """Return the delay of `RetryInfo` in seconds, or None if the call has none.

    https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-throttling
    """
    try:
        for key, value in call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        # Not `ToTimedelta`, which raises for an invalid duration. Such a RetryInfo
                        # still says that the collector will recover.
                        delay = info.retry_delay
                        return max(float(delay.seconds + delay.nanos / 1e9), 0.0)
    except Exception:  # not valid OTLP details; the code suffices
        pass
    return None
