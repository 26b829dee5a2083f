"""A program for `spool.py`: `python crash.py WHAT ENDPOINT DIRECTORY COUNT`.

WHAT is one of these:

    exit     log COUNT events, print the monotonic time, and end
    die      log COUNT events, and die before any is exported
    recover  log one event, and print the seconds until COUNT others are recovered
    outage   log COUNT events of 500 B on disk while the collector is down; print how many are
             lost, by how many bytes the memory grew, and the seconds until all are exported.
             ENDPOINT is not used
"""

from __future__ import annotations

import os
import resource
import sys
import time

import codex_otel_logging
from application import CALL_ID, CONVERSATION, WithConversation

_NEVER_MS = 600_000
_WARM_UP = 5
_EXPORT_S = 600.0


class Spooled(WithConversation):
    """The package with a spool in a given directory."""

    def __init__(self, endpoint: str, directory: str, batch: dict[str, int]) -> None:
        self._settings = {"spool": {"path": directory}, "batch": batch}
        super().__init__(endpoint)

    def configure(self, endpoint: str) -> None:
        exporter = {"otlp-http": {"endpoint": endpoint}}
        table = {"exporter": exporter, **self._settings}
        self.handler = codex_otel_logging.from_table(table, app_version=CONVERSATION["app_version"])
        self.logger.addHandler(self.handler)


def outage(directory: str, count: int) -> None:
    """Log events while the collector is down, then export them."""
    from rounds import Sink

    with Sink.started("http") as sink:
        port = sink.port
        subject = Spooled(sink.endpoint, directory, {})
        for _ in range(_WARM_UP):  # with full batches, so that their memory is in use before
            subject.log(2048)
            subject.handler.flush()
    before = _peak_bytes()
    for _ in range(count):
        subject.logger.info("codex.turn_ttft", extra={"duration_ms": 153, "call_id": CALL_ID})
    with Sink.started("http", port) as sink:
        began = time.perf_counter()
        subject.handler.flush(timeout=_EXPORT_S)
        took_s = time.perf_counter() - began
        events = sink.take()["events"]
    print(count - events, _peak_bytes() - before, took_s, flush=True)


def _peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(what: str, endpoint: str, directory: str, count: int) -> None:
    """Do what the command line asks for."""
    if what == "outage":
        outage(directory, count)
        return
    batch = {}
    if what == "die":
        batch = {"schedule_delay_ms": _NEVER_MS, "max_batch_size": count, "max_queue_size": count}
    subject = Spooled(endpoint, directory, batch)
    if what != "recover":
        subject.log(count)
    if what == "exit":
        print(time.monotonic(), flush=True)
    elif what == "die":
        os._exit(0)
    else:
        began = time.perf_counter()
        subject.log(1)
        subject.handler.flush()
        while subject.handler.stats().recovered < count:
            time.sleep(0.01)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
