"""Logs an event with each of several settings; prints the results of `flush` and the drops.

Usage: each_collector.py TABLES, a list of `[otel]` tables as JSON
"""

import json
import logging
import sys

import codex_otel_logging

logger = logging.getLogger("codex_otel")
logger.setLevel("INFO")
for table in json.loads(sys.argv[1]):
    handler = codex_otel_logging.from_table(table)
    logger.addHandler(handler)
    logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
    print(handler.flush(20), handler.stats().dropped)
    logger.removeHandler(handler)
    handler.close()
