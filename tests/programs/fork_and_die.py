"""Forks a child that never logs, and dies; prints the child's process id.

Usage: fork_and_die.py TABLE HOLDS

TABLE is an `[otel]` table as JSON. HOLDS is what the parent has open when it forks: its `own
segments`, `a leftover` that it exports to a collector which does not answer (with `all
descriptors`, no other file can be opened), `a new segment` that another thread creates, or `a new
descriptor` that the system has just given to that thread.
"""

import json
import logging
import os
import resource
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


def open_and_wait(path, *arguments):
    descriptor = open_file(path, *arguments)
    if threading.current_thread() is thread:
        creating.set()
        forked.wait()
    return descriptor


creating, forked = threading.Event(), threading.Event()
rename, open_file = disk.rename, os.open
thread = threading.Thread(target=log)
if holds in ("a new segment", "a new descriptor"):
    if holds == "a new segment":
        disk.rename = rename_later
    else:
        os.open = open_and_wait
    thread.start()
    creating.wait()
else:
    log()
worker = handler._pipeline.worker
if holds in ("a leftover", "all descriptors"):

    def hang(*arguments):
        global exporting
        exporting = True
        time.sleep(600)

    exporting = False
    worker._leftovers._export = hang
    while not exporting:
        worker.request_flush()
        time.sleep(0.01)
files = []
if holds == "all descriptors":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
child = os.fork()
if not child:
    os.closerange(1, 3)  # whoever reads the output waits for its end
    while True:
        signal.pause()
forked.set()
if thread.ident is not None:
    thread.join()
print("child", child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
