"""The ends of a process: normal exit, fork, and, for who asks for it, SIGTERM.

Every `BatchProcessor` that may hold events is watched here, weakly: while it holds some, its worker
keeps it alive. The exit hook runs before `logging.shutdown`, which was registered earlier; events
that other exit hooks log in between are flushed by that (see `handler.CodexOtelHandler.flush`).
"""

from __future__ import annotations

import atexit
import os
import signal
import weakref
from types import FrameType

from .batching import BatchProcessor

_watched: weakref.WeakSet[BatchProcessor] = weakref.WeakSet()
_state = {"ending": False}


def watch(processor: BatchProcessor) -> None:
    """Flush this processor when the process ends, and empty it in a forked child."""
    _watched.add(processor)


def is_ending() -> bool:
    """Return whether the exit hook has run: nothing is delivered later than now."""
    return _state["ending"]


def _finish_all() -> None:
    """Deliver what is queued, bounded as `shutdown_timeout_ms` says; Ctrl-C ends the wait."""
    processors = list(_watched)
    for processor in processors:
        processor.nudge()  # all at once, so that their waits overlap
    try:
        for processor in processors:
            processor.finish()
    except KeyboardInterrupt:
        pass  # the second Ctrl-C of an impatient person; what is left has been reported


def _at_exit() -> None:
    _state["ending"] = True
    _finish_all()


def _after_fork_in_child() -> None:
    for processor in list(_watched):
        processor.reset()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def flush_on_sigterm() -> None:
    """Deliver queued events when the process is told to terminate, then let it be terminated.

    Without this, SIGTERM ends Python at once and with it what is queued. Call it once, from the
    main thread, after the application has installed a handler of its own: that one, or the default,
    takes effect when the events are delivered, at the latest after five times
    `shutdown_timeout_ms`. Calling it again changes nothing.

    Raises:
        ValueError: called from another thread than the main one; only that one may set signals.

    """
    previous = signal.getsignal(signal.SIGTERM)
    if getattr(previous, "flushes_events", False):
        return

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        _finish_all()
        for processor in list(_watched):
            processor.resume()
        if callable(previous):
            previous(number, frame)
        elif previous is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    on_sigterm.flushes_events = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, on_sigterm)
