"""How one thread wakes another.

Not a `queue.SimpleQueue`, whose `get` forgets its timeout on Python before 3.13 when a signal's
handler runs until after it, or when there was next to no time. Not a `threading.Event` either: it
takes a lock, with which a signal's handler or a finalizer would wait for the thread that it
interrupted.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from ..native import allocate_lock, monotonic, threads_are_greenlets

LONGEST_WAIT_S = 60.0
"""What a longer wait is cut to: there are times that are too long for Python."""

_POLL_S = 0.005
"""How often a greenlet looks whether it is set."""


class Wakeup:
    """Ends the wait of the one thread that waits for it, or else its next one."""

    def __init__(self) -> None:
        self._unset = allocate_lock()
        self._unset.acquire()

    def set(self) -> None:
        """End the wait. Never blocks; to be called by any thread, and in the middle of anything."""
        with suppress(RuntimeError):  # it is set already
            self._unset.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, then unset it; False when the time was over, or a minute."""
        return self._unset.acquire(timeout=min(max(timeout_s, 0.0), LONGEST_WAIT_S))

    def wait_cooperatively(self, timeout_s: float) -> bool:
        """Wait as `wait` does, but where threads are greenlets, let the others run meanwhile.

        Polls there: how another thread wakes a greenlet differs between gevent and eventlet, and an
        event of `threading`, which is theirs, only has to time out.
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
            except Exception:  # called by the event loop itself, which cannot run meanwhile
                return self.wait(left_s)
        return True
