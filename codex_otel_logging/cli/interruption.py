"""Makes sure that Ctrl-C ends a command at any moment, also while Python finalizes an object."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, main_thread

_REPEAT_S = 0.01
"""After how many seconds a dropped interruption is repeated; the finalizer has returned by then."""


@contextmanager
def repeated_if_dropped() -> Iterator[None]:
    """Repeat an interruption that Python drops because it came while an object was finalized.

    Such an exception goes to `sys.unraisablehook`, which can only print it: the command would go
    on. For the main thread. Does not block.
    """
    report = sys.unraisablehook

    def repeat_or_report(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            timer = Timer(_REPEAT_S, _interrupt)
            timer.daemon = True
            timer.start()
        else:
            report(dropped)

    sys.unraisablehook = repeat_or_report
    try:
        yield
    finally:
        sys.unraisablehook = report


def _interrupt() -> None:
    """Interrupt the main thread, also in a system call where the platform can."""
    thread = main_thread().ident
    if sys.platform == "win32" or thread is None:
        signal.raise_signal(signal.SIGINT)
    else:
        signal.pthread_kill(thread, signal.SIGINT)
