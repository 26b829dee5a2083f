"""Opt-in: flush queued events before SIGTERM terminates the process.

Time line, from the signal to the end of the process:

1. SIGTERM arrives. Python calls `_FlushBeforeTerminating` on the main thread, between two bytecode
   instructions of whatever runs there.
2. A new thread flushes as the exit hook does: batches are exported without delay and with short
   backoff, until the queue is empty, `shutdown_timeout_ms` pass without progress, or five times
   that pass in all. It logs how many events remain.
3. Meanwhile the main thread waits, as long as events are settled at least every `_STALL_S`.
   a. The flush finishes: continue with 4.
   b. No progress: the interrupted code may hold a lock that the export needs (of the queue, a
      logging handler, an import). The signal handler returns, so that this code can release it.
      Further SIGTERMs have no effect. When the flush finishes, its thread sends SIGTERM again,
      and the main thread continues with 4.
4. The application's own handler runs, if it had installed one, and decides what happens next. With
   SIG_IGN nothing happens, and the process continues. Otherwise SIGTERM's default action is
   restored and the signal is sent once more: the kernel ends the process. Exit hooks do not run,
   and the parent process sees a process killed by SIGTERM, as without this module.

This module is imported on demand, because importing `signal` takes noticeable time at start-up.
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

_STALL_S = 0.5
"""How long the signal handler waits without progress before it returns, in seconds."""


def flush_on_sigterm() -> None:
    """Flush queued events before SIGTERM terminates the process.

    Without this, SIGTERM ends Python immediately, and queued events are not exported. Call it once,
    from the main thread, after the application has installed its own SIGTERM handler. That handler,
    or the default action, takes effect when the queue is empty, after `shutdown_timeout_ms` without
    progress, or after five times that at the latest. Calling it again has no effect.

    Raises:
        ValueError: called outside the main thread, the only one that may set signal handlers.

    """
    previous = signal.getsignal(signal.SIGTERM)
    if not isinstance(previous, _FlushBeforeTerminating):
        signal.signal(signal.SIGTERM, _FlushBeforeTerminating(previous))


class _FlushBeforeTerminating:
    """A signal handler that flushes, then lets the previous handler take effect.

    The time line at the top of the module explains the steps.
    """

    def __init__(self, previous: Any) -> None:
        self._previous = previous
        # A process id, not a flag: a child forked during the flush inherits this object, but not
        # the thread that would finish the flush and clear the flag.
        self._flushing_pid = 0
        self._flushed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._flushing_pid == os.getpid():
            return
        if not self._flushed and not self._flush(number):
            return
        # The process may outlive this signal; the next one flushes again.
        self._flushed = False
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _flush(self, number: int) -> bool:
        """Flush in a new thread; return False if it stalls, and the signal will be sent again."""
        workers = watched()
        done = Wakeup()
        # Both threads try to acquire this once; the second one continues the termination. The
        # signal is therefore handled exactly once, even if the flush finishes just as we give up.
        first = allocate_lock()

        def flush() -> None:
            flush_at_exit(workers, for_good=False)
            self._flushed = True
            self._flushing_pid = 0
            done.set()
            if not first.acquire(blocking=False):
                os.kill(os.getpid(), number)

        self._flushing_pid = os.getpid()
        try:
            # Not listed by `threading`: the interrupted frame may be inside `Thread.start` and
            # hold the lock that listing a thread takes.
            NativeThread(flush, "codex_otel_logging SIGTERM").start(listed=False)
        except RuntimeError:  # during finalization Python starts no threads
            self._flushing_pid = 0
            flush_at_exit(workers, for_good=False)
            return True
        progress = -1
        while progress != (progress := sum(worker.queue.settled for worker in workers)):
            if done.wait(_STALL_S):
                break
        diagnostics.log_pending()
        return not first.acquire(blocking=False)
