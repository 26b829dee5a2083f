"""Selects the settings that `check` shows: which file or table, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...config.otel_config import OtelConfig
from ...config.tables import ConfigError
from ...config.toml_file import OtelFile
from .logging_dict import ConfiguredHandler

Kind = Literal["argument", "CODEX_HOME", "default", "logging"]

_PACKAGE = __name__.partition(".")[0]


class Source(NamedTuple):
    """An `[otel]` table as written, the settings parsed from it, and why it was selected."""

    file: OtelFile
    config: OtelConfig
    kind: Kind
    why: str


def source_of(
    path: str | None, reference: str | None, handlers: Sequence[ConfiguredHandler]
) -> Source:
    """Return the settings of `path`, or else of the first of `handlers`, or else of Codex's file.

    Args:
        path: the file named on the command line, if any.
        reference: the logging dictionary named on the command line, if any.
        handlers: this package's handlers in that dictionary.

    Raises:
        ConfigError: the settings are invalid or cannot be read.

    """
    if path is not None:
        return _from_file(OtelFile.read(path), "argument", "Named on the command line")
    for each in handlers:
        file = _file_of(each, reference or "")
        if file is not None:
            why = f"The settings of the handler {each.handler.name!r} in {reference}"
            return _from_file(file, "logging", why)
    kind: Kind = "default"
    why = "The default, because CODEX_HOME is not set"
    if os.environ.get("CODEX_HOME"):
        kind, why = "CODEX_HOME", "From the folder in CODEX_HOME"
    # There is a handler, but its factory is the application's own.
    if handlers:
        why += f"; the settings of the handler in {reference} are not accessible"
    return _from_file(OtelFile.read(), kind, why)


def _from_file(file: OtelFile, kind: Kind, why: str) -> Source:
    return Source(file, OtelConfig.from_file(file), kind, why)


def _file_of(configured: ConfiguredHandler, reference: str) -> OtelFile | None:
    """Return the settings of a handler, or None if the application's own factory builds it.

    Such a factory may compute the settings, so its options say nothing about them.
    """
    options = configured.options
    factory = options.get("()", options.get("class"))
    name = factory if isinstance(factory, str) else f"{factory.__module__}.{factory.__qualname__}"
    if name.partition(".")[0] != _PACKAGE:
        return None
    # The arguments of `from_table`, `from_toml` and `CodexOtelHandler`.
    found: Any = options.get("otel", options.get("path", options.get("config")))
    if found is None and not name.endswith("from_toml"):
        found = {}  # `CodexOtelHandler` without settings has the defaults
    if isinstance(found, OtelConfig):
        return None  # already parsed: the table as written is not available
    if isinstance(found, Mapping):
        return OtelFile(f"{reference}: {configured.handler.name}", Path(), found)
    return OtelFile.read(found, missing_ok=bool(options.get("missing_ok")))


def shell_advice(error: ConfigError, command: str = "check") -> Sequence[str]:
    """Return the faults of an error, with advice for a shell instead of advice for code.

    A missing file's own message suggests an argument of `from_toml`.
    """
    if isinstance(error.__context__, FileNotFoundError):
        what = error.faults[0].rpartition("; ")[0]
        return [f"{what}; create it, or add the path of another file to the command"]
    return error.faults
