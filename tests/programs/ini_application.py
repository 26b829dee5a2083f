"""Configures logging from a file; prints which loggers have our handler, and imported packages.

Usage: ini_application.py FILE, a configuration for `fileConfig`
"""

import logging
import logging.config
import sys

early = logging.getLogger("codex_otel.early")
logging.config.fileConfig(sys.argv[1], disable_existing_loggers=False)

from codex_otel_logging import CodexOtelHandler  # noqa: E402

carriers = {
    name
    for name in ("root", "codex_otel", "codex_otel.early", "app")
    for handler in logging.getLogger(name if name != "root" else None).handlers
    if isinstance(handler, CodexOtelHandler)
}
print(carriers, bool(logging.getLogger("codex_otel").propagate))
logging.getLogger("codex_otel").info("codex.user_prompt", extra={"prompt": "hello"})
early.info("codex.turn_ttft", extra={"duration_ms": 1})
logging.getLogger("app").warning("the application's own")
print(sorted(name for name in sys.modules if name.partition(".")[0] == "opentelemetry"))
