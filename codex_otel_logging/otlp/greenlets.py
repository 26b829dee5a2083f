"""Keeps gevent and eventlet from patching Python while the worker imports OpenTelemetry.

Both libraries replace functions of `_thread` that the import system uses. An import in progress on
another thread then fails with "cannot release un-acquired lock", never ends, or leaves a partially
imported module behind, for the application as well. After patching, a greenlet that needs a module
that another thread is importing waits for a greenlet of that thread, and may never wake up.

If such a library is already imported, OpenTelemetry is imported on an application thread: when the
handler is built, or at the first event if the library came later. Otherwise the worker imports
OpenTelemetry, and a thread that imports such a library meanwhile waits until the worker's import is
complete. Importing comes before patching, so that wait is early enough.
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

_MAX_WAIT_S = 5.0
"""How long another thread waits for one import of the worker."""


class _ImportGate:
    """A finder on `sys.meta_path` that finds nothing, but delays imports of `_LIBRARIES`."""

    def __init__(self) -> None:
        self.imports: dict[tuple[int, int], Any] = {}
        """Locks held while the worker imports, by process id and key.

        The process id is there for forked children: the worker, which would release the lock, does
        not exist in a child.
        """

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None: for `_LIBRARIES` after the worker's imports, otherwise at once."""
        # The worker must not wait for its own import, in case one of its libraries imports gevent.
        if self.imports and name.partition(".")[0] in _LIBRARIES and not is_own_export():
            with _released_import_lock():
                for (process, _), importing in tuple(self.imports.items()):
                    if process == os.getpid() and importing.acquire(timeout=_MAX_WAIT_S):
                        importing.release()
        return None


_gate = _ImportGate()


@contextmanager
def _released_import_lock() -> Iterator[None]:
    """Release the global import lock inside.

    Python holds it while it calls finders, and the worker's import needs it to go on.
    """
    try:
        _imp.release_lock()
    except RuntimeError:  # not held: `find_spec` was called directly, not by an import
        yield
        return
    try:
        yield
    finally:
        _imp.acquire_lock()


def is_patching_library_imported() -> bool:
    """Return whether the application has imported gevent or eventlet, and so may have patched."""
    return any(library in sys.modules for library in _LIBRARIES)


def hold_imports(key: int) -> None:
    """Make other threads that import gevent or eventlet wait for `release_imports`.

    They wait for at most five seconds. Does nothing if neither library is installed.
    """
    if (os.getpid(), key) in _gate.imports or not any(map(PathFinder.find_spec, _LIBRARIES)):
        return
    # Never removed again. If an entry is removed while another thread iterates over the list, that
    # thread skips a finder, and its import fails.
    if _gate not in sys.meta_path:
        sys.meta_path.insert(0, _gate)
    importing = allocate_lock()
    importing.acquire()
    _gate.imports[os.getpid(), key] = importing


def release_imports(key: int) -> None:
    """End the wait that `hold_imports` began with this key, if any."""
    importing = _gate.imports.pop((os.getpid(), key), None)
    if importing is not None:
        importing.release()
