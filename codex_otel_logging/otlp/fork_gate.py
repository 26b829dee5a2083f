"""The fork gate: makes a fork wait for operations that it must not interrupt.

A child forked during the import of OpenTelemetry can never finish that import. A child forked while
a thread is inside gRPC's C core may abort or hang when it calls gRPC itself. So a fork waits for
imports and calls in progress. A call that takes long is cancelled, and repeated after the fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..delivery.forks import on_child, reset_in_child
from ..native import RLock, get_ident, monotonic, sleep

_CANCEL_AFTER_S = 1.0
"""How long a fork waits before it cancels calls."""

_MAX_WAIT_S = 5.0
"""How long a fork waits in total. An import cannot be cancelled; after this time the process forks
anyway, because an application that hangs in `fork` is worse than a child that cannot export."""

_POLL_S = 0.001


class _ForkGate:
    """The threads that hold forks, each with a function that cancels what it is doing."""

    def __init__(self) -> None:
        self._registered = False
        self.reset()

    def reset(self) -> None:
        # Also called in a child, where the lock may be held by a thread that does not exist there.
        self._lock = RLock()
        self._inside: dict[int, Callable[[], None] | None] = {}
        self._forking = 0

    def enter(self, on_timeout: Callable[[], None] | None) -> None:
        with self._lock:
            # A thread entering now would postpone the fork indefinitely.
            self._wait_for(lambda: not self._forking, _MAX_WAIT_S)
            self._inside[get_ident()] = on_timeout

    def leave(self) -> None:
        with self._lock:
            self._inside.pop(get_ident(), None)

    def register(self) -> None:
        if self._registered or not hasattr(os, "register_at_fork"):
            return
        # `concurrent.futures.thread`, which the import of OpenTelemetry uses, has fork hooks of its
        # own; one of them takes a lock. `before` hooks run in reverse order of registration. Ours
        # must be registered later, so that it runs first: otherwise the fork would hold that lock
        # while it waits for an import that needs it.
        with suppress(RuntimeError):  # this module cannot be imported at interpreter shutdown
            import concurrent.futures.thread  # noqa: F401
        self._registered = True
        os.register_at_fork(
            before=self._close,
            after_in_parent=self._reopen,
            after_in_child=reset_in_child,
        )

    def _close(self) -> None:
        """Wait until no other thread is inside, and keep all threads out until `_reopen`."""
        self._lock.acquire()
        self._forking += 1
        if not self._wait_for(self._is_empty, _CANCEL_AFTER_S):
            for on_timeout in self._inside.values():
                if on_timeout is not None:
                    on_timeout()
            self._wait_for(self._is_empty, _MAX_WAIT_S - _CANCEL_AFTER_S)
        # The lock stays held across the fork, so that no thread enters before the child exists.

    def _reopen(self) -> None:
        self._forking -= 1
        self._lock.release()

    def _wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for the predicate; return False at the timeout.

        The caller holds the lock. It is released while waiting.
        """
        deadline = monotonic() + timeout_s
        while not predicate():
            if monotonic() >= deadline:
                return False
            # Polls instead of using a `threading.Condition`: that creates a lock for each wait,
            # which another thread cannot release in a process with gevent or eventlet. These waits
            # are rare and short.
            self._lock.release()
            try:
                sleep(_POLL_S)
            finally:
                self._lock.acquire()
        return True

    def _is_empty(self) -> bool:
        # A thread that forks while it is inside must not wait for itself.
        return not self._inside.keys() - {get_ident()}


_gate = _ForkGate()
on_child(_gate.reset)


def register() -> None:
    """Make forks wait from now on. Call it when a handler is built; further calls do nothing.

    A worker's start would be too late: another thread may be forking at that moment.
    """
    _gate.register()


@contextmanager
def hold_forks(on_timeout: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold forks of other threads while this thread is inside. Not reentrant.

    While another thread forks, entering blocks, for at most five seconds.

    Args:
        on_timeout: called by a thread that has waited for a second to fork. It must make this
            thread leave soon. None if that is impossible.

    """
    _gate.enter(on_timeout)
    try:
        yield
    finally:
        _gate.leave()
