"""Logs to a spool and exports while a signal handler raises in the middle of each call.

Usage: interrupted_spool.py CALLS DIRECTORY

Exits with a message if the journal and the queue disagree afterwards.
"""

import logging
import random
import signal
import sys
from pathlib import Path

from codex_otel_logging import from_table
from codex_otel_logging.delivery.exporter import DELIVERED
from codex_otel_logging.delivery.spool.records import RecordDecoder

SLOWEST_CALL_S = 600e-6


class InterruptError(BaseException):
    pass


class Collector:
    """An exporter that accepts all events."""

    def __init__(self):
        self.numbers = set()

    def export(self, events, timeout_s=None):
        self.numbers.update(map(number_of, events))
        return DELIVERED


def number_of(event):
    return event.fields["duration_ms"]


def interrupt(*_):
    raise InterruptError


def interrupted(call, *arguments):
    """Make a call during which the signal handler may raise."""
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, SLOWEST_CALL_S))
        call(*arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptError:
        signal.setitimer(signal.ITIMER_REAL, 0)


def event_of(number):
    record = logging.makeLogRecord(
        {"name": "codex_otel.app", "levelno": logging.INFO, "msg": "codex.turn_ttft"}
    )
    record.__dict__.update({"duration_ms": number, "conversation.id": "c"})
    return handler._reader.read(record)


def put_all(events):
    for event in events:
        queue.put(event)
        accepted.add(number_of(event))


def on_disk():
    """Return the events of the directory by the numbers of their records."""
    found = {}
    for path in directory.glob("*.spool"):
        for line in path.read_bytes().split(b"\n"):
            decoded = RecordDecoder().decode(line)
            if decoded is not None:
                found[decoded[0]] = number_of(decoded[1])
    return found


def check():
    # The entry 0, of an interrupted restoration, is removed by the next one.
    if any(max(segment.writers, default=0) for segment in journal._segments):
        sys.exit("a thread counts as writing that has been interrupted")
    stats = queue.stats()
    queued = [*queue.batch, *queue.waiting]
    found = on_disk()
    unwritten = set(journal._unwritten)
    for number, event in enumerate(queued, queue.settled + 1):
        if number not in unwritten and found.get(number) != number_of(event):
            sys.exit(f"event {number} counts as spooled: {number_of(event)}, {found.get(number)}")
    if stats.spooled != len(queued) - len(unwritten):
        sys.exit(f"spooled: {stats}")
    lost = accepted - collector.numbers - {number_of(event) for event in queued}
    if lost:
        sys.exit(f"lost: {sorted(lost)}")


chance = random.Random(1)
signal.signal(signal.SIGALRM, interrupt)
directory = Path(sys.argv[2])
handler = from_table(
    {
        "exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9"}},
        "batch": {"max_queue_size": 1_000_000, "max_batch_size": 4},
        "spool": {"path": str(directory)},
    }
)
pipeline = handler._pipeline
pipeline.worker.start = lambda: False  # no worker: the flushing thread exports
pipeline.worker.sender._exporter = collector = Collector()
queue = pipeline.worker.queue
journal = queue.journal
accepted = set()
for first in range(0, int(sys.argv[1]) * 20, 20):
    interrupted(put_all, [event_of(number) for number in range(first, first + 20)])
    check()
    interrupted(pipeline.flush, 20)
    check()
pipeline.flush(20)
if queue.stats().queued or not accepted <= collector.numbers:
    sys.exit(f"not exported: {queue.stats()}")
