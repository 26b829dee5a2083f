"""Logs events to a spool that the operating system does not let it write to, until it does.

Usage: spool_in_trouble.py (file-size | not-writable) DIRECTORY

Exits with a message if an event is lost, miscounted, or reported more than once.
"""

import logging
import os
import resource
import sys
from pathlib import Path

from codex_otel_logging import CodexOtelHandler, Receiver
from codex_otel_logging.delivery.spool import journal, leftovers  # noqa: F401 - while allowed to

NOBODY = 65534


def expect(found, expected, what):
    if found != expected:
        sys.exit(f"{what}: {found}, expected {expected}; {reports}")


def log(numbers):
    for number in numbers:
        extra = {"duration_ms": number, "conversation.id": "c", "model": "m"}
        logging.getLogger("codex_otel").info("codex.turn_ttft", extra=extra)


class Reports(logging.Handler):
    def emit(self, record):
        reports.append(record.getMessage())


reports = []
trouble, directory = sys.argv[1], Path(sys.argv[2])
logging.getLogger("codex_otel").setLevel(logging.INFO)
with Receiver() as receiver:  # imports what an unprivileged user perhaps must not read
    handler = CodexOtelHandler({"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}})
    logging.getLogger("codex_otel").addHandler(handler)
    log([0])
    expect(handler.flush(20), True, "flush without a spool")
    logging.getLogger("codex_otel").removeHandler(handler)
    handler.close()
directory.mkdir(mode=0o700)
if trouble == "not-writable":
    os.chown(directory, NOBODY, NOBODY)
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    directory.chmod(0o500)
else:
    # CPython does not notice short writes of compiled modules, and would leave broken files.
    sys.dont_write_bytecode = True
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # less than a header

logging.getLogger("codex_otel_logging").addHandler(Reports())
logging.getLogger("codex_otel_logging").propagate = False
journal.RETRY_S = 0.0
with Receiver() as receiver:
    handler = CodexOtelHandler(
        {
            "exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}},
            "batch": {"schedule_delay_ms": 60_000},
            "spool": {"path": str(directory)},
        }
    )
    logging.getLogger("codex_otel").addHandler(handler)
    log(range(3))
    expect(handler.stats()[4:7], (3, 0, 0), "queued, ignored and spooled events in trouble")
    expect(handler.flush(20), True, "flush in trouble")
    log(range(3, 5))
    if trouble == "not-writable":
        directory.chmod(0o700)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    expect(handler.flush(20), True, "flush afterwards")
    log(range(5, 7))
    expect(handler.stats()[4:7], (2, 0, 2), "queued, ignored and spooled events afterwards")
    expect(handler.flush(20), True, "last flush")
    received = sorted(event.attributes["duration_ms"] for event in receiver.events)
    expect(received, list(range(7)), "received")
    expect([*directory.iterdir()], [], "files")
    spool = [line for line in reports if line.startswith("spool")]
    expect(len(spool), 2, "reports")
    expect("cannot write events" in spool[0], True, "first report")
    expect("written to disk again" in spool[1], True, "second report")
