"""Exports events in a process with Sentry; prints events, spans and Sentry's headers received.

Usage: sentry_application.py http|grpc [traced]

With `traced`, Sentry records spans. Without it, Sentry still adds headers to requests.
"""

import logging
import sys
import warnings
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.grpc import GRPCIntegration

from codex_otel_logging import Receiver, from_table

warnings.simplefilter("ignore")  # sentry_sdk's own
sentry_sdk.init(
    dsn="http://public@127.0.0.1:9/1",
    traces_sample_rate=1.0 if "traced" in sys.argv else None,
    before_send_transaction=lambda _event, _hint: None,
    integrations=[GRPCIntegration()],
)
logger = logging.getLogger("codex_otel.app")
logger.setLevel(logging.INFO)
logger.propagate = False


def log(number: int) -> None:
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
    assert handler.flush(10)


with Receiver() as collector:
    exporter = {
        "http": {"otlp-http": {"endpoint": collector.http_endpoint}},
        "grpc": {"otlp-grpc": {"endpoint": collector.grpc_endpoint}},
    }[sys.argv[1]]
    handler = from_table({"exporter": exporter})
    logger.addHandler(handler)
    with sentry_sdk.start_transaction(name="checkout") as transaction:
        log(1)
        recorder: Any = transaction._span_recorder
        recorded = recorder.spans if recorder else []
        spans = [span.description for span in recorded if span is not transaction]
    log(2)  # the worker outlives the transaction
    names = {name for request in collector.requests for name in request.headers}
    print(len(collector.events), spans, sorted(names & {"sentry-trace", "baggage"}))
