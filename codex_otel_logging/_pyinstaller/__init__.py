"""Tells PyInstaller which files and modules a frozen application needs that no import names.

PyInstaller finds the hook through the entry point `pyinstaller40`. No other module may import this
package: https://pyinstaller.org/en/stable/hooks.html#provide-hooks-with-package
"""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folders that contain hooks."""
    return [str(Path(__file__).parent)]
