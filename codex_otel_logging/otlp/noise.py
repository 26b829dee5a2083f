"""Keeps what the exporters' libraries write about our exports away from the application.

Only this package's own threads are concerned: what the same libraries log or warn of in the
application's own requests reaches its handlers as ever.
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
    """Silence the libraries that this thread imports and sets up inside."""
    _filter_loggers()
    with suppress_own_records(), _quiet_core(), _quiet_warnings():
        yield


_LIBRARIES = ("opentelemetry", "urllib3", "requests", "grpc", "charset_normalizer")


def _filter_loggers() -> None:
    """Filter our records out of the libraries' loggers: those that exist, and those to come.

    A filter counts only for the very logger that it is added to, so each logger that our import
    creates needs its own, before its first record. `Manager.loggerClass` is the hook for that. It
    stays in place: to restore it would undo what another thread has set meanwhile.
    """
    manager = logging.root.manager
    for name, logger in list(manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LIBRARIES:
            logger.addFilter(_not_own_export)  # a second time changes nothing
    before: Any = manager.loggerClass

    def filtered(name: str) -> logging.Logger:
        logger: logging.Logger = (before or logging.getLoggerClass())(name)
        if is_own_export():
            logger.addFilter(_not_own_export)
        return logger

    if getattr(before, "__module__", "") != __name__:
        manager.loggerClass = filtered  # type: ignore[assignment]


def _not_own_export(_record: logging.LogRecord) -> bool:
    return not is_own_export()


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Show no warning of this thread.

    Not with `warnings.catch_warnings`, which replaces the filters of all threads. Where another
    thread does that meanwhile, it may put our function back later, which then only passes on.
    """
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

    It writes lines about each attempt to connect that fails, and reads how much to write only once.
    An application that has imported gRPC before, or that sets the variable, keeps its own level.
    """
    if "grpc" in sys.modules or os.environ.get(_VERBOSITY):
        yield
        return
    os.environ[_VERBOSITY] = "NONE"
    try:
        yield
    finally:
        os.environ.pop(_VERBOSITY, None)
