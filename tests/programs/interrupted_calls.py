"""Fills and flushes a queue while a signal handler raises in the middle of each call.

Usage: interrupted_calls.py CALLS

Exits with a message if the queue's counts are wrong afterwards.
"""

import logging
import random
import signal
import sys

from codex_otel_logging import from_table
from codex_otel_logging.delivery.exporter import DELIVERED

SLOWEST_CALL_S = 300e-6


class InterruptError(BaseException):
    pass


class Collector:
    """An exporter that accepts all events."""

    def __init__(self):
        self.events = []

    def export(self, events, timeout_s=None):
        self.events += events
        return DELIVERED


def interrupt(*_):
    raise InterruptError


def interrupted(call, *arguments):
    """Return whether the call completed before the signal."""
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, SLOWEST_CALL_S))
        call(*arguments)
        returned = True
        signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptError:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return False
    return returned


def event_of(number):
    record = logging.makeLogRecord(
        {
            "name": "codex_otel.app",
            "levelno": logging.INFO,
            "msg": "codex.turn_ttft",
            "duration_ms": number,
            "conversation.id": "c",
        }
    )
    return handler._reader.read(record)


def put_all(events):
    for event in events:
        queue.put(event)
        accepted.append(event)


chance = random.Random(1)
signal.signal(signal.SIGALRM, interrupt)
handler = from_table(
    {
        "exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9"}},
        "batch": {"max_queue_size": 1_000_000, "max_batch_size": 4},
    }
)
pipeline = handler._pipeline
pipeline.worker.start = lambda: False  # no worker: the flushing thread exports
pipeline.worker.sender._exporter = collector = Collector()
queue = pipeline.worker.queue
accepted = []
for number in range(int(sys.argv[1])):
    interrupted(put_all, [event_of(number)] * 50)
    queued = [*queue.waiting, *queue.batch]
    if queue.queued_bytes != sum(event.size for event in queued):
        sys.exit(f"bytes after put: {queue.queued_bytes} of {len(queued)} events")
    interrupted(pipeline.flush, 20)
    queued = [*queue.waiting, *queue.batch]
    if queue.queued_bytes != sum(event.size for event in queued):
        sys.exit(f"bytes after flush: {queue.queued_bytes} of {len(queued)} events")
    if not pipeline.flush(20):
        sys.exit("flush timed out")
stats = queue.stats()
if stats.queued or stats.accepted != stats.exported or stats.exported < len(accepted):
    sys.exit(f"{stats}, {len(accepted)} accepted")
if len(collector.events) < stats.exported:
    sys.exit(f"{len(collector.events)} exported of {stats}")
