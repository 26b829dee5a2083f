"""Logs in a parent and in its children, and dies without exporting; prints what was logged.

Usage: fork_into_spool.py TABLE FORK MOMENT

TABLE is an `[otel]` table as JSON. FORK is `python`, or `native`: Python then runs no fork hooks.
MOMENT is when the parent forks: `between` two events; `before` or `after` an event is appended to
its file; or `busy`, while other threads log. The output is a JSON object with the number of events
of each conversation.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time

import codex_otel_logging
from codex_otel_logging.delivery.spool import disk

table, fork, moment = sys.argv[1:]
handler = codex_otel_logging.from_table(json.loads(table))
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False

CHILDREN = 15 if moment == "busy" else 1
do_fork = os.fork if fork == "python" else ctypes.PyDLL(None).fork
append = disk.append
logged: dict[str, int] = {}
children: list[int] = []


def log(conversation: str) -> None:
    number = logged.get(conversation, 0) + 1
    extra = {"duration_ms": number, "conversation.id": conversation}
    logger.info("codex.turn_ttft", extra=extra)
    logged[conversation] = number


def split() -> None:
    """Fork; the child logs and dies."""
    name = f"child{len(children)}"
    if fork == "native":
        wait_for_other_threads()
    child = do_fork()
    if child:
        children.append(child)
        return
    # A child that hangs is ended by the signal, and the parent's exit status says so.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(20)
    if moment in ("before", "after"):
        threading.current_thread().name = name
        return
    die_in_child(name)


def wait_for_other_threads() -> None:
    """Wait until no other thread makes progress.

    If one waits for the GIL during the fork, the child hangs whatever it does.
    """
    me = threading.get_ident()
    places = None
    while places != (
        places := [f.f_lasti for each, f in sys._current_frames().items() if each != me]
    ):
        time.sleep(0.1)


def die_in_child(name: str) -> None:
    for _ in range(3):
        log(name)
    os._exit(0)


def append_and_split(descriptor: int, data: bytes) -> int:
    if b'"number":5,' not in data or children or os.getpid() != PARENT:
        return append(descriptor, data)
    if moment == "before":
        split()
    written = append(descriptor, data)
    if moment == "after":
        split()
    return written


PARENT = os.getpid()
if moment in ("before", "after"):
    disk.append = append_and_split
stop = threading.Event()


def log_until_stopped(name: str) -> None:
    while not stop.is_set():
        log(name)


threads = [
    threading.Thread(target=log_until_stopped, args=(f"thread{number}",))
    for number in range(3 if moment == "busy" else 0)
]
for thread in threads:
    thread.start()
for number in range(10):
    log("parent")
    if os.getpid() != PARENT:
        die_in_child(threading.current_thread().name)
    if moment == "between" and number == 4:
        split()
if moment == "busy":
    while len(children) < CHILDREN:
        split()
stop.set()
for thread in threads:
    thread.join()
assert len(children) == CHILDREN
for index, child in enumerate(children):
    assert os.waitpid(child, 0)[1] == 0, "a child hangs"
    logged[f"child{index}"] = 3
print(json.dumps(logged), flush=True)
os._exit(0)
