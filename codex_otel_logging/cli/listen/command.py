"""The command `listen`: shows events as they arrive, then a summary of each conversation.

The receiver's threads queue requests and answer their senders immediately; the main thread prints.
If the output is slow, requests wait in memory, encoded, up to `MAX_WAITING_BYTES`. Beyond that,
senders receive a retryable status, as OTLP defines it, so no sender is blocked and no event that
the sender retries is dropped.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, SimpleQueue
from typing import Any

from ...receiver import PortError, ReceivedRequest, Receiver, RefusedRequest, events_of
from ...text import counted
from .event_facts import is_event, time_of
from .json_view import json_view
from .refusals import Refusals
from .summaries import Summaries
from .text_view import text_view
from .views import HOW_TO_STOP, View

MAX_WAITING_BYTES = 32 << 20
"""Maximum size of the requests waiting to be printed, in encoded bytes."""

_REQUEST_BYTES = 1024
"""Added to the size of each request, so that empty requests are limited, too."""

_POLL_S = 1.0


def run(http_port: int, grpc_port: int, *, as_json: bool = False) -> int:
    """Print events until SIGINT or SIGTERM, then the summaries, and return the exit status.

    Must be called on the main thread. A second signal has its default effect: it ends the process.
    """
    arrivals = Arrivals()
    try:
        receiver = Receiver(
            http_port=http_port,
            grpc_port=grpc_port,
            on_request=arrivals.put,
            on_refused=arrivals.refuse,
        )
    except ImportError as error:  # the receiver needs an extra
        print(error, file=sys.stderr)
        return 1
    except PortError as error:
        # If both options name the same port, either of them can be changed.
        print(_port_advice(error, "http" if error.port == http_port else "grpc"), file=sys.stderr)
        return 1
    view = make_view(as_json=as_json)
    listening = Listening(arrivals, view)
    try:
        with _signals_call(arrivals.stop):
            with receiver:
                view.begin(_addresses(receiver))
                listening.show_until_stopped()
            listening.show_waiting()  # the closed receiver adds no more
    finally:
        view.status("")
    listening.show_summaries()
    return 0


def make_view(*, as_json: bool) -> View:
    """Return a view on standard output: JSON Lines or text."""
    return json_view() if as_json else text_view()


def _port_advice(error: PortError, protocol: str) -> str:
    """Return the message for a port that cannot be opened."""
    return (
        f"{error.strerror} (possibly used by an OpenTelemetry collector or another listen): stop "
        f"that process, or choose another port with --{protocol}-port; 0 selects a free port"
    )


@contextmanager
def _signals_call(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call `stop`. Ignored signals stay ignored, as under nohup."""
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        restore()  # a second signal ends the process even if the output blocks
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


class _Encoded:
    """A request as bytes. Decoded, small records take about 30 times as much memory."""

    __slots__ = ("_message", "_parse", "_transport")

    def __init__(self, request: ReceivedRequest) -> None:
        self._transport = request.transport
        self._message = request.message.SerializeToString()
        self._parse = type(request.message).FromString

    @property
    def size(self) -> int:
        """The size that counts against `MAX_WAITING_BYTES`."""
        return _REQUEST_BYTES + len(self._message)

    def decoded(self) -> ReceivedRequest:
        """Return the request without its headers, which are not shown and may hold secrets."""
        return ReceivedRequest(self._transport, {}, self._parse(self._message))


class Arrivals:
    """Requests waiting to be printed. Thread-safe."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Encoded | RefusedRequest | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._bytes = 0
        self.turned_away = 0
        self.refusals = Refusals()

    def put(self, request: ReceivedRequest) -> None:
        """Add a request.

        Raises:
            Full: `MAX_WAITING_BYTES` are waiting already. A single request of any size is accepted.

        """
        encoded = _Encoded(request)
        # Checked before adding, so that a request larger than the limit can pass.
        with self._lock:
            if self._bytes >= MAX_WAITING_BYTES:
                self.turned_away += 1
                raise Full
            self._bytes += encoded.size
        self._queue.put(encoded)

    def refuse(self, refused: RefusedRequest) -> None:
        """Count a refused request, and add it if its reason is new."""
        if self.refusals.add(refused):
            self._queue.put(refused)

    def take(self, *, wait: bool) -> ReceivedRequest | RefusedRequest | None:
        """Remove and return the next request, or None for a call of `stop`.

        Raises:
            Empty: no request is waiting, or, with `wait`, none arrived within a second.

        """
        # Not timeout=0, with which SimpleQueue of Python before 3.13 sometimes blocks forever.
        taken = self._queue.get(wait, _POLL_S if wait else None)
        if not isinstance(taken, _Encoded):
            return taken
        with self._lock:
            self._bytes -= taken.size
        return taken.decoded()

    def stop(self) -> None:
        """Let `take` return None after the waiting requests. Safe to call in a signal handler."""
        self._queue.put(None)  # SimpleQueue.put is reentrant, Queue.put is not

    def __len__(self) -> int:
        return self._queue.qsize()


class Listening:
    """Takes requests from `arrivals`, shows them in `view`, and aggregates them."""

    def __init__(self, arrivals: Arrivals, view: View) -> None:
        self._arrivals = arrivals
        self._view = view
        self._summaries = Summaries()
        self._events = 0
        self._others = 0

    def show_until_stopped(self) -> None:
        """Show requests as they arrive, until `stop` is called on the arrivals."""
        self._view.status(self.status())
        while True:
            try:
                request = self._arrivals.take(wait=True)
            except Empty:  # a bounded wait: on Windows, Ctrl-C does not interrupt an unbounded one
                continue
            if request is None:
                return
            self._show(request)
            self._view.status(self.status())

    def show_waiting(self) -> None:
        """Show the requests still waiting, and return when none is left."""
        while True:
            try:
                request = self._arrivals.take(wait=False)
            except Empty:
                return
            if request is not None:
                self._show(request)

    def show_summaries(self) -> None:
        """Show a summary of each conversation and of the refused requests."""
        self._view.end(self._total())
        for summary in self._summaries:
            self._view.conversation_ends(summary)
        self._view.refusals(self._arrivals.refusals)
        if self._arrivals.turned_away:
            self._view.warn(
                f"the output was too slow for {counted(self._arrivals.turned_away, 'request')}; "
                "the sender was asked to retry"
            )

    def _show(self, request: ReceivedRequest | RefusedRequest) -> None:
        if isinstance(request, RefusedRequest):
            self._view.refused(request)
            return
        # OTLP groups records by scope: sort by time to restore the order across loggers.
        for event in sorted(events_of(request), key=time_of):
            if not is_event(event):
                self._others += 1
                self._view.event(event, None)
                continue
            self._events += 1
            summary, new = self._summaries.summary_for(event)
            # Shown before the new conversation begins, so that summaries do not interleave with it.
            for forgotten in self._summaries.forget():
                self._view.conversation_ends(forgotten, forgotten=True)
            if new and summary.number:
                self._view.conversation_begins(summary, event)
            summary.add(event)
            self._view.event(event, summary)

    def _total(self) -> str:
        total = (
            f"{counted(self._events, 'event')} in "
            f"{counted(self._summaries.conversations, 'conversation')}"
        )
        if self._others:
            total += f", {counted(self._others, 'other record')}"
        return total

    def status(self) -> str:
        """Return the text of the status line: counts, and how to stop."""
        waiting = len(self._arrivals)
        behind = f"; {counted(waiting, 'request')} not printed yet" if waiting else ""
        refusals = self._arrivals.refusals.total
        refused = f"; {counted(refusals, 'request')} refused" if refusals else ""
        return f"{self._total()}{refused}{behind}; {HOW_TO_STOP}"


def _addresses(receiver: Receiver) -> list[str]:
    """Return the HTTP endpoint, and the gRPC endpoint if `grpc` is installed."""
    try:
        return [receiver.http_endpoint, receiver.grpc_endpoint]
    except ImportError:
        return [receiver.http_endpoint]
