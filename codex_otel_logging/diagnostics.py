"""Logs the package's own warnings, and marks the threads whose log records must not be exported.

Warnings go to the logger `codex_otel_logging`. It is not below `codex_otel`, so they are never
events.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from . import attachment
from .native import is_beside_greenlets, is_native_thread

DIAGNOSTICS_LOGGER = "codex_otel_logging"

_logger = logging.getLogger(DIAGNOSTICS_LOGGER)

_pending: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=100)
"""Warnings of threads that must not take the locks of the application's handlers.

A deque, because its methods are atomic. Bounded, in case no thread ever calls `log_pending`.
"""


def warn(message: str, *args: object) -> None:
    """Log a warning. May be called from any thread, and blocks if the application's handlers do.

    Raises no `Exception`, and nothing at all on a thread of this package, whatever the
    application's filters and handlers do. Where threads are greenlets, a warning of the worker
    stays pending until another thread calls `log_pending`.
    """
    if is_beside_greenlets():
        _pending.append((message, args))
        return
    # `dictConfig` and `fileConfig` disable every existing logger that they do not name, by default.
    # That is never intended for this logger, so it is enabled again. Its level can silence it.
    try:
        _logger.disabled = False
        if _logger.isEnabledFor(logging.WARNING):
            _log(
                _logger.makeRecord(
                    DIAGNOSTICS_LOGGER, logging.WARNING, __file__, 0, message, args, None
                )
            )
    except Exception:
        pass
    except BaseException:
        # A handler may call `sys.exit` or `pytest.fail`. On a thread of this package, that would
        # end the exports and nothing else; on any other, it may be Ctrl-C.
        if not is_native_thread():
            raise


def are_pending() -> bool:
    """Return whether warnings are waiting for `log_pending`."""
    return bool(_pending)


def log_pending() -> None:
    """Log the pending warnings, unless the calling thread must not log either."""
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
        # The worker may outlive a stream, such as the one with which pytest captures stderr.
        # Writing to it would print a traceback.
        for handler in handlers:
            if record.levelno >= handler.level and not _is_closed(handler):
                handler.handle(record)
    # This package's handlers ignore the record. If they are the only ones, logging does not use its
    # last resort, and the warning would not appear.
    if handlers and all(map(attachment.is_own, handlers)) and logging.lastResort is not None:
        logging.lastResort.handle(record)


def _is_closed(handler: logging.Handler) -> bool:
    return bool(getattr(getattr(handler, "stream", None), "closed", False))


_exporting = threading.local()


@contextmanager
def suppress_own_records() -> Iterator[None]:
    """Ignore what this thread logs inside the `with` block, where it exports. Blocks may nest."""
    outer = is_own_export()
    _exporting.active = True
    try:
        yield
    finally:
        _exporting.active = outer


def is_own_export() -> bool:
    """Return whether this thread is exporting, so that its log records are ignored, not reported.

    A handler on the root logger also gets the records that the exporters' libraries log while they
    send.
    """
    return getattr(_exporting, "active", False)
