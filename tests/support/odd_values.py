"""Values whose methods raise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class _HostileType(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError


class Hostile(metaclass=_HostileType):
    """Raises on every operation, even on looking up its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __len__ = __bool__ = __iter__ = __hash__ = __str__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


class Text(str):
    def __str__(self) -> str:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class Number(int):
    def __repr__(self) -> str:
        raise RuntimeError


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class UnprintableItems(list[int]):
    def __iter__(self) -> Iterator[int]:
        raise RuntimeError
