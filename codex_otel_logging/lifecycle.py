"""The ends of a process: normal exit, and fork.

Every `BatchProcessor` is watched here, weakly: while it has events, its worker keeps it alive. The
exit hook runs before `logging.shutdown`, which was registered earlier; what other exit hooks log
afterwards is delivered as it is logged. Processes started by `multiprocessing` run no exit hooks
when they end, but finalizers of their own.
"""

from __future__ import annotations

import atexit
import sys
import weakref

from . import attachment, forks, reports
from .batching import BatchProcessor, finish

_watched: weakref.WeakSet[BatchProcessor] = weakref.WeakSet()


class _Process:
    """What has happened in this process so far."""

    ending = False
    has_finalizer = False


def watch(processor: BatchProcessor) -> None:
    """Flush this processor when the process ends, and empty it in a forked child."""
    forks.register()
    _watched.add(processor)


def watched() -> list[BatchProcessor]:
    """Return the processors of this process."""
    return list(_watched)


def is_ending() -> bool:
    """Return whether the exit hook has run: nothing is delivered later than now."""
    return _Process.ending


def worker_starts() -> None:
    """Have events flushed at the end of a process of `multiprocessing`."""
    util = sys.modules.get("multiprocessing.util")
    if util is None or _Process.has_finalizer:
        return
    from multiprocessing.process import parent_process

    if parent_process() is not None:
        _Process.has_finalizer = True
        util.Finalize(None, _at_exit, exitpriority=0)


def _at_exit() -> None:
    _Process.ending = True
    processors = watched()
    finish(processors)
    _report_silence(processors)


def _report_silence(processors: list[BatchProcessor]) -> None:
    """Report once why no handler accepted an event, if what keeps events away is known."""
    if processors and not any(processor.stats().accepted for processor in processors):
        reason = attachment.why_silent()
        if reason is not None:
            reports.warn("no event was logged: %s", reason)


def _reset_in_child() -> None:
    _Process.has_finalizer = False
    for processor in watched():
        processor.reset()


atexit.register(_at_exit)
forks.on_child(_reset_in_child)
