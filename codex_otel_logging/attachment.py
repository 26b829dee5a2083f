"""Where this package's handlers are attached in the tree of loggers, and what keeps events away."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator

from .config.settings import ExporterConfig

EVENT_LOGGER = "codex_otel"
"""The logger whose records, and those of the loggers below it, are events."""

_exporters: weakref.WeakKeyDictionary[logging.Handler, ExporterConfig | None]
_exporters = weakref.WeakKeyDictionary()
"""The handlers of this package that exist, and what each one exports through."""

_reported: weakref.WeakSet[logging.Handler] = weakref.WeakSet()
"""The handlers that were reported as attached twice."""


def register(handler: logging.Handler, exporter: ExporterConfig | None) -> None:
    """Remember a handler of this package, for as long as it exists."""
    _exporters[handler] = exporter


def is_own(handler: logging.Handler) -> bool:
    """Return whether a handler is one of this package's."""
    return handler in _exporters


def exporter_of(handler: logging.Handler) -> ExporterConfig | None:
    """Return what a handler of this package exports through, or None if it exports nothing."""
    return _exporters[handler]


def handlers_of(name: str) -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Yield the handlers that the records of the logger `name` reach, each with its logger.

    A logger that does not exist has the handlers of its nearest ancestor that does.
    """
    logger: logging.Logger | None = _existing(name)
    while logger is not None:
        for handler in list(logger.handlers):
            yield logger, handler
        logger = logger.parent if logger.propagate else None


def _existing(name: str) -> logging.Logger:
    """Return the logger `name` or its nearest ancestor that exists; creates none."""
    while name:
        logger = logging.root.manager.loggerDict.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return logging.root


def attached_twice(name: str) -> str | None:
    """Return what is wrong if records of the logger `name` are exported twice to one place.

    None if they are not, and the second time that it is asked about the same handlers.
    """
    own = [(logger, handler) for logger, handler in handlers_of(name) if is_own(handler)]
    for _, first in own:
        exporter = exporter_of(first)
        found = [(lo, h) for lo, h in own if exporter_of(h) == exporter]
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
    """Return what keeps events from every handler, with what to do, or None if nothing does."""
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
    for name, each in sorted(logging.root.manager.loggerDict.items()):
        if isinstance(each, logging.Logger) and _is_misnamed(name):
            return (
                f"logger {name!r} is not under {EVENT_LOGGER!r}; "
                f"rename it to '{EVENT_LOGGER}.<name>'"
            )
    return None


def _is_misnamed(name: str) -> bool:
    """Return whether a logger's name looks like one that was meant for events."""
    family = name.partition(".")[0].casefold().replace("-", "").replace("_", "")
    return family in ("codex", "codexotel") and name.partition(".")[0] != EVENT_LOGGER
