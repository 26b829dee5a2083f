"""Native threads, locks and clocks, which monkey patching cannot replace.

gevent and eventlet replace functions of `_thread`, `threading` and `time` in place. A worker
started with theirs would be a greenlet: while it imports OpenTelemetry, encodes a batch or waits in
gRPC, all other greenlets stop. They may also patch after the worker has started, and then a lock
that a thread and a greenlet share fails for one of the two. freezegun and many tests replace
`time.monotonic`, freezegun in every module that has imported it; a wait with a deadline by a frozen
clock never ends.

So this package takes these functions from a private instance of the built-in modules, which is not
in `sys.modules`. That works against any library, whether it patches before or after this import.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from types import BuiltinFunctionType
from typing import Any


def _private_instance(name: str) -> Any:
    """Return a new instance of a built-in module."""
    spec = BuiltinImporter.find_spec(name)
    if spec is None:  # an interpreter in which the module is not built in
        return __import__(name)
    module: Any = BuiltinImporter.create_module(spec)
    BuiltinImporter.exec_module(module)
    return module


_own_thread = _private_instance("_thread")
_own_time = _private_instance("time")

monotonic: Callable[[], float] = _own_time.perf_counter
"""The monotonic clock for deadlines, backoff and waits, in seconds.

`perf_counter` has the highest resolution. On Linux and macOS it is the clock of `time.monotonic`.
"""

wall_clock: Callable[[], float] = _own_time.time
"""The wall clock, in seconds since the epoch."""

sleep: Callable[[float], None] = _own_time.sleep
"""Sleeps for some seconds. Blocks the whole thread, with all of its greenlets."""

RLock: Callable[[], threading.RLock] = _own_thread.RLock
allocate_lock: Callable[[], threading.Lock] = _own_thread.allocate_lock
get_ident: Callable[[], int] = _own_thread.get_ident
start_new_thread: Callable[[Callable[..., object], tuple[object, ...]], int] = (
    _own_thread.start_new_thread
)


_native_threads: set[int] = set()
"""The identifiers of the running `NativeThread`s."""


def threads_are_greenlets() -> bool:
    """Return whether `threading` starts greenlets, that is, whether its function was replaced."""
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def is_native_thread() -> bool:
    """Return whether this is a running `NativeThread`."""
    return get_ident() in _native_threads


def is_beside_greenlets() -> bool:
    """Return whether this is a `NativeThread` in a process whose other threads are greenlets.

    Such a thread must not take a lock of the application, such as a logging handler's. Greenlets of
    different threads cannot wait for each other: with gevent and with eventlet, the one that waited
    was never woken, and the application hung.
    """
    return is_native_thread() and threads_are_greenlets()


def start_in_application(target: Callable[[], object], name: str) -> None:
    """Call `target` in a new thread that may take the application's locks; does not block.

    Where threads are greenlets, `target` runs as a greenlet of the calling thread.

    Raises:
        RuntimeError: no thread can be started, for example at exit.

    """
    # Not `threading.Thread.start`, which switches to the greenlet at once, wherever the caller is.
    if threads_are_greenlets():
        _thread.start_new_thread(target, ())
    else:
        NativeThread(target, name).start()


class NativeThread:
    """A daemon thread of the operating system. All methods may be called from any thread.

    In a process without greenlets it is a `threading.Thread`, with a name for debuggers.

    Args:
        target: the function that the thread calls.
        name: the name of the thread.

    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._target = target
        self._name = name
        self._ident = 0
        self._running = allocate_lock()
        # Acquired by the thread when it begins, or by `start` when it fails, whichever is first.
        self._begun = allocate_lock()

    @classmethod
    def current(cls) -> NativeThread:
        """Return an object for the calling thread, which cannot be started or joined."""
        thread = cls(lambda: None, "")
        thread._ident = get_ident()
        return thread

    def start(self, *, listed: bool = True) -> None:
        """Start the thread. Must be called at most once.

        If not `listed`, `threading` does not know the thread, and none of its locks is taken.

        Raises:
            RuntimeError: no thread can be started, for example at exit. A signal handler may raise
                something else, even after the thread has begun; `is_alive` then tells.

        """
        try:
            # Held while the thread runs: `join` waits for it, and `is_alive` looks at it.
            self._running.acquire()
            if listed and not threads_are_greenlets():
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            else:
                start_new_thread(self._run, ())
        except BaseException:  # also Ctrl-C, while `threading` waits for the thread to begin
            if self._begun.acquire(blocking=False):
                self._running.release()  # it has not begun, and calls nothing if it still does
            raise

    def is_current(self) -> bool:
        """Return whether this is the calling thread."""
        return self._ident == get_ident()

    def is_alive(self) -> bool:
        """Return whether the thread has started and has not ended."""
        return self._running.locked()

    def join(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` seconds for the thread to end."""
        if self._running.acquire(timeout=timeout_s):
            self._running.release()

    def _run(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        self._ident = get_ident()
        _native_threads.add(self._ident)
        try:
            self._target()
        finally:
            _native_threads.discard(self._ident)
            self._running.release()
