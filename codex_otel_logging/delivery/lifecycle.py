"""The ends of a process: normal exit, and fork.

Every `Worker` is watched here, weakly: while it has events, its thread keeps it alive, also when
its handler is gone. The exit hook runs before `logging.shutdown`, which was registered earlier;
what other exit hooks log afterwards is exported as it is logged. Processes started by
`multiprocessing`, or by a package derived from it, run no exit hooks when they end, but finalizers
of their own.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from .. import attachment, diagnostics
from ..events.event import Event
from . import forks
from .flushing import flush_all, flush_at_exit
from .forks import reset_in_child
from .queue import Stats
from .worker import Worker

if TYPE_CHECKING:
    from .uwsgi import Heirs

Watched = TypeVar("Watched")


class _WeakList(Generic[Watched]):
    """The objects that still exist of those that were added.

    Not a `WeakSet`: iterating one raises `RuntimeError` if another thread adds to it at that
    moment. A list can be copied at any moment.
    """

    def __init__(self) -> None:
        self._references: list[weakref.ref[Watched]] = []

    def add(self, watched: Watched) -> None:
        for reference in self._references.copy():
            if reference() is None:
                with suppress(ValueError):  # another thread has removed it
                    self._references.remove(reference)
        self._references.append(weakref.ref(watched))

    def living(self) -> list[Watched]:
        references = self._references.copy()
        return [found for reference in references if (found := reference()) is not None]


_pipelines: _WeakList[Pipeline] = _WeakList()
_workers: _WeakList[Worker] = _WeakList()

_LIKE_MULTIPROCESSING = ("multiprocessing", "multiprocess", "billiard")
"""Packages whose processes run finalizers instead of exit hooks; loky uses the first one's."""


class _Process:
    """What has happened in this process so far."""

    ending = False
    has_finalizer = False
    heirs: Heirs | None = None
    """Exists where no worker may be started, and a child inherits what is queued."""


class Pipeline:
    """The queue and worker of one handler; a forked child begins with others.

    `worker` is the one of this process, once `reset_in_child` has run; the methods see to that. May
    be called from any thread.

    Args:
        build: returns a worker that has the given events queued.

    """

    def __init__(self, build: Callable[[Sequence[Event]], Worker]) -> None:
        self._build = build
        self.worker = build(())
        _workers.add(self.worker)
        _pipelines.add(self)

    def reset(self, *, keep_queue: bool = False) -> None:
        """Begin with nothing: no event, no count, no thread, no connection. For a forked child.

        With `keep_queue`, the child inherits the events that its parent process had queued.
        """
        self.worker = worker = self._build(self.worker.queue.unsent() if keep_queue else ())
        _workers.add(worker)

    def stats(self) -> Stats:
        """Return the counts of this moment, consistent with each other."""
        reset_in_child()
        return self.worker.queue.stats()

    def flush(self, timeout_s: float) -> bool:
        """Export what is queued and wait until it is settled; see `flush_all`."""
        reset_in_child()
        return flush_all([self.worker], timeout_s)

    def flush_at_exit(self) -> None:
        """Export what is queued before the process ends; see `flushing.flush_at_exit`."""
        reset_in_child()
        flush_at_exit([self.worker])

    def request_flush(self) -> None:
        """Export what is queued now. Does not wait."""
        reset_in_child()
        self.worker.request_flush()

    def close(self) -> None:
        """Let the worker export what is queued, disconnect and end. Does not wait."""
        reset_in_child()
        self.worker.close()


def watched() -> list[Worker]:
    """Return the workers of this process."""
    reset_in_child()
    return _workers.living()


def is_ending() -> bool:
    """Return whether the exit hook has run: nothing is delivered later than now."""
    return _Process.ending


def worker_starts() -> None:
    """Prepare the process for a worker, which is about to be started.

    Raises:
        RuntimeError: the process must not have another thread.

    """
    if "uwsgi" in sys.modules:  # not installed: uWSGI adds it to the processes it runs
        from . import uwsgi

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
    workers = watched()
    flush_at_exit(workers)
    _report_silence(workers)


def _report_silence(workers: list[Worker]) -> None:
    """Report once why no handler accepted an event, if what keeps events away is known."""
    if workers and not any(worker.queue.stats().accepted for worker in workers):
        reason = attachment.why_silent()
        if reason is not None:
            diagnostics.warn("no event was logged: %s", reason)


def _reset_in_child() -> None:
    global _workers
    _Process.has_finalizer = False
    heirs, _Process.heirs = _Process.heirs, None
    inherits = heirs is not None and heirs.claim()
    _workers = _WeakList()  # those that the parent started do not run here
    for pipeline in _pipelines.living():
        pipeline.reset(keep_queue=inherits)


atexit.register(_at_exit)
forks.on_child(_reset_in_child)
