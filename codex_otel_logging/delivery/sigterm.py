"""Opt-in: flush queued events before SIGTERM terminates the process.

A module of its own, imported when it is asked for: `signal` takes a while.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from .. import diagnostics
from ..native import NativeThread, allocate_lock
from .flushing import flush_at_exit
from .lifecycle import watched
from .wakeup import Wakeup

_PATIENCE_S = 0.5
"""How long a signal's handler waits without progress before it lets the application go on."""


def flush_on_sigterm() -> None:
    """Deliver queued events when the process is told to terminate, then let it be terminated.

    Without this, SIGTERM ends Python at once and with it what is queued. Call it once, from the
    main thread, after the application has installed a handler of its own: that one, or the default,
    takes effect when the events are delivered, or after `shutdown_timeout_ms` without progress, at
    the latest after five times that. Calling it again changes nothing.

    Raises:
        ValueError: called from another thread than the main one; only that one may set signals.

    """
    previous = signal.getsignal(signal.SIGTERM)
    if not isinstance(previous, _FlushFirst):
        signal.signal(signal.SIGTERM, _FlushFirst(previous))


class _FlushFirst:
    """A signal's handler that has events delivered before the one that was there takes effect.

    It waits for the delivery as long as that makes progress. Without, the frame that it interrupted
    may hold what the worker needs (the lock of a queue, of a handler, of an import); so it returns,
    and the thread that delivers sends the signal again when it has done what it can. Until then,
    the same signal changes nothing.
    """

    def __init__(self, previous: Any) -> None:
        self._previous = previous
        self._delivering_in = 0  # a process id: a child that is forked meanwhile is not waiting
        self._delivered = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._delivering_in == os.getpid():
            return
        if not self._delivered and not self._deliver(number):
            return
        self._delivered = False
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _deliver(self, number: int) -> bool:
        """Return True when events are delivered, or False: then the signal will come again."""
        workers = watched()
        done = Wakeup()
        first = allocate_lock()  # taken by who is first: the thread done, or we impatient

        def deliver() -> None:
            flush_at_exit(workers, for_good=False)
            self._delivered = True
            self._delivering_in = 0
            done.set()
            if not first.acquire(blocking=False):
                os.kill(os.getpid(), number)

        self._delivering_in = os.getpid()
        try:
            # Unknown to `threading`: the interrupted frame may be just starting a thread.
            NativeThread(deliver, "codex_otel_logging SIGTERM").start(listed=False)
        except RuntimeError:  # Python starts no threads any more
            self._delivering_in = 0
            flush_at_exit(workers, for_good=False)
            return True
        progress = -1
        while progress != (progress := sum(worker.queue.settled for worker in workers)):
            if done.wait(_PATIENCE_S):
                break
        diagnostics.log_pending()
        return not first.acquire(blocking=False)
