"""The ends of a process: normal exit, fork, and, for who asks for it, SIGTERM.

Every `BatchProcessor` is watched here, weakly: while it has events, its worker keeps it alive. The
exit hook runs before `logging.shutdown`, which was registered earlier; what other exit hooks log
afterwards is delivered as it is logged. Processes started by `multiprocessing` run no exit hooks
when they end, but finalizers of their own.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from . import forks
from .batching import BatchProcessor, finish

_PATIENCE_S = 0.5
"""How long a signal's handler waits without progress before it lets the application go on."""

_watched: weakref.WeakSet[BatchProcessor] = weakref.WeakSet()


class _Process:
    """What has happened in this process so far."""

    ending = False
    has_finalizer = False


def watch(processor: BatchProcessor) -> None:
    """Flush this processor when the process ends, and empty it in a forked child."""
    _watched.add(processor)


def is_ending() -> bool:
    """Return whether the exit hook has run: nothing is delivered later than now."""
    return _Process.ending


def worker_starts() -> None:
    """Have forks wait, and events flushed at the end of a process of `multiprocessing`."""
    forks.worker_starts()
    util = sys.modules.get("multiprocessing.util")
    if util is None or _Process.has_finalizer:
        return
    from multiprocessing.process import parent_process

    if parent_process() is not None:
        _Process.has_finalizer = True
        util.Finalize(None, _at_exit, exitpriority=0)


def _at_exit() -> None:
    _Process.ending = True
    finish(list(_watched))


def _after_fork_in_child() -> None:
    _Process.has_finalizer = False
    for processor in list(_watched):
        processor.reset()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


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
        processors = list(_watched)
        done: SimpleQueue[None] = SimpleQueue()
        first = _thread.allocate_lock()  # taken by who is first: the thread done, or we impatient

        def deliver() -> None:
            finish(processors, for_good=False)
            self._delivered = True
            self._delivering_in = 0
            done.put(None)
            if not first.acquire(blocking=False):
                os.kill(os.getpid(), number)

        self._delivering_in = os.getpid()
        try:
            # Not a `threading.Thread`: the interrupted frame may be just starting one.
            _thread.start_new_thread(deliver, ())
        except RuntimeError:  # Python starts no threads any more
            self._delivering_in = 0
            finish(processors, for_good=False)
            return True
        progress = -1
        while progress != (progress := sum(p.settled for p in processors)):
            with suppress(Empty):
                done.get(timeout=_PATIENCE_S)
                break
        return not first.acquire(blocking=False)
