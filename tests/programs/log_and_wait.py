"""Logs three events to a spool, prints a line, and ends when its input does.

Argument: the TOML file.
"""

import logging
import sys

import codex_otel_logging

handler = codex_otel_logging.configure(sys.argv[1])
for number in range(3):
    extra = {"number": number, "conversation.id": "c"}
    logging.getLogger("codex_otel").info("codex.user_prompt", extra=extra)
print("logged", flush=True)
sys.stdin.read()
