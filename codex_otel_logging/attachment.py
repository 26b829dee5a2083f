"""Finds this package's handlers in the tree of loggers, and what keeps events from them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator

from .config.settings import ExporterConfig

EVENT_LOGGER = "codex_otel"
"""The logger for events. Its child loggers are for events, too."""

_exporters: weakref.WeakKeyDictionary[logging.Handler, ExporterConfig | None]
_exporters = weakref.WeakKeyDictionary()
"""The existing handlers of this package, and the exporter of each."""

_reported: weakref.WeakSet[logging.Handler] = weakref.WeakSet()
"""Handlers that have been reported as exporting events twice."""


def register(handler: logging.Handler, exporter: ExporterConfig | None) -> None:
    """Register a handler of this package, for as long as it exists."""
    _exporters[handler] = exporter


def is_own(handler: logging.Handler) -> bool:
    """Return whether a handler belongs to this package."""
    return handler in _exporters


def exporter_of(handler: logging.Handler) -> ExporterConfig | None:
    """Return the exporter of a handler of this package, or None if it exports nothing."""
    return _exporters[handler]


def handlers_of(name: str) -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Yield each handler that records of the logger `name` reach, with the handler's logger.

    If the logger does not exist, its nearest existing ancestor counts.
    """
    logger: logging.Logger | None = _existing_logger(name)
    while logger is not None:
        for handler in list(logger.handlers):  # another thread may reconfigure logging meanwhile
            yield logger, handler
        logger = logger.parent if logger.propagate else None


def _existing_logger(name: str) -> logging.Logger:
    """Return the logger `name` or its nearest existing ancestor."""
    # `getLogger` would create the logger, which then appears in the application's tree.
    while name:
        logger = logging.root.manager.loggerDict.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return logging.root


def why_exported_twice(name: str) -> str | None:
    """Return what exports records of the logger `name` twice to one destination, and how to fix it.

    Returns None if nothing does, or if the same handlers have been reported before.
    """
    own = [(logger, handler) for logger, handler in handlers_of(name) if is_own(handler)]
    for _, first in own:
        # Equal exporters have the same destination: endpoint, headers and all.
        exporter = exporter_of(first)
        found = [(logger, handler) for logger, handler in own if exporter_of(handler) == exporter]
        if exporter is None or len(found) == 1 or first in _reported:
            continue
        _reported.update(handler for _, handler in found)
        loggers = " and ".join(repr(logger.name) for logger, _ in found)
        return (
            f"events of logger {name!r} are exported {len(found)} times, through handlers on "
            f"{loggers}; attach one handler to {EVENT_LOGGER!r} only"
        )
    return None


def why_silent() -> str | None:
    """Return what keeps events from reaching any handler and how to fix it, or None."""
    # The checks are in the order of `Logger.isEnabledFor`, so the first one that fails is the
    # cause.
    logger = logging.getLogger(EVENT_LOGGER)
    if logger.disabled:
        return (
            f"logger {EVENT_LOGGER!r} is disabled; name it in the logging configuration, or "
            "set disable_existing_loggers to False"
        )
    if logging.root.manager.disable >= logging.INFO:
        return "logging.disable() suppresses INFO; call logging.disable(logging.NOTSET)"
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() > logging.INFO:
        level = logging.getLevelName(logger.getEffectiveLevel())
        return f"logger {EVENT_LOGGER!r} inherits level {level}; set its level to INFO"
    for name, each in sorted(logging.root.manager.loggerDict.copy().items()):
        if isinstance(each, logging.Logger) and _is_misnamed(name):
            return (
                f"logger {name!r} is not under {EVENT_LOGGER!r}; "
                f"rename it to '{EVENT_LOGGER}.<name>'"
            )
    return None


def _is_misnamed(name: str) -> bool:
    """Return whether a logger seems to be meant for events, such as "codex.app" or "CodexOtel"."""
    first = name.partition(".")[0]
    plain = first.casefold().replace("-", "").replace("_", "")
    return plain in ("codex", "codexotel") and first != EVENT_LOGGER
