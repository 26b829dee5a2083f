"""Builds a handler and logs an event, with a worker that never starts.

Prints which heavy packages were imported, and whether at most 85 modules were.
"""

import logging
import sys

before = set(sys.modules)
import codex_otel_logging  # noqa: E402

otel = {"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9/"}}}
handler = codex_otel_logging.from_table(otel)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
handler._pipeline.worker.start = lambda: True
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
heavy = [
    "opentelemetry",
    "google",
    "requests",
    "urllib3",
    "grpc",
    "ssl",
    "socket",
    "email",
    "asyncio",
]
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(names & {*heavy}), len(set(sys.modules) - before) <= 85)
