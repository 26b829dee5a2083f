"""What the commands print: tables and lines, with colour on a terminal where `rich` is installed.

Elsewhere it is plain text, whole and uncut, so that a pipe gets all of it, each line at once. What
comes from outside goes through `shown` of `text` first: no control character of somebody's event
reaches a terminal. A character that the output's encoding does not have becomes an escape.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Protocol

Row = Sequence[str]

Part = tuple[str, str]
"""A text and its style."""


class Console(Protocol):
    """Prints to one place. A style is one of `rich`'s, such as `bold` or `red`; plain has none."""

    rich: bool

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""

    def parts(self, parts: Sequence[Part], *, cut: bool = True) -> None:
        """Print a line of several parts; with `cut`, no longer than a terminal is wide."""

    def table(self, header: Row, rows: Sequence[Row], styles: Sequence[str] = ()) -> None:
        """Print a table; `styles` holds one for each row, or nothing."""

    def status(self, text: str) -> None:
        """Keep this line below all others, until the next call; none if empty. Only with `rich`."""


def console() -> Console:
    """Return the console for standard output, as it is now.

    The variables `NO_COLOR` (https://no-color.org) and `TERM=dumb` mean what they always do.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    if sys.stdout.isatty():
        try:
            return _Rich()
        except ImportError:
            pass
    return _Plain()


class _Plain:
    rich = False

    def line(self, text: str = "", style: str = "") -> None:
        print(text)

    def parts(self, parts: Sequence[Part], *, cut: bool = True) -> None:
        text = "".join(text for text, _ in parts)
        cut = cut and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if cut else len(text)
        print(text if len(text) <= width else f"{text[: max(width - 3, 0)]}...")

    def table(self, header: Row, rows: Sequence[Row], styles: Sequence[str] = ()) -> None:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())

    def status(self, text: str) -> None:
        pass


class _Rich:
    rich = True

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.text import Text

        self._console: Any = RichConsole(highlight=False, markup=False, emoji=False)
        self._text = Text
        self._live: Any = None

    def line(self, text: str = "", style: str = "") -> None:
        self._console.print(text, style=style or None, soft_wrap=True)

    def parts(self, parts: Sequence[Part], *, cut: bool = True) -> None:
        if cut:
            line = self._one_line(parts)
            self._console.print(line, no_wrap=line.no_wrap, overflow=line.overflow)
        else:
            self._console.print(self._text.assemble(*parts), soft_wrap=True)

    def table(self, header: Row, rows: Sequence[Row], styles: Sequence[str] = ()) -> None:
        from rich.table import Table

        table = Table(*header, box=None, pad_edge=False, header_style="bold")
        for index, row in enumerate(rows):
            table.add_row(*row, style=styles[index] if styles else None)
        self._console.print(table)

    def status(self, text: str) -> None:
        from rich.live import Live

        if not text:
            if self._live is not None:
                self._live.stop()
                self._live = None
            return
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(self._one_line([(text, "dim")]), refresh=True)

    def _one_line(self, parts: Sequence[Part]) -> Any:
        line = self._text(no_wrap=True, overflow="ellipsis")
        left = 4 * self._console.width  # more than fits, but for characters without a width
        for text, style in parts:
            line.append(text[:left], style or None)
            left -= len(text)
            if left <= 0:
                break
        return line
