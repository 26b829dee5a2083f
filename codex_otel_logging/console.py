"""What the commands print: tables and lines, with colour on a terminal where `rich` is installed.

Elsewhere it is plain text, whole and uncut, so that a pipe gets all of it. What comes from outside
goes through `shown` first: no control character of somebody's event reaches a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

Row = Sequence[str]


class Console(Protocol):
    """Prints to one place. A style is one of `rich`'s, such as `bold` or `red`; plain has none."""

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""

    def table(self, header: Row, rows: Sequence[Row], styles: Sequence[str] = ()) -> None:
        """Print a table; `styles` holds one for each row, or nothing."""


def console() -> Console:
    """Return the console for standard output, as it is now.

    The variables `NO_COLOR` (https://no-color.org) and `TERM=dumb` mean what they always do.
    """
    if sys.stdout.isatty():
        try:
            return _Rich()
        except ImportError:
            pass
    return _Plain()


def shown(value: object) -> str:
    """Return a value as text of one line that holds nothing but printable characters."""
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


class _Plain:
    def line(self, text: str = "", style: str = "") -> None:
        print(text)

    def table(self, header: Row, rows: Sequence[Row], styles: Sequence[str] = ()) -> None:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())


class _Rich:
    def __init__(self) -> None:
        from rich.console import Console as RichConsole

        self._console: Any = RichConsole(highlight=False, markup=False, emoji=False)

    def line(self, text: str = "", style: str = "") -> None:
        self._console.print(text, style=style or None, soft_wrap=True)

    def table(self, header: Row, rows: Sequence[Row], styles: Sequence[str] = ()) -> None:
        from rich.table import Table

        table = Table(*header, box=None, pad_edge=False, header_style="bold")
        for index, row in enumerate(rows):
            table.add_row(*row, style=styles[index] if styles else None)
        self._console.print(table)
