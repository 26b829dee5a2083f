"""Process exit and fork: flushes all workers at exit, and replaces them in a forked child.

Workers are registered here with weak references. A worker that has events is kept alive by its
thread, even if its handler is gone.

The exit hook runs before `logging.shutdown`, because exit hooks run in reverse order and `logging`
registered its hook earlier. Exit hooks that run later may still log; each of their events is
exported before the logging call returns. Processes started by `multiprocessing`, or by a package
derived from it, end without running exit hooks, but run the finalizers of that package.
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
    from .uwsgi import InheritanceToken

Watched = TypeVar("Watched")


class _WeakList(Generic[Watched]):
    """A list of weak references that any thread may read and extend, without a lock.

    Not a `WeakSet`: iterating over one raises `RuntimeError` if another thread adds to it
    meanwhile. Copying a list is atomic.
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
"""Packages whose processes run finalizers instead of exit hooks; loky uses `multiprocessing`'s."""


class _Process:
    """The state of this process."""

    ending = False
    """Whether the exit hook has started."""
    has_finalizer = False
    """Whether `_at_exit` is registered as a finalizer of a package like `multiprocessing`."""
    inheritance: InheritanceToken | None = None
    """Set in a process that must not start a thread; one child then inherits its queue."""


class Pipeline:
    """Holds the worker of one handler, and replaces it in a forked child.

    `worker` belongs to this process once `reset_in_child` has run. The methods call that first;
    code that reads `worker` directly must do so itself. All methods may be called from any thread.

    Args:
        build: returns a new worker whose queue holds the given events.

    """

    def __init__(self, build: Callable[[Sequence[Event]], Worker]) -> None:
        self._build = build
        self.worker = build(())
        _workers.add(self.worker)
        _pipelines.add(self)

    def reset(self, *, keep_queue: bool = False) -> None:
        """Replace the worker, and with it all events, counts, threads and connections.

        Called in a forked child. With `keep_queue`, the child inherits the parent's queued events.
        """
        # One assignment: a thread of the child sees the old worker or the new one, never a mixture.
        old = self.worker.queue
        events = old.unsent() if keep_queue else []
        self.worker = worker = self._build(events)
        if old.journal is not None:
            # After the new worker has written the events itself, cold ones included. If some could
            # not be read or written, all stay on disk: twice is better than never.
            has_copied = keep_queue and len(events) == len(old) and worker.queue.is_on_disk()
            old.journal.leave_to_parent(inherited=has_copied)
        _workers.add(worker)

    def stats(self) -> Stats:
        """Return the current counts, consistent with each other."""
        reset_in_child()
        return self.worker.queue.stats()

    def flush(self, timeout_s: float) -> bool:
        """Export the queued events and wait until they are settled; see `flushing.flush_all`."""
        reset_in_child()
        return flush_all([self.worker], timeout_s)

    def flush_at_exit(self) -> None:
        """Export the queued events before the process ends; see `flushing.flush_at_exit`."""
        reset_in_child()
        flush_at_exit([self.worker])

    def request_flush(self) -> None:
        """Request a flush of the queued events. Does not wait."""
        reset_in_child()
        self.worker.request_flush()

    def close(self) -> None:
        """Let the worker export the queued events, disconnect and end. Does not wait."""
        reset_in_child()
        self.worker.close()


def watched() -> list[Worker]:
    """Return the workers of this process."""
    reset_in_child()
    return _workers.living()


def is_ending() -> bool:
    """Return whether the exit hook has started. Later events are flushed one by one."""
    return _Process.ending


def worker_starts() -> None:
    """Prepare this process for a worker thread that is about to start.

    Raises:
        RuntimeError: this process must not start a thread.

    """
    if "uwsgi" in sys.modules:  # only inside uWSGI, which adds this module to its processes
        from . import uwsgi

        if uwsgi.is_master_without_hooks():
            _Process.inheritance = _Process.inheritance or uwsgi.InheritanceToken()
            raise RuntimeError("uWSGI's master process must not have other threads when it forks")
    if not _Process.has_finalizer and (package := _started_by()) is not None:
        _Process.has_finalizer = True
        # Priority 0 runs after the finalizers with higher ones, whose events are flushed as well.
        sys.modules[f"{package}.util"].Finalize(None, _at_exit, exitpriority=0)


def _started_by() -> str | None:
    """Return the name of the package like `multiprocessing` that started this process, if any."""
    for package in _LIKE_MULTIPROCESSING:
        process = sys.modules.get(f"{package}.process")
        # billiard has no `parent_process()`. All three packages have this private attribute, which
        # is None in a main process.
        if process is not None and process.current_process()._parent_pid is not None:
            return package
    return None


def _at_exit() -> None:
    _Process.ending = True
    workers = watched()
    flush_at_exit(workers)
    _report_why_silent(workers)


def _report_why_silent(workers: list[Worker]) -> None:
    """If no handler accepted an event and the cause is known, report it."""
    if workers and not any(worker.queue.stats().accepted for worker in workers):
        reason = attachment.why_silent()
        if reason is not None:
            diagnostics.warn("no event was logged: %s", reason)


def _reset_in_child() -> None:
    global _workers
    _Process.has_finalizer = False
    token, _Process.inheritance = _Process.inheritance, None
    inherits = token is not None and token.claim()
    parents, _workers = _workers, _WeakList()  # they have no threads in this process
    for pipeline in _pipelines.living():
        pipeline.reset(keep_queue=inherits)
    # Workers whose handler is gone may still have a journal; a second call changes nothing.
    for worker in parents.living():
        if worker.queue.journal is not None:
            worker.queue.journal.leave_to_parent(inherited=False)


atexit.register(_at_exit)
forks.on_child(_reset_in_child)
