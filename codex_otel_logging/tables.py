"""Strict reading of a settings table: every key accounted for, every fault collected.

A `TableReader` hands out the values of one table by key and type. What is wrong it notes in the
`Faults` it shares with the readers of the tables around it, and goes on with a value that is never
used, so that one reading finds all faults. `finish` reports the keys nobody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DEFAULT = r"(?:[^$}]|\$+[^${}])*\$*"  # with no variable in it

_VARIABLE = re.compile(
    rf"""
    \$\$                                      # $$, a dollar sign
    | \$\{{ (?: ({_NAME}) (?: :- ({_DEFAULT}) )? \}} )?   # ${{NAME}} or ${{NAME:-default}}
    """,
    re.VERBOSE,
)

EXPANDABLE = rf"^(?:[^$]|\$\$|\$[^{{$]|\$\{{{_NAME}(?::-{_DEFAULT})?\}})*\$?$"
"""What a string must match for `expand` to take it: each `${` begins a variable."""

_PLAIN_KEY = re.compile(r"[ -~]+")

_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a float",
    list: "an array",
    Mapping: "a table",
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
        self._order = list(contents)
        self._faults = faults
        self._position = position
        self._environ = environ
        self._asked: set[str] = set()
        for key in self._order:
            if not isinstance(key, str):
                self.fault(key, "a key is text")

    def __contains__(self, key: str) -> bool:
        return key in self._contents

    def names(self) -> list[str]:
        """Return the keys in their order."""
        return [key for key in self._order if isinstance(key, str)]

    def get(self, key: str) -> Any:
        """Return the value as it stands, or None; the key counts as known from then on."""
        self._asked.add(key)
        return self._contents.get(key)

    def fault(self, key: str, text: str) -> None:
        """Note a fault of the value of `key`."""
        index = self._order.index(key) if key in self._contents else len(self._order)
        self._faults.add((*self._position, index), f"{self._path(key)}: {text}")

    def _path(self, key: object) -> str:
        shown = key if isinstance(key, str) and _PLAIN_KEY.fullmatch(key) else repr(key)
        return f"{self.where}{' ' if self.where.endswith(']') else '.'}{shown}"

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
        if self._environ is None:
            return str(value)
        try:
            return expand(value, self._environ)
        except ValueError as error:
            self.fault(key, str(error))
            return None

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._typed(key, bool)
        return default if value is None else value

    def integer(self, key: str, default: int, smallest: int, largest: int) -> int:
        """Return an integer within the two limits."""
        value = self._typed(key, int)
        if value is None:
            return default
        if not smallest <= value <= largest:
            self.fault(key, f"expected an integer from {smallest} to {largest}")
        return int(value)

    def choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """Return one of `choices`."""
        value = self.string(key, default)
        if value is not None and value not in choices:
            self.fault(key, f"expected one of {', '.join(map(repr, choices))}")
        return value or default

    def table(self, key: str, *, environ: Mapping[str, str] | None = None) -> TableReader | None:
        """Return a reader of the table under `key`, or None where there is none."""
        value = self._typed(key, Mapping)
        if value is None:
            return None
        return TableReader(
            value,
            self._path(key),
            self._faults,
            (*self._position, self._order.index(key)),
            self._environ if environ is None else environ,
        )

    def finish(self) -> None:
        """Report each key that nobody asked for, with the nearest one that is known."""
        for key in self.names():
            if key not in self._asked:
                self.fault(key, f"unknown key{nearest(key, self._asked)}")


def nearest(name: str, known: Collection[str]) -> str:
    """Return the end of a message on an unknown name: which one was meant, or which there are."""
    import difflib  # only for a message

    matches = difflib.get_close_matches(name, sorted(known), n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known are {', '.join(sorted(known))}"


def type_name(value: object) -> str:
    """Return what a value is, in the words of TOML."""
    for kind, name in _TYPE_NAMES.items():
        if isinstance(value, kind):
            return name if kind is not bool else "a boolean"
    return type(value).__name__


def variables_in(text: str) -> list[str]:
    """Return the names of the variables that `expand` looks up for `text`."""
    return [match[1] for match in _VARIABLE.finditer(text) if match[1]]


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with `${NAME}`, `${NAME:-default}` and `$$` replaced.

    The default stands for a variable that is not set or empty, as in a shell.

    Raises:
        ValueError: a variable is not set, or a `${` begins none. Shows no value.

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
