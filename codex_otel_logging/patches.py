"""Keeps gevent and eventlet from patching while another thread imports.

Both replace functions of `_thread` that the import system is using: an import that another thread
is in the middle of fails then with "cannot release un-acquired lock", never ends, or leaves a half
imported module behind, for the application too. The worker imports OpenTelemetry soon after the
first event, and an application may patch after it. So whoever wants to import one of these
libraries, or more of it as patching does, waits until the worker's import has ended.
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

from .native import allocate_lock, get_ident, sleep, threads_are_greenlets

_LIBRARIES = ("gevent", "eventlet")

_LONGEST_WAIT_S = 5.0
"""How long another thread waits at most."""

_PATCHES_SOON_S = 0.5
"""How long the import waits for a library to patch that has been imported already."""


class _Gate:
    """A finder that finds nothing, but has other threads wait for `imports`.

    Once it is in `sys.meta_path` it stays there: when an entry is removed while another thread
    walks through the list, that thread misses a finder, and its import fails.
    """

    def __init__(self) -> None:
        self.imports: dict[tuple[int, int], Any] = {}
        """A lock, held during an import, by process and thread: a forked child waits for none."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None, later if it must be."""
        if self.imports and name.partition(".")[0] in _LIBRARIES:
            with _released_import_lock():
                for (process, thread), importing in tuple(self.imports.items()):
                    waits = process == os.getpid() and thread != get_ident()
                    if waits and importing.acquire(timeout=_LONGEST_WAIT_S):
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


@contextmanager
def no_patches() -> Iterator[None]:
    """Let gevent and eventlet not begin to patch while this thread is inside."""
    if not threads_are_greenlets() and any(library in sys.modules for library in _LIBRARIES):
        sleep(_PATCHES_SOON_S)
    if threads_are_greenlets() or not any(map(PathFinder.find_spec, _LIBRARIES)):
        yield
        return
    if _gate not in sys.meta_path:
        sys.meta_path.insert(0, _gate)
    key = os.getpid(), get_ident()
    importing = _gate.imports[key] = allocate_lock()
    with importing:
        try:
            yield
        finally:
            del _gate.imports[key]
