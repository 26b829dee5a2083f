"""Logs an event with the settings in `otel.toml`, and prints the imported modules of the spool."""

import logging
import sys

import codex_otel_logging

logger = logging.getLogger("codex_otel")
logger.setLevel(logging.INFO)
logging.getLogger("codex_otel_logging").setLevel(logging.CRITICAL)
handler = codex_otel_logging.CodexOtelHandler("otel.toml")
logger.addHandler(handler)
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
found = sorted(name for name in sys.modules if ".spool" in name)
print(*found or ["no module of the spool"])
