"""The ends of a process: normal exit, fork, and, for who asks for it, SIGTERM.

Every `BatchProcessor` is watched here, weakly: while it has events, its worker keeps it alive. The
exit hook runs before `logging.shutdown`, which was registered earlier; what other exit hooks log
afterwards is delivered as it is logged. Processes started by `multiprocessing` run no exit hooks
when they end, but finalizers of their own.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import weakref
from types import FrameType

from .batching import BatchProcessor, finish
from .exporters import import_lock

_FORK_WAIT_S = 5.0
"""How long a fork waits at most for OpenTelemetry's import to end."""

_watched: weakref.WeakSet[BatchProcessor] = weakref.WeakSet()


class _Process:
    """What has happened in this process so far."""

    ending = False
    has_finalizer = False
    fork_holds_import_lock = False


def watch(processor: BatchProcessor) -> None:
    """Flush this processor when the process ends, and empty it in a forked child."""
    _watched.add(processor)


def is_ending() -> bool:
    """Return whether the exit hook has run: nothing is delivered later than now."""
    return _Process.ending


def worker_starts() -> None:
    """Have events flushed at the end of a process that `multiprocessing` started."""
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


def _before_fork() -> None:
    _Process.fork_holds_import_lock = import_lock.acquire(timeout=_FORK_WAIT_S)


def _after_fork() -> None:
    if _Process.fork_holds_import_lock:
        import_lock.release()


def _after_fork_in_child() -> None:
    _after_fork()
    _Process.has_finalizer = False
    for processor in list(_watched):
        processor.reset()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )


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
    if getattr(previous, "flushes_events", False):
        return

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        finish(list(_watched), for_good=False)
        if callable(previous):
            previous(number, frame)
        elif previous is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    on_sigterm.flushes_events = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, on_sigterm)
