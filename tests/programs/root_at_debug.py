"""Logs through a handler on the root logger while libraries log at DEBUG; prints its counts.

Usage: root_at_debug.py HANDLER, its `dictConfig` dictionary as JSON
"""

import json
import logging
import logging.config
import sys

logging.config.dictConfig(
    {
        "version": 1,
        "handlers": {"codex_otel": json.loads(sys.argv[1])},
        "root": {"level": "DEBUG", "handlers": ["codex_otel"]},
        "loggers": {"urllib3": {"level": "DEBUG"}, "opentelemetry": {"level": "DEBUG"}},
    }
)
(handler,) = logging.getLogger().handlers
for number in range(3):
    logging.getLogger("codex_otel").info("codex.turn_ttft", extra={"duration_ms": number})
    assert handler.flush(20)
logging.getLogger("app").debug("no event")
print(handler.stats())
