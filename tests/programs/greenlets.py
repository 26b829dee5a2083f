"""Logs events in a process whose threads become greenlets, and prints how long others were blocked.

Usage: greenlets.py LIBRARY MOMENT EXPORTER TIMEOUT_S

LIBRARY patches at MOMENT. EXPORTER is the setting as JSON. Prints as JSON the longest time in
seconds for which another greenlet was blocked, the result of `flush`, and its duration.
"""

import json
import logging
import sys
import time
import warnings

clock = time.perf_counter  # before it can be replaced
library, moment, exporter = sys.argv[1:4]


def patch(now: str) -> None:
    if now == moment.partition(",")[0]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gevent warns where it patches late
            if library == "gevent":
                from gevent import monkey

                monkey.patch_all()
            else:
                import eventlet

                eventlet.monkey_patch()


if moment.endswith("imported before"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        __import__(library)
patch("before import")
import codex_otel_logging  # noqa: E402

patch("after import")
handler = codex_otel_logging.from_table(
    {
        "exporter": json.loads(exporter),
        "batch": {"schedule_delay_ms": 100, "shutdown_timeout_ms": 1000},
    }
)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.propagate = False


def log(number: int) -> None:
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})


patch("after configuration")
log(0)
patch("after first event")
if moment == "while the worker imports":
    while "opentelemetry.sdk" not in sys.modules:
        time.sleep(0.001)
patch("while the worker imports")

greenlets = __import__(library)
spawn, sleep = greenlets.spawn, greenlets.sleep
longest = 0.0


def tick() -> None:
    global longest
    last = clock()
    while True:
        sleep(0.005)
        longest = max(longest, clock() - last)
        last = clock()


spawn(tick)
sleep(0)
for number in range(1, 10):
    log(number)
    sleep(0.05)
started = clock()
flushed = codex_otel_logging.flush(float(sys.argv[4]))
took = clock() - started
sleep(0.02)
print(json.dumps([longest, flushed, took]), flush=True)
