"""Fits text into the columns of a terminal: cuts it, wraps it, lays out tables.

Pure functions. A width is a number of columns as terminals count them: East Asian wide characters
take two, combining ones none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest

Field = tuple[str, str]
"""A field's name and value, shown as ` name=value`."""

ELLIPSIS = "..."
GAP = "  "
"""Between the columns of a table."""

_SHORTEST = 8
"""Columns that are left to a value, or to a table's column, whatever has to fit."""
_LONG = 10_000
"""Characters of a text that fits nowhere, so that its width need not be exact."""

_INVISIBLE = ("Mn", "Me", "Cf")


def width_of(text: str) -> int:
    """Return how many columns a text takes; that of a very long one is estimated."""
    if text.isascii() or len(text) > _LONG:
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in _INVISIBLE:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def head(text: str, width: int) -> str:
    """Return the longest beginning of a text that fits into `width` columns."""
    if text[: max(width, 0) + 1].isascii():
        return text[: max(width, 0)]
    taken = 0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return text[:index]
    return text


def cut(text: str, width: int) -> str:
    """Return a text that fits: whole, or its beginning and an ellipsis."""
    if len(head(text, width)) == len(text):
        return text
    return head(text, width - len(ELLIPSIS)) + ELLIPSIS


def cut_middle(text: str, width: int) -> str:
    """Return a text that fits: whole, or its two ends around an ellipsis."""
    if len(head(text, width)) == len(text):
        return text
    room = max(width - len(ELLIPSIS), 0)
    end = head(text[: -room - 1 : -1], room // 2)[::-1]
    return head(text, room - width_of(end)) + ELLIPSIS + end


def words(text: str) -> list[str]:
    """Return the words of a text, each with the blanks before it."""
    return re.findall(r" *[^ ]+", text)


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a text, broken between words, or inside one that fills a line alone."""
    lines = [""]
    for word in words(text):
        if lines[-1] and width_of(lines[-1] + word) > width:
            lines.append("")
        rest = word if lines[-1] else word.lstrip()
        while width_of(rest) > max(width, 2):
            lines[-1] = head(rest, max(width, 2))
            rest = rest[len(lines[-1]) :]
            lines.append("")
        lines[-1] += rest
    return lines


def table_lines(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[tuple[int, str]]:
    """Yield the lines of a table, each with the index of its row; None means any width."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(width_of, column)) for column in columns]
    if width is not None:
        room = width - len(GAP) * (len(columns) - 1)
        longest_words = [max(map(width_of, " ".join(column).split())) for column in columns]
        # Words are broken only where columns as wide as their longest words do not fit.
        widths = shrink(widths, room, longest_words)
        widths = shrink(widths, room, [_SHORTEST] * len(columns))
    for index, row in enumerate(rows):
        wrapped = [wrap(cell, limit) for cell, limit in zip(row, widths, strict=True)]
        for cells in zip_longest(*wrapped, fillvalue=""):
            line = GAP.join(
                cell + " " * (limit - width_of(cell))
                for cell, limit in zip(cells, widths, strict=True)
            )
            yield index, line.rstrip()


def fit_fields(fields: Sequence[Field], width: int, essential: int) -> tuple[list[Field], bool]:
    """Return the fields that fit into a line of `width` columns, and whether ` ...` must follow.

    The first `essential` fields stay; where they do not fit, their longest values are shortened in
    the middle. The others follow as long as there is room, the last of them cut; if it is not, the
    ellipsis tells that there are more.
    """
    if sum(map(_field_width, fields)) <= width:
        return list(fields), False
    marker = 1 + len(ELLIPSIS)
    fitted = _shortened(fields[:essential], width - marker)
    room = width - marker - sum(map(_field_width, fitted))
    for name, value in fields[essential:]:
        room -= _field_width((name, value))
        if room < 0:
            left = room + marker + width_of(value)
            if left >= _SHORTEST:
                return [*fitted, (name, cut(value, left))], False
            break
        fitted.append((name, value))
    return fitted, len(fitted) < len(fields)


def _shortened(fields: Sequence[Field], room: int) -> list[Field]:
    room -= sum(_field_width((name, "")) for name, _ in fields)
    widths = shrink([width_of(value) for _, value in fields], room, [_SHORTEST] * len(fields))
    return [
        (name, cut_middle(value, width))
        for (name, value), width in zip(fields, widths, strict=True)
    ]


def _field_width(field: Field) -> int:
    name, value = field
    return width_of(name) + width_of(value) + 2


def shrink(widths: Sequence[int], room: int, smallest: Sequence[int]) -> list[int]:
    """Return widths whose sum is at most `room`, as far as none goes below its smallest.

    The widest gives way first, the last one of several.
    """
    found = [min(width, max(room, least)) for width, least in zip(widths, smallest, strict=True)]
    while sum(found) > room:
        may_shrink = [index for index, width in enumerate(found) if width > smallest[index]]
        if not may_shrink:
            break
        found[max(reversed(may_shrink), key=found.__getitem__)] -= 1
    return found
