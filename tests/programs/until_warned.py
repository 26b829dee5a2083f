"""Logs three events, and ends when an outage of the collector has been reported.

Usage: until_warned.py TABLE, an `[otel]` table as JSON
"""

import json
import logging
import sys
import threading

import codex_otel_logging

warned = threading.Event()


class Warned(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        warned.set()


logging.getLogger("codex_otel_logging").addHandler(Warned())
handler = codex_otel_logging.from_table(json.loads(sys.argv[1]))
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
for number in range(3):
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
print(warned.wait(20), handler.flush(0.1), handler.stats().queued)
