"""Forks workers that log into a spool and die in different ways; prints how many events they log.

Usage: prefork.py TABLE COUNT

TABLE is an `[otel]` table as JSON. Each worker, and the parent after each fork, logs COUNT events
in a conversation of its own.
"""

import faulthandler
import json
import logging
import os
import resource
import signal
import sys
import warnings

import codex_otel_logging

warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
table, count = json.loads(sys.argv[1]), int(sys.argv[2])
logger = logging.getLogger("codex_otel")
logger.addHandler(codex_otel_logging.from_table(table))
logger.setLevel("INFO")
logger.propagate = False

DEATHS = {
    "exit": lambda: sys.exit(0),
    "exit without hooks": lambda: os._exit(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "aborted": os.abort,
    "segmentation fault": faulthandler._sigsegv,
}


def log(conversation):
    for number in range(count):
        extra = {"duration_ms": number, "conversation.id": conversation}
        logger.info("codex.turn_ttft", extra=extra)


log("parent")
for name, die in DEATHS.items():
    child = os.fork()
    if not child:
        log(name)
        die()
    log(f"parent of {name}")
    os.waitpid(child, 0)
print(json.dumps(["parent", *DEATHS, *(f"parent of {name}" for name in DEATHS)]), flush=True)
