"""Imports the dictionary of a `MODULE:DICT` reference and configures logging with it."""

from __future__ import annotations

import importlib
import logging
import logging.config
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from ...attachment import is_own
from ...config.tables import ConfigError
from ...text import suggestion


class LoggingDictError(Exception):
    """The dictionary cannot be imported or applied. `faults` holds one line per reason."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class ConfiguredHandler(NamedTuple):
    """A handler of this package and its options in the dictionary."""

    handler: logging.Handler
    options: Mapping[str, Any]


def load(reference: str) -> Mapping[str, Any]:
    """Import a module and return the dictionary in it.

    The current folder is searched too. The module's output goes to standard error, so that it does
    not mix with the JSON of `--json`.

    Raises:
        LoggingDictError: the module or the dictionary is missing, or the import fails.

    """
    name, _, path = reference.partition(":")
    # `python -m` has the current folder in sys.path, a console script does not.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a script without a `__main__` guard may exit
        raise LoggingDictError(f"cannot import {name}: {_reason(error)}") from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            hint = suggestion(attribute, [each for each in dir(found) if each[:1] != "_"])
            raise LoggingDictError(f"{name} has no attribute {attribute!r}{hint}")
        found, name = getattr(found, attribute), f"{name}.{attribute}"
    if not isinstance(found, Mapping):
        raise LoggingDictError(f"{name}: expected a dictionary, got {type(found).__name__}")
    return found


def apply(dictionary: Mapping[str, Any]) -> list[ConfiguredHandler]:
    """Configure logging as `logging.config.dictConfig` does; return this package's handlers.

    Raises:
        LoggingDictError: the dictionary is invalid, or a handler's settings are.

    """
    configurator = _Configurator(dict(dictionary))
    disabled = logging.root.manager.disable
    logging.disable()  # a handler logs warnings about its settings, and `check` prints the same
    try:
        configurator.configure()
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise LoggingDictError(*(f"{error}: {fault}" for fault in cause.faults)) from error
        reason = f"{error}: {_reason(cause)}" if cause else _reason(error)
        raise LoggingDictError(reason) from error
    finally:
        logging.disable(disabled)
    return configurator.ours


class _Configurator(logging.config.DictConfigurator):
    """The configurator of `dictConfig`; also records this package's handlers and their options."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.ours: list[ConfiguredHandler] = []

    def configure_handler(self, config: dict[str, Any]) -> Any:
        # Subscripting resolves references such as cfg://otel. The base method removes keys.
        options = {key: config[key] for key in config}
        handler = super().configure_handler(config)
        if is_own(handler):
            self.ours.append(ConfiguredHandler(handler, options))
        return handler


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "the module exits the program"
    return " ".join(f"{type(error).__name__}: {error}".split())
