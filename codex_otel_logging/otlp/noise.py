"""Silences the exporters' libraries while they work for this package.

An application's handlers should not receive urllib3's or gRPC's log records about exports. Nothing
changes for the application's own use of these libraries: each record and warning is suppressed by
the thread that causes it.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..diagnostics import is_own_export, suppress_own_records


@contextmanager
def quiet_import() -> Iterator[None]:
    """Silence the libraries that this thread imports and uses inside.

    Loggers of these libraries stay silent for this package's exports afterwards.
    """
    _filter_loggers()
    with suppress_own_records(), _quiet_core(), _quiet_warnings():
        yield


_LIBRARIES = ("opentelemetry", "urllib3", "requests", "grpc", "charset_normalizer")


def _filter_loggers() -> None:
    """Filter records of our exports out of the libraries' loggers, existing and future ones."""
    # Logger filters are not inherited: `logging` asks only the filters of the logger that was
    # called. So every logger that our import creates needs the filter before its first record, and
    # `Manager.loggerClass` is the only hook that comes early enough.
    manager = logging.root.manager
    for name, logger in manager.loggerDict.copy().items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LIBRARIES:
            logger.addFilter(_not_own_export)  # does nothing if it is there already
    original_class: Any = manager.loggerClass

    def filtered(name: str) -> logging.Logger:
        # None means the class of `logging.setLoggerClass`, which may change at any time.
        logger: logging.Logger = (original_class or logging.getLoggerClass())(name)
        if is_own_export():
            logger.addFilter(_not_own_export)
        return logger

    # The hook is never removed: restoring the attribute would undo a change that another thread has
    # made meanwhile. A second hook would only add a call, so an existing one is kept.
    if getattr(original_class, "__module__", "") != __name__:
        manager.loggerClass = filtered  # type: ignore[assignment]


def _not_own_export(_record: logging.LogRecord) -> bool:
    return not is_own_export()


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Hide warnings that this thread causes inside."""
    # `warnings.catch_warnings` would replace the filters of all threads. If another thread uses it
    # meanwhile, it may restore `show_others` after this context has ended; that is harmless, as
    # `show_others` then passes every warning on.
    show = warnings.showwarning

    def show_others(*args: Any, **kwargs: Any) -> None:
        if not is_own_export():
            show(*args, **kwargs)

    warnings.showwarning = show_others
    try:
        yield
    finally:
        if warnings.showwarning is show_others:
            warnings.showwarning = show


_VERBOSITY = "GRPC_VERBOSITY"
"""https://github.com/grpc/grpc/blob/master/doc/environment_variables.md"""


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Keep gRPC's C core, which is about to be imported, from writing to stderr.

    An application that has already imported gRPC, or that sets the variable, keeps its own level.
    """
    # The core writes lines to stderr for each failed attempt to connect. It reads the variable only
    # once, when it is loaded, so the variable is removed afterwards: no child process inherits it.
    if "grpc" in sys.modules or os.environ.get(_VERBOSITY):
        yield
        return
    os.environ[_VERBOSITY] = "NONE"
    try:
        yield
    finally:
        os.environ.pop(_VERBOSITY, None)
