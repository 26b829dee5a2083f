"""Code for a server process that is ready to serve: logs an event and prints a line."""

import logging
import os

logging.getLogger("codex_otel.start").info(
    "codex.startup_phase",
    extra={
        "startup.phase": "serve",
        "startup.status": "ok",
        "duration_ms": 1,
        "conversation.id": str(os.getpid()),
    },
)
print("process has started", flush=True)
