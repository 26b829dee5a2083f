"""Text for people: values from outside on one visible line, and names that resemble another."""

from __future__ import annotations

import re
from collections.abc import Collection

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Characters that Python takes for printable although they show nothing, such as fillers.

Those of https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point, and blank symbols.
"""

_BRIEF_CHARACTERS = 60

_MAX_TYPOS = 2
"""A key that differs from a known one by at most this many edits is a misspelling of it."""


def shown(value: object) -> str:
    """Return a value as text of one line that holds nothing but visible characters.

    Text that is empty or has blanks is quoted, so that it cannot be taken for several values.
    """
    text = str(value)
    return text if text and is_visible(text) and " " not in text else _quoted(text)


def shown_name(name: str) -> str:
    """Return the name of a field as `shown` does, also quoted when it holds an equals sign."""
    return _quoted(name) if "=" in name else shown(name)


def brief(value: object) -> str:
    """Return what `shown` returns, of the first 60 characters only."""
    text = str(value)
    if len(text) <= _BRIEF_CHARACTERS:
        return shown(text)
    return f"{shown(text[:_BRIEF_CHARACTERS])}..."


def printable(line: str) -> str:
    """Return a line with escapes in place of what does not show; blanks stay."""
    return "".join(c if is_visible(c) else _escaped(c) for c in line)


def is_visible(text: str) -> bool:
    """Return whether all characters of a text show, or are blanks."""
    return text.isprintable() and not _INVISIBLE.search(text)


def _quoted(text: str) -> str:
    return _INVISIBLE.sub(lambda match: _escaped(match[0]), repr(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def misspelt(name: str, known: Collection[str]) -> str | None:
    """Return the name of `known` that `name` misspells, or None: at most two edits away.

    Upper and lower case, hyphens and underscores make no difference.
    """
    written = _plain(name)
    distances = {
        each: _distance(written, plain)
        for each in sorted(known)
        if abs(len(written) - len(plain := _plain(each))) <= _MAX_TYPOS
    }
    best = min(distances, key=distances.__getitem__, default="")
    return best if best and distances[best] <= _MAX_TYPOS else None


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def _distance(one: str, other: str) -> int:
    """Return the Levenshtein distance: how many insertions, deletions and substitutions."""
    row = list(range(len(other) + 1))
    for above, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], above
        for column, b in enumerate(other, start=1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (a != b)),
            )
    return row[-1]


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the end of a message on an unknown name: which one was meant, if any is near."""
    import difflib  # only for a message

    matches = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def nearest(name: str, known: Collection[str]) -> str:
    """Return the end of a message on an unknown name: which one was meant, or which there are."""
    return suggestion(name, known) or f"; known are {', '.join(sorted(known))}"
