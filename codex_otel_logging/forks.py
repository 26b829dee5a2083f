"""What a fork must not interrupt, and how a child process notices that it is one.

A child that is forked in the middle of the import of OpenTelemetry could never finish it; one that
is forked while a thread is inside gRPC's C core may abort or hang when it calls gRPC itself. So a
fork waits for either to end. A call that takes long is given up, and made again after the fork.

A child has none of its parent's threads, and what they had locked stays locked: it resets all state
that was theirs. Python's fork hooks do not run where native code forks, as uWSGI does. Therefore
every entry point compares `PROCESS_MARK`, which the kernel clears in a child.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from .native import RLock, get_ident, monotonic, sleep

_PATIENCE_S = 1.0
"""How long a fork waits before it has calls given up."""

_LONGEST_WAIT_S = 5.0
"""How long a fork waits in all, for imports too; then it happens all the same."""

_POLL_S = 0.001

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


class _Sections:
    """The threads that must not be forked from just now, and how to have each give up."""

    def __init__(self) -> None:
        self._registered = False
        self.reset()

    def reset(self) -> None:
        self._lock = RLock()
        self._inside: dict[int, Callable[[], None] | None] = {}
        self._forking = 0

    def enter(self, give_up: Callable[[], None] | None) -> None:
        with self._lock:
            # Who comes while a fork waits would have it wait for ever.
            self._wait_for(lambda: not self._forking, _LONGEST_WAIT_S)
            self._inside[get_ident()] = give_up

    def leave(self) -> None:
        with self._lock:
            self._inside.pop(get_ident(), None)

    def register(self) -> None:
        if self._registered or not hasattr(os, "register_at_fork"):
            return
        with suppress(RuntimeError):  # the interpreter is ending, where it cannot be imported
            import concurrent.futures.thread  # noqa: F401
        self._registered = True
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._after,
            after_in_child=reset_in_child,
        )

    def _before(self) -> None:
        """Wait, and keep everybody out until the fork is done."""
        self._lock.acquire()
        self._forking += 1
        if not self._wait_for(self._is_empty, _PATIENCE_S):
            for give_up in self._inside.values():
                if give_up is not None:
                    give_up()
            self._wait_for(self._is_empty, _LONGEST_WAIT_S - _PATIENCE_S)

    def _after(self) -> None:
        self._forking -= 1
        self._lock.release()

    def _wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for it with the lock released; False when the time is over.

        Polls: a `threading.Condition` makes a lock for each wait, in a process with gevent or
        eventlet one that another thread cannot release. Both waits are rare and short.
        """
        until = monotonic() + timeout_s
        while not predicate():
            if monotonic() >= until:
                return False
            self._lock.release()
            try:
                sleep(_POLL_S)
            finally:
                self._lock.acquire()
        return True

    def _is_empty(self) -> bool:
        return not self._inside.keys() - {get_ident()}


_sections = _Sections()
on_child(_sections.reset)


def register() -> None:
    """Have forks wait from now on; called when a handler is built.

    `concurrent.futures.thread`, which the import of OpenTelemetry uses, has fork hooks of its own,
    and one of them takes a lock. Hooks run in reverse order: ours must be the later one, or a fork
    would hold that lock while it waits for the import. So that module is imported first, and now:
    when a worker starts, another thread may be forking, in the middle of the import or of the
    registration.
    """
    _sections.register()


@contextmanager
def no_fork(give_up: Callable[[], None] | None = None) -> Iterator[None]:
    """Let no fork happen while this thread is inside; `give_up` has it leave soon.

    Not to be nested. `give_up` is called by the thread that forks.
    """
    _sections.enter(give_up)
    try:
        yield
    finally:
        _sections.leave()
