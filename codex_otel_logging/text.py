"""Makes untrusted text safe to print, suggests known names for misspelt ones, and counts nouns."""

from __future__ import annotations

import re
from collections.abc import Collection

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Characters that are printable to Python although they are invisible, such as fillers.

These are https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point and blank symbols.
"""

_MAX_BRIEF_LENGTH = 60

_MAX_TYPOS = 2
"""Maximum edit distance at which an unknown key counts as a misspelling of a known one."""


def shown(value: object) -> str:
    """Return a value as one line of visible characters.

    Invisible characters are escaped. Text that is empty or has spaces is quoted, so that it reads
    as one value.
    """
    text = str(value)
    return text if text and is_visible(text) and " " not in text else _quote(text)


def shown_name(name: str) -> str:
    """Return a field's name as `shown` does; a name with an equals sign is quoted, too."""
    return _quote(name) if "=" in name else shown(name)


def brief(value: object) -> str:
    """Return the first 60 characters of a value as `shown` does."""
    text = str(value)
    if len(text) <= _MAX_BRIEF_LENGTH:
        return shown(text)
    return f"{shown(text[:_MAX_BRIEF_LENGTH])}..."


def printable(line: str) -> str:
    """Return a line with its invisible characters escaped; spaces stay."""
    return "".join(c if is_visible(c) else _escape(c) for c in line)


def is_visible(text: str) -> bool:
    """Return whether every character of a text is visible or a space."""
    return text.isprintable() and not _INVISIBLE.search(text)


def _quote(text: str) -> str:
    return _INVISIBLE.sub(lambda match: _escape(match[0]), repr(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def misspelt(name: str, known: Collection[str]) -> str | None:
    """Return the known name that `name` differs from by at most two edits, or None.

    Case, hyphens and underscores are ignored.
    """
    written = _normalized(name)
    # Names of another length are skipped: a comparison takes time in proportion to both lengths,
    # and a key from a file may be a megabyte long.
    distances = {
        each: _edit_distance(written, plain)
        for each in sorted(known)
        if abs(len(written) - len(plain := _normalized(each))) <= _MAX_TYPOS
    }
    best = min(distances, key=distances.__getitem__, default="")
    return best if best and distances[best] <= _MAX_TYPOS else None


def _normalized(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def _edit_distance(one: str, other: str) -> int:
    """Return the Levenshtein distance of two texts."""
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
    """Return "; did you mean ...?" with the known name that is most similar, or "".

    More tolerant than `misspelt`, because a wrong hint does no harm.
    """
    import difflib  # slow to import, and only a message needs it

    matches = difflib.get_close_matches(name, sorted(known), n=1)  # sorted: messages must repeat
    return f"; did you mean {matches[0]!r}?" if matches else ""


def nearest(name: str, known: Collection[str]) -> str:
    """Return what `suggestion` does, or "; expected one of ..." if no known name is similar."""
    return suggestion(name, known) or f"; expected one of {', '.join(sorted(known))}"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun in the singular or plural, such as `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
