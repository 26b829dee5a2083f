"""The package's own log messages, and the marker that keeps exports from feeding back.

The messages go to the logger `codex_otel_logging`. That name is not below `codex_otel`, so these
are never events.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from . import attachment
from .native import is_beside_greenlets

DIAGNOSTICS_LOGGER = "codex_otel_logging"

_logger = logging.getLogger(DIAGNOSTICS_LOGGER)

_pending: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=100)
"""What a thread has to say that must not take the locks of the application's handlers."""


def warn(message: str, *args: object) -> None:
    """Log a warning, in any thread; blocks only as the application's own handlers do.

    Where threads are greenlets, what the worker has to say waits for `log_pending`.

    `dictConfig` and `fileConfig` disable the loggers that exist and that they do not name, unless
    told otherwise. That is never intended for this logger, so it is enabled again; to silence it,
    raise its level. Never raises, whatever the application's filters and handlers do.
    """
    if is_beside_greenlets():
        _pending.append((message, args))
        return
    with suppress(Exception):
        _logger.disabled = False
        if _logger.isEnabledFor(logging.WARNING):
            _log(
                _logger.makeRecord(
                    DIAGNOSTICS_LOGGER, logging.WARNING, __file__, 0, message, args, None
                )
            )


def are_pending() -> bool:
    """Return whether warnings wait to be logged by a thread of the application."""
    return bool(_pending)


def log_pending() -> None:
    """Log the warnings that wait, unless this thread must not either."""
    if not is_beside_greenlets():
        with suppress(IndexError):  # another thread may take them at the same time
            while _pending:
                message, args = _pending.popleft()
                warn(message, *args)


def _log(record: logging.LogRecord) -> None:
    handlers = [handler for _, handler in attachment.handlers_of(DIAGNOSTICS_LOGGER)]
    if not any(map(_is_closed, handlers)):
        _logger.handle(record)
    elif _logger.filter(record):
        # The worker may outlive a stream, such as pytest's: logging would print a traceback.
        for handler in handlers:
            if record.levelno >= handler.level and not _is_closed(handler):
                handler.handle(record)
    # Our handlers ignore what is not an event. Where there are no others, logging believes that
    # the record is taken care of, and nobody would see it.
    if handlers and all(map(attachment.is_own, handlers)) and logging.lastResort is not None:
        logging.lastResort.handle(record)


def _is_closed(handler: logging.Handler) -> bool:
    return bool(getattr(getattr(handler, "stream", None), "closed", False))


_exporting = threading.local()


@contextmanager
def suppress_own_records() -> Iterator[None]:
    """Mark what this thread does inside as caused by our own export; may be nested."""
    outer = is_own_export()
    _exporting.active = True
    try:
        yield
    finally:
        _exporting.active = outer


def is_own_export() -> bool:
    """Return whether this thread is exporting; its own log records are then ignored."""
    return getattr(_exporting, "active", False)
