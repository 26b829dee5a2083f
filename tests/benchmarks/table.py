"""Formats tables as aligned text or as Markdown; the first line holds the titles."""

from __future__ import annotations

from collections.abc import Sequence

Table = Sequence[Sequence[str]]


def to_text(table: Table) -> str:
    """Return the table as text, the first column aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, with the same alignment."""
    rule = ["---", *["--:"] * (len(table[0]) - 1)]
    lines = [table[0], rule, *table[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
