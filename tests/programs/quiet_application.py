"""Logs one event, and prints log records and warnings of libraries that reach the application.

Usage: quiet_application.py EXPORTER [MODULE ...]

EXPORTER is the setting as JSON. Each MODULE is imported first.
"""

import importlib
import json
import logging
import sys
import warnings

from codex_otel_logging import from_table


class Seen(logging.Handler):
    """Prints every record except those of this package."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "codex_otel_logging":
            print("record", record.name, record.getMessage())


warnings.simplefilter("always")
for module in sys.argv[2:]:
    importlib.import_module(module)
logging.basicConfig(handlers=[Seen()], level=logging.DEBUG)
handler = from_table(
    {"exporter": json.loads(sys.argv[1]), "batch": {"shutdown_timeout_ms": 0, "retry_for_ms": 0}}
)
logger = logging.getLogger("codex_otel.app")
logger.propagate = False
logger.addHandler(handler)
logger.setLevel(logging.INFO)
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
handler.flush(20)
print("exported", handler.stats().exported)
