"""A one-thread event that can be set from anywhere, including signal handlers and finalizers.

Why not the standard library:

- `queue.SimpleQueue.get` before Python 3.13 forgets its timeout if a signal handler is still
  running when the timeout expires, or if the timeout is close to zero.
- `threading.Event` takes a lock. A signal handler or finalizer that interrupts the thread holding
  that lock would wait for it forever.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from ..native import allocate_lock, monotonic, threads_are_greenlets

LONGEST_WAIT_S = 60.0
"""Upper bound of one wait, in seconds: `acquire` raises `OverflowError` for very long timeouts."""

_POLL_S = 0.005
"""The interval at which a greenlet polls, in seconds."""


class Wakeup:
    """Ends the current wait of one waiting thread, or its next one if it is not waiting."""

    def __init__(self) -> None:
        # A bare lock, locked while the wakeup is not set. Releasing it never blocks.
        self._unset = allocate_lock()
        self._unset.acquire()

    def set(self) -> None:
        """End the wait. Never blocks; safe in any thread, signal handler or finalizer."""
        with suppress(RuntimeError):  # already set
            self._unset.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, then unset it.

        Blocks for at most `timeout_s` or `LONGEST_WAIT_S` seconds, whichever is shorter, and
        returns False if it was not set by then.
        """
        return self._unset.acquire(timeout=min(max(timeout_s, 0.0), LONGEST_WAIT_S))

    def wait_cooperatively(self, timeout_s: float) -> bool:
        """Wait as `wait` does; if threads are greenlets, let other greenlets run meanwhile.

        Polls in that case: gevent and eventlet have different ways for another thread to wake a
        greenlet, but a `threading.Event` that only has to time out works with both.
        """
        if not threads_are_greenlets():
            return self.wait(timeout_s)
        until = monotonic() + min(timeout_s, LONGEST_WAIT_S)
        never = threading.Event()
        while not self.wait(0.0):
            if (left_s := until - monotonic()) <= 0:
                return False
            try:
                never.wait(min(left_s, _POLL_S))
            except Exception:  # this is the event loop's own greenlet, which must not switch
                return self.wait(left_s)
        return True
