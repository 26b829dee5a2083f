"""Logs in a parent and in a child forked by native code, for which Python runs no fork hooks.

Usage: fork_natively.py EXPORTER MOMENT ACTION

MOMENT is the state of the parent when it forks, ACTION the first action of the child.
"""

import ctypes
import json
import logging
import os
import sys
import threading

import codex_otel_logging

MAIN = threading.get_ident()
exporter, moment, action = sys.argv[1:]
logger = logging.getLogger("codex_otel.app")


def log(call_id: str) -> None:
    extra = {"duration_ms": 1, "conversation.id": "c", "call_id": call_id}
    logger.info("codex.turn_ttft", extra=extra)


batch = {"schedule_delay_ms": 0 if moment == "idle" else 60_000}
handler = codex_otel_logging.configure({"exporter": json.loads(exporter), "batch": batch})
log("parent")
if moment == "idle":
    assert handler.flush(20)
locked = threading.Event()


def lock() -> None:
    with handler._pipeline.worker.queue.lock:
        locked.set()
        unlock.wait(20)


unlock = threading.Event()
if moment == "locked":
    threading.Thread(target=lock, daemon=True).start()
    assert locked.wait(20)

# If another thread waits for the GIL during the fork, the child hangs whatever it does. So wait
# until no other thread makes progress.
places = None
while places != (places := [f.f_lasti for i, f in sys._current_frames().items() if i != MAIN]):
    unlock.wait(0.1)

child = ctypes.PyDLL(None).fork()  # PyDLL keeps the GIL, without which the child could not run
if child:
    unlock.set()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log("parent again")
    sys.exit(status)
threading.Timer(40, os._exit, (1,)).start()
if action == "log":
    log("child")
    assert handler.stats().accepted == 1
elif action == "flush":
    assert handler.flush(20)
    assert codex_otel_logging.flush(20)
elif action == "stats":
    assert handler.stats() == codex_otel_logging.Stats()
elif action == "close":
    handler.close()
assert handler.flush(20)
os._exit(0)
