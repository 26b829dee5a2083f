"""Imports the names of the receiver; prints which commands and heavy packages are imported."""

import sys

from codex_otel_logging.receiver import (  # noqa: F401
    LOGS_PATH,
    PortError,
    ReceivedEvent,
    ReceivedRequest,
    Receiver,
    RefusedRequest,
    events_of,
)

heavy = ("codex_otel_logging.cli", "opentelemetry", "google", "grpc", "http")
print([name for name in heavy if name in sys.modules])
