"""Keeps the import of OpenTelemetry and the patches of gevent and eventlet from crossing.

Both libraries replace functions of `_thread` that the import system uses. An import that another
thread is in the middle of then fails with "cannot release un-acquired lock", never ends, or leaves
a half imported module behind, for the application too. And afterwards a greenlet that needs what
another thread is importing waits for a greenlet of that thread, and may never be woken.

So where such a library is imported already, the thread that logs the first event imports
OpenTelemetry before it starts the worker. Elsewhere the worker imports it, and a thread that
imports such a library meanwhile, to patch, waits until the worker's import has ended.
"""

from __future__ import annotations

import _imp
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from ..diagnostics import is_own_export
from ..native import allocate_lock

_LIBRARIES = ("gevent", "eventlet")

_LONGEST_WAIT_S = 5.0
"""How long another thread waits at most."""


class _Gate:
    """A finder that finds nothing, but has other threads wait for `imports`.

    Once it is in `sys.meta_path` it stays there: when an entry is removed while another thread
    walks through the list, that thread misses a finder, and its import fails.
    """

    def __init__(self) -> None:
        self.imports: dict[tuple[int, int], Any] = {}
        """A lock, held until an import ends, by process and key: a forked child waits for none."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None, later if it must be."""
        if self.imports and name.partition(".")[0] in _LIBRARIES and not is_own_export():
            with _released_import_lock():
                for (process, _), importing in tuple(self.imports.items()):
                    if process == os.getpid() and importing.acquire(timeout=_LONGEST_WAIT_S):
                        importing.release()
        return None


_gate = _Gate()


@contextmanager
def _released_import_lock() -> Iterator[None]:
    """Release the lock that finders are called with; the other thread's import needs it as well."""
    try:
        _imp.release_lock()
    except RuntimeError:  # not called by the import statement
        yield
        return
    try:
        yield
    finally:
        _imp.acquire_lock()


def may_happen_now() -> bool:
    """Return whether the application has imported a library that patches, or has patched."""
    return any(library in sys.modules for library in _LIBRARIES)


def hold_back(key: int) -> None:
    """Make threads that import a library that patches wait for `let_go`, for a while."""
    if (os.getpid(), key) in _gate.imports or not any(map(PathFinder.find_spec, _LIBRARIES)):
        return
    if _gate not in sys.meta_path:
        sys.meta_path.insert(0, _gate)
    importing = allocate_lock()
    importing.acquire()
    _gate.imports[os.getpid(), key] = importing


def let_go(key: int) -> None:
    """End the wait of the threads that `key` holds back, if any."""
    importing = _gate.imports.pop((os.getpid(), key), None)
    if importing is not None:
        importing.release()
