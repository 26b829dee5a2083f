"""Logs cold events while the collector is down, and ends.

Usage: cold_events.py END OTEL COUNT

OTEL is the `[otel]` table as JSON. END is `exit`, `kill` or `fork`: then a child logs as many
events of its own. Each process prints its counts as JSON.
"""

import json
import logging
import os
import signal
import sys

import codex_otel_logging
from codex_otel_logging.delivery import queue
from codex_otel_logging.delivery.spool import journal

queue.WARM_BYTES = 1 << 15
journal.FIRST_LIMIT = 1 << 14

end, otel, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
handler = codex_otel_logging.from_table(otel)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False


def log(conversation):
    for number in range(count):
        extra = {"duration_ms": number, "conversation.id": conversation}
        logger.info("codex.turn_ttft", extra=extra)


log("parent")
child = os.fork() if end == "fork" else None
if child == 0:
    log("child")
elif child is not None:
    os.waitpid(child, 0)
print(json.dumps(handler.stats()._asdict()), flush=True)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
