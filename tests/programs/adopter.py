"""Logs an event and exports what other processes have left in the spool, until nothing is left.

Usage: adopter.py TABLE NAME FILE

TABLE is an `[otel]` table as JSON, NAME the conversation of the event. Prints a line when it has
started, and goes on when FILE exists.
"""

import json
import logging
import sys
import time
from pathlib import Path

import codex_otel_logging

table, name, file = sys.argv[1:]
otel = json.loads(table)
handler = codex_otel_logging.from_table(otel)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False
print("started", flush=True)
while not Path(file).exists():
    time.sleep(0.001)
logger.info("codex.turn_ttft", extra={"duration_ms": 0, "conversation.id": name})
assert handler.flush(20)
while list(Path(otel["spool"]["path"]).glob("*.spool")):
    time.sleep(0.005)
print(handler.stats().recovered, flush=True)
