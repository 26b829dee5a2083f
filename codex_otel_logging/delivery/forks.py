"""Detects that this process is a forked child, and resets the state inherited from the parent.

A child has none of its parent's threads, and a lock that one of them held stays locked. Therefore
the child replaces all of that state. Python's fork hooks do not run if native code forks, as uWSGI
does, so every entry point checks `PROCESS_MARK`, which the kernel clears in a child.
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
"""`MADV_WIPEONFORK` (Linux 4.14): a child sees zeros in the page. Not defined in `mmap`."""


class _Mark(Protocol):
    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class _ProcessIdMark:
    """The mark where memory cannot be wiped on fork: true in the process that set it last."""

    _pid = 0

    def __getitem__(self, _index: int) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, _index: int, _value: int) -> None:
        self._pid = os.getpid()


def _new_mark() -> _Mark:
    mark: _Mark = bytearray(1) if not hasattr(os, "fork") else _ProcessIdMark()
    if sys.platform == "linux":
        # Kernels before 4.14, and sandboxes that imitate Linux, reject the advice.
        with suppress(OSError, ValueError):
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=flags)
            page.madvise(_MADV_WIPEONFORK)
            mark = page
    mark[0] = 1
    return mark


PROCESS_MARK = _new_mark()
"""`PROCESS_MARK[0]` is 0 in a child process until `reset_in_child` has run there.

Every logging call reads it, which takes about 20 ns: a tenth of the time of `os.getpid()`.
"""

_resets: list[Callable[[], None]] = []
_reset_locks: dict[int, AbstractContextManager[object]] = {}
"""One lock per process id. A child cannot inherit its own lock in a locked state."""


def on_child(reset: Callable[[], None]) -> None:
    """Register `reset` to run in every child process before this package does anything there.

    Functions run in the order in which they were registered.
    """
    _resets.append(reset)


def reset_in_child() -> None:
    """Reset the inherited state if this is a child process that has not done so yet.

    May be called from any thread at any moment. Blocks while another thread resets the state.
    """
    if not PROCESS_MARK[0]:
        with _reset_locks.setdefault(os.getpid(), RLock()):
            if not PROCESS_MARK[0]:
                for reset in _resets:
                    reset()
                # Last: until the mark is set, other threads wait above instead of using old state.
                PROCESS_MARK[0] = 1
