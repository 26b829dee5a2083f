"""Logs an event through each of two handlers, one of which cannot import its exporter.

Usage: one_exporter_missing.py ENDPOINT
"""

import logging
import sys

from codex_otel_logging import from_table

sys.modules["codex_otel_logging.otlp.grpc_exporter"] = None
batch = {"shutdown_timeout_ms": 50_000}
exporters = {"otlp-grpc": "http://127.0.0.1:9", "otlp-http": sys.argv[1]}
for number, (name, endpoint) in enumerate(exporters.items()):
    logger = logging.getLogger(f"codex_otel.{number}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(from_table({"exporter": {name: {"endpoint": endpoint}}, "batch": batch}))
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
