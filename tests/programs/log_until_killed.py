"""Logs numbered events until it is killed, and counts those whose logging call has returned.

Usage: log_until_killed.py TABLE COUNTS LIFE THREADS RATE

TABLE is an `[otel]` table as JSON. COUNTS is a file with eight bytes for each of the THREADS; each
thread stores there how many of its logging calls have returned. The kernel keeps a mapped file when
the process is killed. An event has the number of its call in `duration_ms`, and LIFE and thread in
`conversation.id`. RATE is the number of events per second of all threads; 0 is as many as possible.
It is 200 until the eight bytes behind the counts are not zero.
"""

import json
import logging
import mmap
import sys
import threading
import time
from pathlib import Path

import codex_otel_logging

table, path, life = sys.argv[1:4]
threads, rate = map(int, sys.argv[4:])

logger = logging.getLogger("codex_otel.kills")
logger.addHandler(codex_otel_logging.from_table(json.loads(table)))
logger.setLevel("INFO")
logger.propagate = False

with Path(path).open("r+b") as file:
    counts = memoryview(mmap.mmap(file.fileno(), 8 * (threads + 1))).cast("Q")


def log_events(thread: int) -> None:
    extra = {"conversation.id": f"{life}.{thread}"}
    number = 0
    while True:
        number += 1
        logger.info("codex.turn_ttft", extra={**extra, "duration_ms": number})
        counts[thread] = number
        if not counts[threads]:
            time.sleep(threads / 200)
        elif rate:
            time.sleep(threads / rate)


for thread in range(1, threads):
    threading.Thread(target=log_events, args=(thread,), daemon=True).start()
log_events(0)
