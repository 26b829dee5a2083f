"""Logs one event and prints the sizes of the package's data files.

Usage: frozen_application EXPORTER, the setting as JSON
"""

import json
import logging
import sys
from importlib.resources import files

from codex_otel_logging import from_table

logger = logging.getLogger("codex_otel.app")
logger.setLevel(logging.INFO)
logger.propagate = False
# Without compiled modules, the first request may take longer than the default.
batch = {"shutdown_timeout_ms": 20_000}
logger.addHandler(from_table({"exporter": json.loads(sys.argv[1]), "batch": batch}))
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
for path in ("logging.ini", "cli/session.jsonl"):
    print(len(files("codex_otel_logging").joinpath(path).read_bytes()))
