"""A local OTLP log receiver: HTTP (protobuf and JSON, gzip or not) and gRPC in one object.

The demo, the command `listen` and tests, an application's own included, use it as a collector:

    with Receiver() as receiver:
        ...  # log to receiver.http_endpoint or receiver.grpc_endpoint
        events = receiver.wait_for(3, timeout=5)
    assert [event.name for event in events] == [...]
    assert events[0].attributes["prompt"] == "[REDACTED]"

It listens on loopback and keeps everything in memory, unless `on_request` takes it. It is not a
collector for production. Each HTTP connection has a thread; gRPC has a pool of four. Nothing of
OpenTelemetry is imported before a `Receiver` is built. Modules of the commands and tests may
import this package; it imports none of them.
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

Receiver.__module__ = "codex_otel_logging"
for _public in (PortError, ReceivedEvent, ReceivedRequest, RefusedRequest):
    _public.__module__ = __name__
