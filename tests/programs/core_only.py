"""Configures logging with a handler, logs, and prints the result and the heavy modules imported.

Usage: core_only.py OPTIONS, arguments of `from_table` as JSON
"""

import json
import logging
import logging.config
import sys
import threading

logging.config.dictConfig(
    {
        "version": 1,
        "handlers": {
            "console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
            "codex_otel": {"()": "codex_otel_logging.from_table", **json.loads(sys.argv[1])},
        },
        "loggers": {
            "codex_otel": {"level": "INFO", "propagate": False, "handlers": ["codex_otel"]}
        },
        "root": {"level": "INFO", "handlers": ["console"]},
    }
)
logger = logging.getLogger("codex_otel")
for number in range(3):
    logger.info("codex.turn_ttft", extra={"duration_ms": number})
(handler,) = logger.handlers
print(handler.flush(), handler.stats(), threading.active_count())
logging.getLogger("app").info("runs on")
heavy = ("opentelemetry", "requests", "urllib3", "grpc", "google", "asyncio", "http", "ssl")
print([name for name in heavy if name in sys.modules])
