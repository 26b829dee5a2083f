"""Output of the commands: lines and tables, in colour on a terminal if `rich` is installed.

On a terminal, lines are cut or wrapped to its width; in a pipe they stay whole and are flushed one
by one. Callers pass untrusted text through `text.shown` or `text.printable` first, so that no
control character of an event reaches a terminal. Characters that the output encoding lacks are
written as escapes.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from ..native import monotonic
from .layout import ELLIPSIS, GAP, cut, head, table_lines, width_of, words

Row = Sequence[str]

PROGRESS_S = 10.0
"""How often progress is printed where no bar can be shown, in seconds."""

Part = tuple[str, str]
"""A text and its style."""

_BAR_COLUMNS = 24


class Console(Protocol):
    """Prints to standard output. A style is a `rich` style such as `bold` or `red`, or empty."""

    @property
    def width(self) -> int | None:
        """The current width of the terminal in columns; None in a pipe."""

    def line(self, text: str = "", style: str = "", *, indent: int = 0) -> None:
        """Print a line. On a terminal it wraps between words; `indent` applies to later lines."""

    def flow(self, chunks: Sequence[Sequence[Part]], indent: int) -> None:
        """Print chunks, each beginning with a blank. On a terminal, lines break between chunks."""

    def parts(self, parts: Sequence[Part]) -> None:
        """Print one line of several parts, cut to the width of a terminal."""

    def table(self, header: Row, rows: Sequence[Row]) -> None:
        """Print a table. On a terminal, its cells wrap."""

    def markdown(self, text: str) -> None:
        """Print Markdown: rendered on a terminal with `rich`, elsewhere as it is."""

    def status(self, text: str) -> None:
        """Show a status line at the bottom; an empty text removes it. No effect without `rich`."""

    def progress(self, text: str, share: float | None = None) -> None:
        """Show a status line with a bar; `share`, from 0 to 1, is what is done, None is unknown.

        Without `rich`, prints the text as a line, at most every `PROGRESS_S`. An empty text removes
        the bar.
        """


def console() -> Console:
    """Return a console for the current standard output.

    Honours `NO_COLOR` (https://no-color.org) and `TERM=dumb`, as `rich` does.
    """
    # Line buffering also in a pipe: `codex-otel-logging listen | grep ...` shows events at once.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    if sys.stdout.isatty():
        try:
            return _Rich()
        except ImportError:
            pass
    return _Plain()


class _Plain:
    """Prints text and ignores styles."""

    def __init__(self) -> None:
        self._progress_at = monotonic()

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
                # The first chunk of a line loses its blank: the indent takes its place.
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

    def progress(self, text: str, share: float | None = None) -> None:
        if text and monotonic() >= self._progress_at + PROGRESS_S:
            self._progress_at = monotonic()
            self.line(text)

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
    """Adds colour and a status line."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console as RichConsole
        from rich.text import Text

        self._console: Any = RichConsole(highlight=False, markup=False, emoji=False)
        self._text = Text
        self._live: Any = None

    @property
    def width(self) -> int:
        return int(self._console.width)  # rich reads it anew each time: terminals are resized

    def markdown(self, text: str) -> None:
        from rich.markdown import Markdown

        # A terminal cannot open a link that is relative to the page, so its target is printed.
        self._console.print(Markdown(text, hyperlinks=False))

    def status(self, text: str) -> None:
        self._show(self._text(cut(text, self.width), "dim") if text else None)

    def progress(self, text: str, share: float | None = None) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        room = self.width - _BAR_COLUMNS - len(GAP)
        if share is None or room < _BAR_COLUMNS:
            self.status(text)
            return
        line = Table.grid(padding=(0, len(GAP), 0, 0))
        line.add_row(
            ProgressBar(total=1.0, completed=share, width=_BAR_COLUMNS),
            self._text(cut(text, room), "dim"),
        )
        self._show(line if text else None)

    def _show(self, line: Any) -> None:
        """Show a renderable of `rich` at the bottom; None removes it."""
        from rich.live import Live

        if line is None:
            if self._live is not None:
                self._live.stop()
                self._live = None
            return
        if self._live is None:
            # By default rich also replaces sys.stdout and sys.stderr. Lines already go through its
            # console, and other writers must not be affected.
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(line, refresh=True)

    def _print(self, parts: Sequence[Part]) -> None:
        # Neighbours of one style are joined, so that a word is not split by escape sequences.
        runs = [
            ("".join(text for text, _ in run), style)
            for style, run in groupby(parts, key=itemgetter(1))
        ]
        self._console.print(self._text.assemble(*runs), soft_wrap=True)
