"""Runs the command line: `python -m codex_otel_logging` is the command `codex-otel-logging`."""

from __future__ import annotations

import sys

from .cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(prog="python -m codex_otel_logging"))
