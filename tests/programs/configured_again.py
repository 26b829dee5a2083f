"""Configures logging twenty times and logs an event each time.

Usage: configured_again.py LOGGING, a `dictConfig` dictionary as JSON

Prints how many workers of replaced handlers are alive, and whether at most one socket is open.
"""

import json
import logging
import logging.config
import os
import stat
import sys
import threading

for number in range(20):
    logging.config.dictConfig(json.loads(sys.argv[1]))
    logging.getLogger("codex_otel").info("codex.turn_ttft", extra={"duration_ms": number})


def is_socket(file):
    try:
        return stat.S_ISSOCK(os.fstat(file).st_mode)
    except OSError:
        return False


workers = [t for t in threading.enumerate() if t.name == "codex_otel_logging"][:-1]
for worker in workers:
    worker.join(20)
print([w.is_alive() for w in workers].count(True), sum(map(is_socket, range(256))) <= 1)
