"""The threads, locks and monotonic clock of the operating system, whatever replaces Python's.

gevent and eventlet replace the functions of `_thread`, `threading` and `time` in place. A worker
made with theirs would be a greenlet, which stops all others while it imports OpenTelemetry, encodes
a batch or is inside gRPC; and as they patch at any time, a thread from before and a greenlet from
after would share a lock that works for one of them. freezegun and many tests replace
`time.monotonic`, freezegun even in every module that has imported it, and a wait that measures its
end by a frozen clock never ends.

Therefore this package takes these functions from a second instance of the built-in modules, which
no other code can reach through `sys.modules`. That needs no knowledge of who patches, and works
before and after.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from types import BuiltinFunctionType
from typing import Any


def _second_instance(name: str) -> Any:
    spec = BuiltinImporter.find_spec(name)
    if spec is None:  # an interpreter that has it elsewhere
        return __import__(name)
    module: Any = BuiltinImporter.create_module(spec)
    BuiltinImporter.exec_module(module)
    return module


_own_thread = _second_instance("_thread")
_own_time = _second_instance("time")

monotonic: Callable[[], float] = _own_time.perf_counter
"""The monotonic clock, in seconds: for deadlines, backoff and waits.

The one with the highest resolution; on Linux and macOS it is the clock of `time.monotonic`.
"""

wall_clock: Callable[[], float] = _own_time.time
"""The time of day, in seconds since 1970."""

sleep: Callable[[float], None] = _own_time.sleep
"""Blocks the whole thread, with all of its greenlets."""

RLock: Callable[[], threading.RLock] = _own_thread.RLock
allocate_lock: Callable[[], threading.Lock] = _own_thread.allocate_lock
get_ident: Callable[[], int] = _own_thread.get_ident
start_new_thread: Callable[[Callable[..., object], tuple[object, ...]], int] = (
    _own_thread.start_new_thread
)


_native_threads: set[int] = set()


def threads_are_greenlets() -> bool:
    """Return whether `threading` starts greenlets: its function is no longer the built-in one."""
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def is_beside_greenlets() -> bool:
    """Return whether this is a `NativeThread` in a process whose other threads are greenlets.

    It must not take a lock of the application then, such as a logging handler's. A greenlet of one
    thread and a greenlet of another cannot wait for each other: with both libraries, the one that
    waited was not woken (measured), and the application hung.
    """
    return get_ident() in _native_threads and threads_are_greenlets()


def start_in_application(target: Callable[[], object], name: str) -> None:
    """Call `target` soon in a thread that may take locks of the application; does not block.

    Where threads are greenlets, it is one of the calling thread. `threading.Thread.start` would
    switch to it at once, in the middle of whatever the caller does.

    Raises:
        RuntimeError: no thread can be started, as at exit.

    """
    if threads_are_greenlets():
        _thread.start_new_thread(target, ())
    else:
        NativeThread(target, name).start()


class NativeThread:
    """A daemon thread of the operating system. All methods may be called from any thread.

    In an ordinary process it is a `threading.Thread`, which has a name and can be enumerated.

    Args:
        target: called in the thread.
        name: the name of the thread.

    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._target = target
        self._name = name
        self._ident = 0
        self._running = allocate_lock()

    @classmethod
    def current(cls) -> NativeThread:
        """Return an object for the calling thread; it cannot be started or joined."""
        thread = cls(lambda: None, "")
        thread._ident = get_ident()
        return thread

    def start(self, *, listed: bool = True) -> None:
        """Start the thread; once only.

        Unless `listed`, `threading` does not know it and none of its locks is taken.

        Raises:
            RuntimeError: no thread can be started, as at exit.

        """
        self._running.acquire()
        try:
            if listed and not threads_are_greenlets():
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            else:
                start_new_thread(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def is_current(self) -> bool:
        """Return whether this is the calling thread."""
        return self._ident == get_ident()

    def is_alive(self) -> bool:
        """Return whether the thread has been started and has not ended."""
        return self._running.locked()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, for at most `timeout_s` seconds."""
        if self._running.acquire(timeout=timeout_s):
            self._running.release()

    def _run(self) -> None:
        self._ident = get_ident()
        _native_threads.add(self._ident)
        try:
            self._target()
        finally:
            _native_threads.discard(self._ident)
            self._running.release()
