"""How a child process notices that it is one, and starts with fresh state.

A child has none of its parent's threads, and what they had locked stays locked: it resets all state
that was theirs. Python's fork hooks do not run where native code forks, as uWSGI does. Therefore
every entry point compares `PROCESS_MARK`, which the kernel clears in a child.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from ..native import RLock

_MADV_WIPEONFORK = 18
"""Linux 4.14: the pages are zeros in a child, however it is forked. `mmap` has no name for it."""


class _Mark(Protocol):
    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class _ProcessId:
    """A mark for systems that cannot clear memory: true in the process that set it last."""

    _pid = 0

    def __getitem__(self, _index: int) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, _index: int, _value: int) -> None:
        self._pid = os.getpid()


def _new_mark() -> _Mark:
    mark: _Mark = bytearray(1) if not hasattr(os, "fork") else _ProcessId()
    if sys.platform == "linux":
        with suppress(OSError, ValueError):  # an older kernel, or one that only resembles Linux
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=flags)
            page.madvise(_MADV_WIPEONFORK)
            mark = page
    mark[0] = 1
    return mark


PROCESS_MARK = _new_mark()
"""`PROCESS_MARK[0]` is 0 in a child process that has not been reset yet.

Reading it takes some 20 ns, a tenth of what `os.getpid()` takes.
"""

_resets: list[Callable[[], None]] = []
_reset_locks: dict[int, AbstractContextManager[object]] = {}
"""A lock for each process id: nobody can have acquired it in a parent."""


def on_child(reset: Callable[[], None]) -> None:
    """Have `reset` called in every child process, before anything else happens there."""
    _resets.append(reset)


def reset_in_child() -> None:
    """Reset the state that a child process has inherited, once; does nothing in other processes.

    May be called by any thread, at any moment. Waits for another thread that does it already.
    """
    if not PROCESS_MARK[0]:
        with _reset_locks.setdefault(os.getpid(), RLock()):
            if not PROCESS_MARK[0]:
                for reset in _resets:
                    reset()
                PROCESS_MARK[0] = 1
