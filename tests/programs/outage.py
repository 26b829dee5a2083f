"""Logs an event while the collector is down; prints the result of `flush` and the drops.

Usage: outage.py EXPORTER ENDPOINT
"""

import logging
import sys

logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
import codex_otel_logging  # noqa: E402

exporter = {sys.argv[1]: {"endpoint": sys.argv[2]}}
otel = {"exporter": exporter, "batch": {"retry_for_ms": 300}}
handler = codex_otel_logging.from_table(otel)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.propagate = False
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
print(handler.flush(), handler.stats().dropped)
