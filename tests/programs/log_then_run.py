"""Logs events, then runs code that uses `handler` and `logger`.

Usage: log_then_run.py TABLE COUNT CODE

TABLE is an `[otel]` table as JSON.
"""

import json
import logging
import sys

import codex_otel_logging

handler = codex_otel_logging.from_table(json.loads(sys.argv[1]))
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
with codex_otel_logging.Conversation("c", "m").bind():
    for number in range(int(sys.argv[2])):
        logger.info("codex.turn_ttft", extra={"duration_ms": number})
exec(sys.argv[3])
