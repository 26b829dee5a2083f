"""uWSGI's master process, which loads the application and then forks workers without the GIL.

A thread that holds the GIL at that moment, for example while it imports OpenTelemetry, leaves it
locked in the child, which then hangs at its first request. Therefore the master gets no worker
thread. It runs no exit hooks either, so exactly one of its children inherits the events that are
queued when it forks. With the option `py-call-uwsgi-fork-hooks`, uWSGI forks as Python does, and
none of this applies.
"""

from __future__ import annotations

import os
import sys


class InheritanceToken:
    """A token that exactly one child process can claim, whichever way this process forks.

    The token is a byte in a pipe. All children share the pipe, and only one can read the byte; no
    child needs a hook in the parent for that.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.write(writer, b"1")
        # With the write end closed, reading an empty pipe returns b"" instead of raising.
        os.close(writer)

    def claim(self) -> bool:
        """Return True in the first process that calls this, and False afterwards."""
        return os.read(self._reader, 1) != b""


def is_master_without_hooks() -> bool:
    """Return whether this is uWSGI's master process and it forks without Python's fork hooks."""
    uwsgi = sys.modules.get("uwsgi")
    return (
        uwsgi is not None
        and getattr(uwsgi, "masterpid", int)() == os.getpid()
        and "py-call-uwsgi-fork-hooks" not in uwsgi.opt
    )
