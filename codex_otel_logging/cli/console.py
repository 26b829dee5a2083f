"""What the commands print: lines and tables, with colour on a terminal where `rich` is installed.

On a terminal, lines are cut or wrapped to its width; in a pipe they stay whole, and each is written
at once. Text from outside goes through `text.shown` first, so that no control character of an event
reaches a terminal. A character that the output's encoding lacks becomes an escape.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from .layout import ELLIPSIS, cut, head, table_lines, width_of, words

Row = Sequence[str]

Part = tuple[str, str]
"""A text and its style."""


class Console(Protocol):
    """Prints to one place. A style is one of `rich`'s, such as `bold` or `red`, or empty."""

    @property
    def width(self) -> int | None:
        """The columns of the terminal, as it is now; None in a pipe."""

    def line(self, text: str = "", style: str = "", *, indent: int = 0) -> None:
        """Print a line, on a terminal wrapped between words; `indent` is for all but the first."""

    def flow(self, chunks: Sequence[Sequence[Part]], indent: int) -> None:
        """Print chunks that begin with a blank, on a terminal wrapped between them."""

    def parts(self, parts: Sequence[Part]) -> None:
        """Print a line of several parts, on a terminal cut to its width."""

    def table(self, header: Row, rows: Sequence[Row]) -> None:
        """Print a table, on a terminal with its cells wrapped."""

    def markdown(self, text: str) -> None:
        """Print Markdown: rendered on a terminal with `rich`, elsewhere as it is."""

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
    """Text without styles."""

    @property
    def width(self) -> int | None:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def line(self, text: str = "", style: str = "", *, indent: int = 0) -> None:
        if self.width is None:
            self._print([(text, style)])
        else:
            self.flow([[(word, style)] for word in words(text)], indent)

    def flow(self, chunks: Sequence[Sequence[Part]], indent: int) -> None:
        width = self.width
        line: list[Part] = []
        taken = 0
        for chunk in chunks:
            size = sum(width_of(text) for text, _ in chunk)
            if line and width is not None and taken + size > width:
                self._print(line)
                (first, style), *rest = chunk
                chunk = [(first.lstrip(" "), style), *rest]
                line = [(" " * indent, "")]
                taken = indent
                size = sum(width_of(text) for text, _ in chunk)
            line += chunk
            taken += size
        self._print(line)

    def parts(self, parts: Sequence[Part]) -> None:
        width = self.width
        if width is not None and sum(width_of(text) for text, _ in parts) > width:
            parts = _cut(parts, width)
        self._print(parts)

    def table(self, header: Row, rows: Sequence[Row]) -> None:
        for index, line in table_lines([header, *rows], self.width):
            self._print([(line, "" if index else "bold")])

    def markdown(self, text: str) -> None:
        print(text, end="")

    def status(self, text: str) -> None:
        pass

    def _print(self, parts: Sequence[Part]) -> None:
        print("".join(text for text, _ in parts))


def _cut(parts: Sequence[Part], width: int) -> list[Part]:
    room = width - len(ELLIPSIS)
    line = []
    for text, style in parts:
        line.append((head(text, room), style))
        room -= width_of(line[-1][0])
    return [*line, (ELLIPSIS, "")]


class _Rich(_Plain):
    """The same, with colour and a status line."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.text import Text

        self._console: Any = RichConsole(highlight=False, markup=False, emoji=False)
        self._text = Text
        self._live: Any = None

    @property
    def width(self) -> int:
        return int(self._console.width)

    def markdown(self, text: str) -> None:
        from rich.markdown import Markdown

        # A terminal cannot open a link that is relative to the page, so its target is printed.
        self._console.print(Markdown(text, hyperlinks=False))

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
        self._live.update(self._text(cut(text, self.width), "dim"), refresh=True)

    def _print(self, parts: Sequence[Part]) -> None:
        runs = [
            ("".join(text for text, _ in run), style)
            for style, run in groupby(parts, key=itemgetter(1))
        ]
        self._console.print(self._text.assemble(*runs), soft_wrap=True)
