"""Subclasses of str that applications could use as keys of a record."""

from __future__ import annotations


class OddKey(str):
    """A key that a dictionary does not find by the equal str."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


class Incomparable(str):
    """A key whose comparison raises."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = str.__hash__


class OwnStr(str):
    """An ordinary subclass: equal to the str, with the same hash."""

    __slots__ = ()
