"""Makes a fork wait for what it must not interrupt.

A child that is forked in the middle of the import of OpenTelemetry could never finish it; one that
is forked while a thread is inside gRPC's C core may abort or hang when it calls gRPC itself. So a
fork waits for either to end. A call that takes long is given up, and made again after the fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..delivery.forks import on_child, reset_in_child
from ..native import RLock, get_ident, monotonic, sleep

_PATIENCE_S = 1.0
"""How long a fork waits before it has calls given up."""

_LONGEST_WAIT_S = 5.0
"""How long a fork waits in all, for imports too; then it happens all the same."""

_POLL_S = 0.001


class _Sections:
    """The threads that must not be forked from just now, and how to have each give up."""

    def __init__(self) -> None:
        self._registered = False
        self.reset()

    def reset(self) -> None:
        self._lock = RLock()
        self._inside: dict[int, Callable[[], None] | None] = {}
        self._forking = 0

    def enter(self, on_timeout: Callable[[], None] | None) -> None:
        with self._lock:
            # A thread entering now would postpone the fork indefinitely.
            self._wait_for(lambda: not self._forking, _LONGEST_WAIT_S)
            self._inside[get_ident()] = on_timeout

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
            for on_timeout in self._inside.values():
                if on_timeout is not None:
                    on_timeout()
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
def hold_forks(on_timeout: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold forks of other threads while this thread is inside. Not reentrant.

    After `_PATIENCE_S`, the forking thread calls `on_timeout`, which makes this thread leave soon.
    """
    _sections.enter(on_timeout)
    try:
        yield
    finally:
        _sections.leave()
