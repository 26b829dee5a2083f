"""A local receiver of OTLP logs: HTTP (protobuf or JSON, with or without gzip) and gRPC.

The demo, the command `listen` and tests use it as a collector. So can an application's own tests:

    with Receiver() as receiver:
        ...  # log to receiver.http_endpoint or receiver.grpc_endpoint
        events = receiver.wait_for(3, timeout=5)
    assert [event.name for event in events] == [...]
    assert events[0].attributes["prompt"] == "[REDACTED]"

It listens on loopback and keeps all requests in memory, unless `on_request` is given. It is not a
production collector.

Each HTTP connection has a thread; gRPC has a pool of four. OpenTelemetry is imported when a
`Receiver` is built. This package may be imported by `cli` and imports nothing of it.
"""

from ..config.endpoints import LOGS_PATH
from .connections import PortError
from .received import ReceivedEvent, ReceivedRequest, RefusedRequest, events_of
from .receiver import Receiver

__all__ = [
    "LOGS_PATH",
    "PortError",
    "ReceivedEvent",
    "ReceivedRequest",
    "Receiver",
    "RefusedRequest",
    "events_of",
]

# Tracebacks and pickles show the names that applications import, wherever the classes are defined.
Receiver.__module__ = "codex_otel_logging"
for _public in (PortError, ReceivedEvent, ReceivedRequest, RefusedRequest):
    _public.__module__ = __name__
