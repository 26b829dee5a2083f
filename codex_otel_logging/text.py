"""Text for people: values from outside on one line, without a character that does not show."""

from __future__ import annotations

_BRIEF_CHARACTERS = 60


def shown(value: object) -> str:
    """Return a value as text of one line that holds nothing but printable characters."""
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


def brief(value: object) -> str:
    """Return what `shown` returns, of the first 60 characters only."""
    text = str(value)
    if len(text) <= _BRIEF_CHARACTERS:
        return shown(text)
    return f"{shown(text[:_BRIEF_CHARACTERS])}..."


def printable(line: str) -> str:
    """Return a line with blanks in place of control characters."""
    return "".join(character if character.isprintable() else " " for character in line)
