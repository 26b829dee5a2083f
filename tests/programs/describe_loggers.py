"""Configures logging from logging.ini, prints the loggers and handlers, and logs."""

import logging
import logging.config
from pathlib import Path

logging.config.fileConfig("logging.ini", disable_existing_loggers=False)
for name in (None, "app", "app.orders", "app.other"):
    logger = logging.getLogger(name)
    print(logger, logger.propagate, logger.disabled)
    for handler in logger.handlers:
        print(handler, handler.formatter._fmt)
logging.getLogger("app.orders").error("ordered")
logging.getLogger("app.other").warning("other")
logging.getLogger("app.other").error("bad")
print(Path("app.log").read_text())
extra = {"duration_ms": 352, "conversation.id": "c"}
logging.getLogger("codex_otel.tools").info("codex.turn_ttft", extra=extra)
