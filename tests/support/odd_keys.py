"""Classes of text that a record may have as keys."""

from __future__ import annotations


class OddKey(str):
    """Text that a dictionary does not find by its text."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


class Incomparable(str):
    """A name that cannot be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = str.__hash__


class OwnStr(str):
    """A str subclass as most are: equal to its text, with the same hash."""

    __slots__ = ()
