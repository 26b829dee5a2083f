"""Configures logging twice in IPython, logs an event and flushes.

Usage: in_ipython.py FILE, a TOML file
"""

import sys

from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in (
    "import logging, codex_otel_logging",
    f"codex_otel_logging.configure({sys.argv[1]!r})",
    f"codex_otel_logging.configure({sys.argv[1]!r});",
    "logging.getLogger('codex_otel').info("
    "'codex.turn_ttft', extra={'duration_ms': 1, 'conversation.id': 'c'})",
    "print(codex_otel_logging.flush(10))",
):
    shell.run_cell(cell).raise_error()
