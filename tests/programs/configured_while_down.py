"""Configures logging twice while the collector is down; the second handler recovers the events.

Usage: configured_while_down.py TABLE FILE

TABLE is an `[otel]` table as JSON. Prints a line when the first handler has ended, and goes on when
FILE exists. Prints the `Stats` of both handlers.
"""

import json
import logging
import logging.config
import sys
import time
from pathlib import Path

table, file = sys.argv[1:]
config = {
    "version": 1,
    "handlers": {"otel": {"()": "codex_otel_logging.from_table", "otel": json.loads(table)}},
    "loggers": {"codex_otel": {"handlers": ["otel"], "level": "INFO", "propagate": False}},
}
logger = logging.getLogger("codex_otel")


def log(number):
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})


logging.config.dictConfig(config)
(first,) = logger.handlers
for number in range(3):
    log(number)
worker = first._pipeline.worker
logging.config.dictConfig(config)
(second,) = logger.handlers
while worker.thread is not None:
    time.sleep(0.001)
print("ended", flush=True)
while not Path(file).exists():
    time.sleep(0.001)
log(3)
assert second.flush(20)
while second.stats().recovered < 3:
    time.sleep(0.001)
print(*map(json.dumps, [first.stats()._asdict(), second.stats()._asdict()]), sep="\n")
