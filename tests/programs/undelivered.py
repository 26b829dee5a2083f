"""Logs 200,000 events of 2 KiB that no collector accepts; prints the growth of memory in MiB.

Usage: undelivered.py EXPORTER COLLECTOR TEXT

COLLECTOR is `absent` or `silent`. Each event's text begins with TEXT: one wide character makes
every character of a string take more bytes in Python.
"""

import logging
import socket
import sys
from pathlib import Path
from typing import Any

import codex_otel_logging

name, collector, text = sys.argv[1:]
logger = logging.getLogger("codex_otel")
logger.setLevel("INFO")
logging.getLogger("codex_otel_logging").setLevel("CRITICAL")


def attach(timeout_ms: int = 10_000, **batch: int) -> codex_otel_logging.CodexOtelHandler:
    otel: dict[str, Any] = {
        "exporter": {name: {"endpoint": endpoint, "timeout_ms": timeout_ms}},
        "batch": {"shutdown_timeout_ms": 0, **batch},
    }
    handler = codex_otel_logging.from_table(otel)
    logger.addHandler(handler)
    return handler


def peak_mib() -> float:
    # Not resource.getrusage(): a child starts with its parent's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


with socket.socket() as reserved:
    # Bound in any case: another program could get the port of an absent collector, and listen.
    reserved.bind(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}/"
    if collector == "silent":
        reserved.listen()

    # First a handler that is not measured: it pays for imports and for what is allocated once.
    first = attach(timeout_ms=500, retry_for_ms=0)
    logger.info("codex.turn_ttft")
    assert first.flush(40)
    logger.removeHandler(first)

    handler = attach()
    before = peak_mib()
    for number in range(200_000):
        logger.info("codex.turn_ttft", extra={"text": f"{text}{number:2048}"})
    grown = peak_mib() - before
    stats = handler.stats()
print(grown, stats.accepted, stats.dropped + stats.queued, stats.queued)
