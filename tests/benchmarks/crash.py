"""A program for `spool.py`: `python crash.py WHAT ENDPOINT DIRECTORY COUNT`.

WHAT is one of these:

    exit     log COUNT events, print the monotonic time, and end
    die      log COUNT events, and die before any is exported
    recover  log one event, and print the seconds until COUNT others are recovered
"""

from __future__ import annotations

import os
import sys
import time

import codex_otel_logging
from application import CONVERSATION, WithConversation

_NEVER_MS = 600_000


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


def main(what: str, endpoint: str, directory: str, count: int) -> None:
    """Do what the command line asks for."""
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
