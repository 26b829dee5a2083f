"""uWSGI's master process: it loads the application, and then forks workers without the GIL.

A thread that has the GIL at that moment, for example while it imports OpenTelemetry, would leave it
locked in the child, which hangs with its first request. So the master gets no worker thread. It
runs no exit hooks either: what is still queued when it forks is inherited by one of its children.
With the option `py-call-uwsgi-fork-hooks` it forks as Python does, and none of this applies.
"""

from __future__ import annotations

import os
import sys


class Heirs:
    """Lets exactly one child process inherit, however often, and however, this process forks."""

    def __init__(self) -> None:
        self._token, writer = os.pipe()
        os.set_blocking(self._token, False)
        os.write(writer, b"1")
        os.close(writer)

    def claim(self) -> bool:
        """Return whether this process inherits; False in all others."""
        return os.read(self._token, 1) != b""


def is_master_without_hooks() -> bool:
    """Return whether this is uWSGI's master process, and forks without Python's hooks."""
    uwsgi = sys.modules.get("uwsgi")
    return (
        uwsgi is not None
        and getattr(uwsgi, "masterpid", int)() == os.getpid()
        and "py-call-uwsgi-fork-hooks" not in uwsgi.opt
    )
