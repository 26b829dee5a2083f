"""Log records as the handler gets them."""

from __future__ import annotations

import logging
from typing import Any


def record(msg: Any = "codex.tool_decision", *args: object, **options: Any) -> logging.LogRecord:
    """A record as `logger.info(msg, *args, extra=...)` makes it."""
    extra = options.pop("extra", {})
    exc_info = options.pop("exc_info", None)
    name = options.pop("name", "codex_otel.x")
    logger = logging.Logger("codex_otel.x")
    made = logger.makeRecord(name, logging.INFO, "app.py", 1, msg, args, exc_info, None, extra)
    assert not options
    return made
