"""Fits text to a terminal: cuts it, wraps it, lays out tables.

All functions are pure. Widths are in terminal columns: East Asian wide characters take two,
combining characters none.
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
"""Separates the columns of a table."""

_MIN_COLUMNS = 8
"""Minimum width of a value, and of a table column, even if the line then does not fit."""

_MEASURED_CHARACTERS = 10_000
"""A longer text fits no terminal, so its exact width does not matter."""

_INVISIBLE = ("Mn", "Me", "Cf")


def width_of(text: str) -> int:
    """Return the width of a text; for one of more than 10,000 characters, an estimate."""
    if text.isascii() or len(text) > _MEASURED_CHARACTERS:
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in _INVISIBLE:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def head(text: str, width: int) -> str:
    """Return the longest prefix of a text that fits `width` columns."""
    # The usual case, without a loop: as many characters as columns, all of them ASCII.
    if text[: max(width, 0) + 1].isascii():
        return text[: max(width, 0)]
    taken = 0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return text[:index]
    return text


def cut(text: str, width: int) -> str:
    """Return the text, shortened to a prefix and an ellipsis if it does not fit."""
    if len(head(text, width)) == len(text):
        return text
    return head(text, width - len(ELLIPSIS)) + ELLIPSIS


def cut_middle(text: str, width: int) -> str:
    """Return the text, shortened to its two ends around an ellipsis if it does not fit."""
    if len(head(text, width)) == len(text):
        return text
    room = max(width - len(ELLIPSIS), 0)
    # The end is cut like a beginning, from the reversed text, of which `room` characters suffice.
    end = head(text[: -room - 1 : -1], room // 2)[::-1]
    return head(text, room - width_of(end)) + ELLIPSIS + end


def words(text: str) -> list[str]:
    """Return the words of a text, each with its leading blanks."""
    return re.findall(r" *[^ ]+", text)


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a wrapped text. A word breaks only if it is longer than a line."""
    lines = [""]
    for word in words(text):
        if lines[-1] and width_of(lines[-1] + word) > width:
            lines.append("")
        rest = word if lines[-1] else word.lstrip()
        while width_of(rest) > max(width, 2):  # a wide character takes two columns
            lines[-1] = head(rest, max(width, 2))
            rest = rest[len(lines[-1]) :]
            lines.append("")
        lines[-1] += rest
    return lines


def table_lines(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[tuple[int, str]]:
    """Yield the lines of a table, each with the index of its row; `width` None means unlimited."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(width_of, column)) for column in columns]
    if width is not None:
        room = width - len(GAP) * (len(columns) - 1)
        longest_words = [max(map(width_of, " ".join(column).split())) for column in columns]
        # First shrink columns to their longest word; break words only if that is not enough.
        widths = shrink(widths, room, longest_words)
        widths = shrink(widths, room, [_MIN_COLUMNS] * len(columns))
    for index, row in enumerate(rows):
        wrapped = [wrap(cell, limit) for cell, limit in zip(row, widths, strict=True)]
        for cells in zip_longest(*wrapped, fillvalue=""):
            line = GAP.join(
                cell + " " * (limit - width_of(cell))
                for cell, limit in zip(cells, widths, strict=True)
            )
            yield index, line.rstrip()


def fit_fields(fields: Sequence[Field], width: int, essential: int) -> tuple[list[Field], bool]:
    """Return the fields that fit a line of `width` columns, and whether to append ` ...`.

    The first `essential` fields always appear; if they do not fit, their longest values are
    shortened in the middle. Other fields follow while there is room. If the first one that does not
    fit can be cut instead of left out, its own ellipsis shows that the line is incomplete.
    """
    if sum(map(_field_width, fields)) <= width:
        return list(fields), False
    marker = 1 + len(ELLIPSIS)
    fitted = _shortened(fields[:essential], width - marker)
    room = width - marker - sum(map(_field_width, fitted))
    for name, value in fields[essential:]:
        room -= _field_width((name, value))
        if room < 0:
            # A cut value ends with an ellipsis, so no marker is needed after it.
            left = room + marker + width_of(value)
            if left >= _MIN_COLUMNS:
                return [*fitted, (name, cut(value, left))], False
            break
        fitted.append((name, value))
    return fitted, len(fitted) < len(fields)


def _shortened(fields: Sequence[Field], room: int) -> list[Field]:
    room -= sum(_field_width((name, "")) for name, _ in fields)
    widths = shrink([width_of(value) for _, value in fields], room, [_MIN_COLUMNS] * len(fields))
    return [
        (name, cut_middle(value, width))
        for (name, value), width in zip(fields, widths, strict=True)
    ]


def _field_width(field: Field) -> int:
    name, value = field
    return width_of(name) + width_of(value) + 2  # the blank and the equals sign


def shrink(widths: Sequence[int], room: int, smallest: Sequence[int]) -> list[int]:
    """Reduce widths until their sum is at most `room` or each is at its `smallest`.

    The widest shrinks first; among equals, the last one.
    """
    # No width need exceed the room. Capping them first also bounds the number of steps below: the
    # value of an attribute can be megabytes long.
    found = [min(width, max(room, least)) for width, least in zip(widths, smallest, strict=True)]
    while sum(found) > room:
        may_shrink = [index for index, width in enumerate(found) if width > smallest[index]]
        if not may_shrink:
            break
        found[max(reversed(may_shrink), key=found.__getitem__)] -= 1
    return found
