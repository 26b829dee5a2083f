"""Forks a child that never logs, and dies; prints the child's process id.

Usage: fork_and_die.py TABLE HOLDS

TABLE is an `[otel]` table as JSON. HOLDS is what the parent has open when it forks: its `own
segments`, `a leftover` that it exports to a collector which does not answer, or `a new segment`
that another thread creates.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
import warnings

import codex_otel_logging
from codex_otel_logging.delivery.spool import disk

warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
table, holds = sys.argv[1:]
handler = codex_otel_logging.from_table(json.loads(table))
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False


def log():
    logger.info("codex.turn_ttft", extra={"duration_ms": 0, "conversation.id": "parent"})


def rename_later(path, to):
    creating.set()
    forked.wait()
    rename(path, to)


creating, forked, rename = threading.Event(), threading.Event(), disk.rename
thread = threading.Thread(target=log)
if holds == "a new segment":
    disk.rename = rename_later
    thread.start()
    creating.wait()
else:
    log()
worker = handler._pipeline.worker
if holds == "a leftover":

    def hang(*arguments):
        global exporting
        exporting = True
        time.sleep(600)

    exporting = False
    worker._leftovers._export = hang
    while not exporting:
        worker.request_flush()
        time.sleep(0.01)
child = os.fork()
if not child:
    os.closerange(1, 3)  # whoever reads the output waits for its end
    while True:
        signal.pause()
forked.set()
if holds == "a new segment":
    thread.join()
print("child", child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
