"""Logs an event in an application that imports a library at a moment, such as "after import".

Usage: imports_by_moment.py LIBRARY MOMENT

Prints whether the exporter is imported before the first event, and whether it is afterwards.
"""

import logging
import sys
import warnings

moment = sys.argv[2]


def load(now):
    if now == moment:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            __import__(sys.argv[1])


load("before import")
import codex_otel_logging  # noqa: E402

load("after import")
exporter = {"otlp-http": {"endpoint": "http://127.0.0.1:9/"}}
handler = codex_otel_logging.from_table(
    {
        "exporter": exporter,
        "batch": {"shutdown_timeout_ms": 1, "schedule_delay_ms": 1},
    }
)


def show():
    print("opentelemetry.exporter.otlp.proto.http._log_exporter" in sys.modules)


show()
load("after configuration")
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.info("codex.turn_ttft", extra={"conversation.id": "c"})
show()
