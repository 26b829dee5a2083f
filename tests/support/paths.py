"""Paths in the source tree."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "programs"
DATA = ROOT / "tests" / "data"


def read_program(name: str) -> str:
    """Return the source of a program in `tests/programs`."""
    return (PROGRAMS / f"{name}.py").read_text(encoding="utf-8")
