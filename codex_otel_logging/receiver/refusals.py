"""Why a request is refused, and what to change at its sender.

Advice may hold `{http}`, `{base}` and `{grpc}`, which stand for the receiver's endpoint for
OTLP/HTTP, the same without its path, and the endpoint for OTLP/gRPC.
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
"""What OTLP sends to other paths and methods than those for logs."""

BUSY = "not now; send it again"
TLS = "TLS at a plaintext port"
USE_HTTP = "set the sender's endpoint to {http}"
USE_BASE = "the sender appends the path itself: set its endpoint to {base}"
USE_GRPC = "set the sender's endpoint to {grpc}"
USE_OTHER_HTTP = "set the sender's protocol to http/protobuf, or its endpoint to {grpc}"
USE_OTHER_GRPC = "set the sender's protocol to grpc, or its endpoint to {http}"
USE_HTTP_PLAINTEXT = "set the sender's endpoint to {http}, without TLS"
USE_GRPC_PLAINTEXT = "set the sender's endpoint to {grpc}, without TLS"
USE_LOGS_METHOD = f"call {LOGS_METHOD}"
USE_POST = "browsers and health checks get no other answer; a sender must use POST"
USE_PROTOBUF = "set the sender's protocol to http/protobuf or http/json"
USE_GZIP = "set the sender's compression to gzip or none"
SEND_FROM_PROGRAM = "send from a program; web pages are not received"
MALFORMED = "the sender, or a proxy in between, writes malformed HTTP"
SEND_LOGS = "send an ExportLogsServiceRequest in the encoding that its Content-Type names"

Refuse = Callable[[str, str], RefusedRequest]
"""Reports a refused request: takes the reason and the advice, returns what was reported."""


class RefusalError(Exception):
    """A request that is answered with an error status.

    Args:
        status: HTTP status of the answer.
        reason: what is wrong with the request.
        advice: what to change at its sender.
        headers: further headers of the answer.

    """

    def __init__(self, status: int, reason: str, advice: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.advice = advice
        self.headers = headers


def too_large(limit: int) -> tuple[str, str]:
    """Return reason and advice for a request of more than `limit` bytes."""
    return f"the request has more than {limit:,} bytes", "lower the sender's batch size"


def other_signal(what: str, signal: str) -> tuple[str, str]:
    """Return reason and advice for traces or metrics; `what` is where they were sent."""
    return (
        f"{what}: {signal} are not received, only logs",
        f"turn off the sender's exporter of {signal}, or point it at a collector for them",
    )
