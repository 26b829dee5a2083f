"""Logs events to a bounded spool while the collector is down, and dies.

Usage: bounded_writer.py OTEL COUNT

OTEL is the `[otel]` table as JSON. Prints the counts as JSON, then waits for a line and dies.
"""

import json
import logging
import os
import sys

import codex_otel_logging
from codex_otel_logging.delivery.spool import journal

journal.FIRST_LIMIT = 1 << 14

handler = codex_otel_logging.from_table(json.loads(sys.argv[1]))
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False
for number in range(int(sys.argv[2])):
    extra = {"duration_ms": number, "conversation.id": str(os.getpid())}
    logger.info("codex.turn_ttft", extra=extra)
print(json.dumps(handler.stats()._asdict()), flush=True)
sys.stdin.readline()
os._exit(0)
