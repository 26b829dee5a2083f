"""Reads a settings table strictly: checks every value's type and reports every unknown key.

A `TableReader` returns the values of one table by key and type. A fault does not stop it: it adds
the fault to the `Faults` that all readers of a file share and returns a placeholder, so one
reading finds all faults. `finish` reports the keys that nothing has declared or read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..text import misspelt, nearest, suggestion
from .expansion import expand
from .settings import keys_of

_PLAIN_KEY = re.compile(r"[ -~]+")

_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a float",
    list: "an array",
    Mapping: "a table",
}


class ConfigError(ValueError):
    """Raised for invalid settings. The message lists every fault, one per line.

    `faults` holds the same lines as a tuple. Each one says where the fault is, what is wrong and
    what to do. None contains a header's value.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


ConfigError.__module__ = "codex_otel_logging"


class Faults:
    """Collects faults and warnings with their positions; if `strict`, warnings become faults."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._faults: list[tuple[tuple[int, ...], str]] = []
        self._warnings: list[tuple[tuple[int, ...], str]] = []

    def add(self, position: tuple[int, ...], text: str) -> None:
        """Add a fault. Its position holds the indices of the keys that lead to it."""
        self._faults.append((position, text))

    def warn(self, position: tuple[int, ...], text: str) -> None:
        """Add a warning, or a fault if reading is strict."""
        (self._faults if self.strict else self._warnings).append((position, text))

    def in_order(self) -> tuple[str, ...]:
        """Return all faults in the order in which the file has them."""
        return tuple(text for _, text in sorted(self._faults))

    def warnings_in_order(self) -> tuple[str, ...]:
        """Return all warnings in the order in which the file has them."""
        return tuple(text for _, text in sorted(self._warnings))


class TableReader:
    """Reads one table.

    Args:
        contents: the table.
        where: the name of the table in messages, for example `[otel] exporter.otlp-http`.
        faults: collects the faults.
        position: the indices of the keys that lead to this table.
        environ: the variables that `${NAME}` refers to; None leaves strings as they are.
        misplaced: returns the fault of a key that belongs in another table, or None.

    """

    def __init__(
        self,
        contents: Mapping[str, Any],
        where: str,
        faults: Faults,
        position: tuple[int, ...] = (),
        environ: Mapping[str, str] | None = None,
        misplaced: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.where = where
        self._contents = contents
        self._order = list(contents)
        self._faults = faults
        self._position = position
        self._environ = environ
        self._misplaced = misplaced
        self._known: set[str] = set()
        # TOML has string keys only, but `from_table` accepts any mapping.
        for key in self._order:
            if not isinstance(key, str):
                self.fault(key, "keys must be strings")

    def __contains__(self, key: str) -> bool:
        return key in self._contents

    def names(self) -> list[str]:
        """Return the keys that are strings, in order."""
        return [key for key in self._order if isinstance(key, str)]

    def declare(self, *keys: str) -> None:
        """Count keys as known, so that `finish` accepts them, and suggests them for unknown ones.

        Every other method declares the key that it reads.
        """
        self._known.update(keys)

    def get(self, key: str) -> Any:
        """Return the value of a key unchecked, or None."""
        self.declare(key)
        return self._contents.get(key)

    def fault(self, key: str, text: str, *, shown: str | None = None) -> None:
        """Add a fault of `key` or of its value. `shown` replaces a key that may hold a secret."""
        path = self._path(key if shown is None else shown)
        self._faults.add(self._position_of(key), f"{path}: {text}")

    def warn(self, key: str, text: str) -> None:
        """Add a warning about `key`, or a fault if reading is strict."""
        self._faults.warn(self._position_of(key), f"{self._path(key)}: {text}")

    def _position_of(self, key: str) -> tuple[int, ...]:
        # A missing key is reported after the keys that are there.
        index = self._order.index(key) if key in self._contents else len(self._order)
        return (*self._position, index)

    def _path(self, key: object) -> str:
        shown = key if isinstance(key, str) and _PLAIN_KEY.fullmatch(key) else repr(key)
        return f"{self.where}{' ' if self.where.endswith(']') else '.'}{shown}"

    def _typed(self, key: str, kind: type) -> Any:
        value = self.get(key)
        if key not in self._contents:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):  # bool is int
            self.fault(key, f"expected {_TYPE_NAMES[kind]}, got {type_name(value)}")
            return None
        return value

    def string(self, key: str, default: str | None = None) -> str | None:
        """Return a string, with `${NAME}` expanded if the reader has an `environ`."""
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
        """Return a boolean, or `default`."""
        value = self._typed(key, bool)
        return default if value is None else value

    def integer(self, key: str, default: int, smallest: int, largest: int) -> int:
        """Return an integer from `smallest` to `largest`, or `default`."""
        value = self._typed(key, int)
        if value is None:
            return default
        if not smallest <= value <= largest:
            self.fault(key, f"expected an integer from {smallest} to {largest}")
        return int(value)

    def choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """Return one of `choices`, or `default`."""
        value = self.string(key, default)
        if value is not None and value not in choices:
            self.fault(key, f"expected one of {', '.join(map(repr, choices))}")
        return value or default

    def table(self, key: str, *, environ: Mapping[str, str] | None = None) -> TableReader | None:
        """Return a reader of the table under `key`, or None if the key is absent or no table."""
        value = self._typed(key, Mapping)
        if value is None:
            return None
        return TableReader(
            value,
            self._path(key),
            self._faults,
            self._position_of(key),
            self._environ if environ is None else environ,
            self._misplaced,
        )

    def finish(self) -> None:
        """Report each key that is not known.

        A misspelt key and a key of another table are faults. Any other key may be a setting of a
        newer Codex CLI, so it is a warning.
        """
        for key in self.names():
            if key in self._known:
                continue
            if (fault := self._misplaced(key)) is not None:
                self.fault(key, fault)
            elif (meant := misspelt(key, self._known)) is not None:
                self.fault(key, f"unknown key; did you mean {meant!r}?")
            elif self._faults.strict:
                self.warn(key, f"unknown key{nearest(key, self._known)}")
            else:
                self.warn(key, f"unknown key, ignored{suggestion(key, self._known)}")


def type_name(value: object) -> str:
    """Return the name of a value's TOML type with its article, such as "an array"."""
    for kind, name in _TYPE_NAMES.items():
        if isinstance(value, kind):
            return name if kind is not bool else "a boolean"
    return type(value).__name__


def plain_settings(table: TableReader, defaults: Any, exporter: str = "") -> dict[str, Any]:
    """Return the booleans, integers and choices of a table, checked against their `Key`s.

    `defaults` is an instance of the settings class. Keys that only another exporter has are not
    read, so that `finish` reports them.
    """
    values: dict[str, Any] = {}
    for each, key in keys_of(type(defaults)):
        default = getattr(defaults, each.name)
        if key.exporter not in (None, exporter):
            continue
        if isinstance(default, bool):  # before int, because a bool is one
            values[each.name] = table.boolean(each.name, default)
        elif isinstance(default, int):
            values[each.name] = table.integer(each.name, default, key.smallest, key.largest)
        elif key.choices:
            values[each.name] = table.choice(each.name, default, key.choices)
    return values
