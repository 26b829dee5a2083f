"""Logs an event under a manipulated clock, and prints how long `flush` took.

Usage: clocks.py CLOCK MOMENT EXPORTER TIMEOUT_S [sigterm]

CLOCK is set at MOMENT. EXPORTER is the setting as JSON. Prints as JSON the result of `flush`, its
duration in seconds, and the record's time. With `sigterm`, waits for that signal afterwards.
"""

import json
import logging
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

pause = threading.Event()
real = {"clock": time.perf_counter}  # in a dict, because freezegun replaces global names
kind, moment, exporter, timeout_s = sys.argv[1:5]
real_time = time.time
stack = ExitStack()


def set_clock(now: str) -> None:
    if now != moment:
        return
    settings: Any
    if kind.startswith("freezegun"):
        import freezegun

        settings = {
            "freezegun": {},
            "freezegun that ticks": {"tick": True},
            "freezegun that ignores nothing": {"ignore": []},
        }[kind]
        stack.enter_context(freezegun.freeze_time("2024-01-01 12:00:00", **settings))
    elif kind.startswith("time-machine"):
        import time_machine

        stack.enter_context(
            time_machine.travel("2024-01-01T12:00:00Z", tick=kind.endswith("ticks"))
        )
    elif kind == "monotonic stands still":
        time.monotonic = lambda: 1000.0
        time.perf_counter = lambda: 1000.0
    elif kind == "no sleep":
        time.sleep = lambda _seconds: None
    elif kind in ("an hour back and forth", "an hour ahead at each look"):
        from itertools import count, cycle

        offsets = count(0, 3600) if kind.endswith("look") else cycle((-3600, 0, 3600))
        time.time = lambda: real_time() + next(offsets)
        time.time_ns = lambda: int((real_time() + next(offsets)) * 1e9)


set_clock("before import")
import codex_otel_logging  # noqa: E402

set_clock("after import")
handler = codex_otel_logging.from_table(
    {
        "exporter": json.loads(exporter),
        "batch": {"schedule_delay_ms": 10, "shutdown_timeout_ms": 500},
    }
)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False
set_clock("after configuration")
if "sigterm" in sys.argv:
    codex_otel_logging.flush_on_sigterm()
times = []
logger.addFilter(lambda record: times.append(record.created) or True)
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
started = real["clock"]()
flushed = handler.flush(float(timeout_s))
print(json.dumps([flushed, real["clock"]() - started, times[0]]), flush=True)
if "sigterm" in sys.argv:
    while True:  # a single wait without a timeout would miss a signal just before it
        pause.wait(0.05)
