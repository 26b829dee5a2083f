"""Tells PyInstaller what a frozen application needs that no import statement names.

PyInstaller finds the hook through the entry point `pyinstaller40`, in the process that freezes.
Nothing else may import this package. See
https://pyinstaller.org/en/stable/hooks.html#provide-hooks-with-package
"""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folders that hold hooks."""
    return [str(Path(__file__).parent)]
