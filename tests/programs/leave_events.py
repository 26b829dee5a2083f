"""Logs numbered events to a spool and is killed at once.

Arguments: the TOML file, how many events, the number of the first one, and optionally the version
of the application.
"""

import logging
import os
import signal
import sys

import codex_otel_logging

path, count, first, *version = sys.argv[1:]
codex_otel_logging.configure(path, app_version=version[0] if version else None)
logger = logging.getLogger("codex_otel")
for number in range(int(first), int(first) + int(count)):
    logger.info(
        "codex.user_prompt",
        extra={"prompt": "a secret", "number": number, "conversation.id": "c"},
    )
os.kill(os.getpid(), signal.SIGKILL)
