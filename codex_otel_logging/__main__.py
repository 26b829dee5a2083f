"""Runs `codex-otel-logging` as `python -m codex_otel_logging`."""

from __future__ import annotations

import sys

from .cli.main import main, program

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(program("python -m codex_otel_logging"))
