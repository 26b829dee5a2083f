"""Reasons for which a receiver refuses requests, and advice on what to change at the sender.

Advice may contain `{http}`, the receiver's endpoint for OTLP/HTTP; `{base}`, the same without its
path; and `{grpc}`, the endpoint for OTLP/gRPC.
"""

from __future__ import annotations

from collections.abc import Callable

from .received import RefusedRequest

LOGS_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

OTHER_SIGNALS = {
    "/v1/traces": "traces",
    "/v1/metrics": "metrics",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
}
"""The paths and methods of OTLP's other signals."""

BUSY = "busy; send the request again"
TLS = "TLS on a plaintext port"
USE_HTTP = "set the sender's endpoint to {http}"
USE_BASE = "the sender appends the path itself: set its endpoint to {base}"
USE_GRPC = "set the sender's endpoint to {grpc}"
USE_OTHER_HTTP = "set the sender's protocol to http/protobuf, or its endpoint to {grpc}"
USE_OTHER_GRPC = "set the sender's protocol to grpc, or its endpoint to {http}"
USE_HTTP_PLAINTEXT = "set the sender's endpoint to {http}, without TLS"
USE_GRPC_PLAINTEXT = "set the sender's endpoint to {grpc}, without TLS"
USE_LOGS_METHOD = f"call {LOGS_METHOD}"
USE_POST = "browsers and health checks always get this answer; a sender must use POST"
USE_PROTOBUF = "set the sender's protocol to http/protobuf or http/json"
USE_GZIP = "set the sender's compression to gzip or none"
SEND_FROM_PROGRAM = "send from a program; requests from web pages are refused"
MALFORMED = "the sender, or a proxy in between, sends malformed HTTP"
SEND_LOGS = "send an ExportLogsServiceRequest encoded as its Content-Type says"

Refuse = Callable[[str, str], RefusedRequest]
"""A function that reports a refused request: takes reason and advice, returns the report."""


class RefusalError(Exception):
    """The request must be answered with an error status.

    Args:
        status: the HTTP status of the answer.
        reason: what is wrong with the request.
        advice: what to change at its sender.
        headers: additional headers of the answer.

    """

    def __init__(self, status: int, reason: str, advice: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.advice = advice
        self.headers = headers


def too_large(limit: int) -> tuple[str, str]:
    """Return reason and advice for a request larger than `limit` bytes."""
    return f"the request is larger than {limit:,} bytes", "lower the sender's batch size"


def other_signal(where: str, signal: str) -> tuple[str, str]:
    """Return reason and advice for traces or metrics; `where` is the target of the request."""
    return (
        f"{where}: {signal} are not accepted, only logs",
        f"turn off the sender's {signal} exporter, or point it at a collector for {signal}",
    )
