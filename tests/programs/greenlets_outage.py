"""Logs in a patched application until an outage is reported, and prints the reports.

Usage: greenlets_outage.py LIBRARY
"""

import logging
import sys
import warnings

if sys.argv[1] == "gevent":
    from gevent import monkey, sleep

    monkey.patch_all()
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eventlet
    from eventlet import sleep

    eventlet.monkey_patch()
import codex_otel_logging


class Reports(logging.Handler):
    def emit(self, record):
        print(record.getMessage().partition(" (")[0], flush=True)
        self.seen = True


reports = Reports()
reports.seen = False
logging.getLogger("codex_otel_logging").addHandler(reports)
handler = codex_otel_logging.from_table(
    {
        "exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}},
        "batch": {"schedule_delay_ms": 1, "shutdown_timeout_ms": 1},
    }
)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
while not reports.seen:
    logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
    sleep(0.05)
