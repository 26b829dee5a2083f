"""Strict reading of a settings table: every key accounted for, every fault collected.

A `TableReader` hands out the values of one table by key and type. What is wrong it notes in the
`Faults` it shares with the readers of the tables around it, and goes on with a value that is never
used, so that one reading finds all faults. `finish` reports the keys nobody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

_VARIABLE = re.compile(r"\$\$|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")

_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
}


class Faults:
    """The faults found so far, each with the place in the file it belongs to."""

    def __init__(self) -> None:
        self._found: list[tuple[tuple[int, ...], str]] = []

    def add(self, position: tuple[int, ...], text: str) -> None:
        """Note a fault at a place: the indices of the keys that lead to it."""
        self._found.append((position, text))

    def in_order(self) -> tuple[str, ...]:
        """Return all faults in the order of the table."""
        return tuple(text for _, text in sorted(self._found))


class TableReader:
    """Reads one table.

    Args:
        contents: the table.
        where: how messages call it, for example `[otel] exporter.otlp-http`.
        faults: where to note what is wrong.
        position: the indices of the keys that lead here.
        environ: where `${NAME}` is looked up; None leaves strings as they are.

    """

    def __init__(
        self,
        contents: Mapping[str, Any],
        where: str,
        faults: Faults,
        position: tuple[int, ...] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.where = where
        self._contents = contents
        self._faults = faults
        self._position = position
        self._environ = environ
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._contents

    def get(self, key: str) -> Any:
        """Return the value as it stands, or None; the key counts as known from then on."""
        self._asked.add(key)
        return self._contents.get(key)

    def fault(self, key: str, text: str) -> None:
        """Note a fault of the value of `key`."""
        keys = list(self._contents)
        index = keys.index(key) if key in self._contents else len(keys)
        separator = " " if self.where.endswith("]") else "."
        self._faults.add((*self._position, index), f"{self.where}{separator}{key}: {text}")

    def _typed(self, key: str, kind: type) -> Any:
        value = self.get(key)
        if key not in self._contents:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(key, f"expected {_TYPE_NAMES[kind]}, got {type_name(value)}")
            return None
        return value

    def string(self, key: str, default: str | None = None) -> str | None:
        """Return a string, its `${NAME}` expanded where this reader does so."""
        value = self._typed(key, str)
        if value is None:
            return default
        return self._expanded(key, value)

    def _expanded(self, key: str, text: str) -> str | None:
        if self._environ is None:
            return str(text)
        try:
            return expand(text, self._environ)
        except ValueError as error:
            self.fault(key, str(error))
            return None

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._typed(key, bool)
        return default if value is None else value

    def integer(self, key: str, default: int, *, minimum: int) -> int:
        """Return an integer that is at least `minimum`."""
        value = self._typed(key, int)
        if value is None:
            return default
        if value < minimum:
            self.fault(key, f"expected at least {minimum}, got {value}")
        return int(value)

    def choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """Return one of `choices`."""
        value = self.string(key, default)
        if value is not None and value not in choices:
            self.fault(key, f"expected one of {', '.join(map(repr, choices))}")
        return value or default

    def table(self, key: str, *, environ: Mapping[str, str] | None = None) -> TableReader | None:
        """Return a reader of the table under `key`, or None where there is none."""
        value = self._typed(key, dict)
        if value is None:
            return None
        separator = " " if self.where.endswith("]") else "."
        index = list(self._contents).index(key)
        return TableReader(
            value,
            f"{self.where}{separator}{key}",
            self._faults,
            (*self._position, index),
            self._environ if environ is None else environ,
        )

    def strings(self, check: Callable[[str, str], str | None]) -> dict[str, str]:
        """Return the whole table as strings by key; `check` says what is wrong with a pair."""
        result = {}
        for key in self._contents:
            value = self.string(key)
            if value is None:
                continue
            if (problem := check(key, value)) is not None:
                self.fault(key, problem)
            else:
                result[key] = value
        return result

    def finish(self) -> None:
        """Report each key that nobody asked for, with the nearest one that is known."""
        for key in self._contents:
            if key not in self._asked:
                self.fault(key, f"unknown key{nearest(key, self._asked)}")


def nearest(key: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown key: which one was meant, or which there are."""
    import difflib  # only for a message

    matches = difflib.get_close_matches(str(key), sorted(known), n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known are {', '.join(sorted(known))}"


def type_name(value: object) -> str:
    """Return what a value is, in the words of TOML."""
    for kind, name in _TYPE_NAMES.items():
        if isinstance(value, kind):
            return name if kind is not bool else "a boolean"
    return type(value).__name__


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with `${NAME}`, `${NAME:-default}` and `$$` replaced.

    The default stands for a variable that is not set or empty, as in a shell.

    Raises:
        ValueError: a variable is not set, or a `${` is not closed. Shows no value.

    """

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match[1], match[2]
        if name is None:
            raise ValueError("'${' begins no ${NAME}; write '$${' for the text itself")
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(
                f"the environment variable {name} is not set; set it, "
                f"or give a default: ${{{name}:-...}}"
            )
        return value

    return _VARIABLE.sub(replacement, text)
