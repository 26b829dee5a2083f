"""The ends of a process: normal exit, and fork.

Every `BatchProcessor` is watched here, weakly: while it has events, its worker keeps it alive. The
exit hook runs before `logging.shutdown`, which was registered earlier; what other exit hooks log
afterwards is delivered as it is logged. Processes started by `multiprocessing`, or by a package
derived from it, run no exit hooks when they end, but finalizers of their own.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from contextlib import suppress

from .. import attachment, diagnostics
from . import forks, uwsgi
from .batching import BatchProcessor, finish

_watched: list[weakref.ref[BatchProcessor]] = []
"""The processors that exist, and some that did.

Not a `WeakSet`: iterating one raises `RuntimeError` if another thread adds to it at that moment. A
list can be copied at any moment.
"""


_LIKE_MULTIPROCESSING = ("multiprocessing", "multiprocess", "billiard")
"""Packages whose processes run finalizers instead of exit hooks; loky uses the first one's."""


class _Process:
    """What has happened in this process so far."""

    ending = False
    has_finalizer = False
    heirs: uwsgi.Heirs | None = None
    """Exists where no worker may be started, and a child inherits what is queued."""


def watch(processor: BatchProcessor) -> None:
    """Flush this processor when the process ends, and empty it in a forked child."""
    for reference in _watched.copy():
        if reference() is None:
            with suppress(ValueError):  # another thread has removed it
                _watched.remove(reference)
    _watched.append(weakref.ref(processor))


def watched() -> list[BatchProcessor]:
    """Return the processors of this process."""
    references = _watched.copy()
    return [found for reference in references if (found := reference()) is not None]


def is_ending() -> bool:
    """Return whether the exit hook has run: nothing is delivered later than now."""
    return _Process.ending


def worker_starts() -> None:
    """Prepare the process for a worker, which is about to be started.

    Raises:
        RuntimeError: the process must not have another thread.

    """
    if uwsgi.is_master_without_hooks():
        _Process.heirs = _Process.heirs or uwsgi.Heirs()
        raise RuntimeError("uWSGI's master process must have no other thread when it forks")
    if not _Process.has_finalizer and (package := _started_by()) is not None:
        _Process.has_finalizer = True
        sys.modules[f"{package}.util"].Finalize(None, _at_exit, exitpriority=0)


def _started_by() -> str | None:
    """Return which package like `multiprocessing` started this process, if one did."""
    for package in _LIKE_MULTIPROCESSING:
        process = sys.modules.get(f"{package}.process")
        # billiard has no `parent_process()`; all three have this attribute, None in a main process.
        if process is not None and process.current_process()._parent_pid is not None:
            return package
    return None


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
            diagnostics.warn("no event was logged: %s", reason)


def _reset_in_child() -> None:
    _Process.has_finalizer = False
    heirs, _Process.heirs = _Process.heirs, None
    inherits = heirs is not None and heirs.claim()
    for processor in watched():
        processor.reset(keep_queue=inherits)


atexit.register(_at_exit)
forks.on_child(_reset_in_child)
