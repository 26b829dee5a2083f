"""Shows the events that arrive on this machine, live, and what each conversation adds up to.

The receiver's threads put requests into a queue and answer their senders at once; the main thread
prints. When the output is slow, what is not printed yet waits in memory, encoded, up to
`MAX_WAITING_BYTES`; while there is more, senders are asked to send again, as OTLP provides for, so
that no sender is kept waiting and nothing that can be sent again is lost.
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
from .event_facts import is_event, time_of
from .json_view import json_view
from .refusals import Refusals
from .summaries import Summaries
from .text_view import text_view
from .views import HOW_TO_END, View, are, counted

MAX_WAITING_BYTES = 32 << 20
"""How many bytes of requests may wait to be printed; they wait encoded."""

_REQUEST_BYTES = 1024
"""More than an empty request takes in the queue."""

_POLL_S = 1.0


def run(http_port: int, grpc_port: int, *, as_json: bool = False) -> int:
    """Print what arrives until SIGINT or SIGTERM, then the summaries; return the exit status.

    Called on the main thread. A second signal does what it always does: it ends at once.
    """
    arrivals = Arrivals()
    try:
        receiver = Receiver(
            http_port=http_port,
            grpc_port=grpc_port,
            on_request=arrivals.put,
            on_refused=arrivals.refuse,
        )
    except ImportError as error:  # the receiver needs more than the package
        print(error, file=sys.stderr)
        return 1
    except PortError as error:
        print(_taken(error, "http" if error.port == http_port else "grpc"), file=sys.stderr)
        return 1
    view = make_view(as_json=as_json)
    listening = Listening(arrivals, view)
    try:
        with _signals_call(arrivals.stop):
            with receiver:
                view.begin(_addresses(receiver))
                listening.until_stopped()
            listening.rest()
    finally:
        view.status("")
    listening.end()
    return 0


def make_view(*, as_json: bool) -> View:
    """Return the view for programs, or the one for people, on standard output."""
    return json_view() if as_json else text_view()


def _taken(error: PortError, protocol: str) -> str:
    """Return what to do about a port that cannot be listened on."""
    return (
        f"{error.strerror} (probably an OpenTelemetry collector, or another listen, has the port): "
        f"end that, or choose another port with --{protocol}-port; --{protocol}-port 0 takes a "
        "free one"
    )


@contextmanager
def _signals_call(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call `stop`; one that is ignored stays ignored."""
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        restore()
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


class _Encoded:
    """A request as bytes: decoded, it may take a hundred times as much memory."""

    __slots__ = ("_message", "_parse", "_transport")

    def __init__(self, request: ReceivedRequest) -> None:
        self._transport = request.transport
        self._message = request.message.SerializeToString()
        self._parse = type(request.message).FromString

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return _REQUEST_BYTES + len(self._message)

    def decoded(self) -> ReceivedRequest:
        """Return the request, without its headers: they are not shown."""
        return ReceivedRequest(self._transport, {}, self._parse(self._message))


class Arrivals:
    """The requests that wait to be printed. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Encoded | RefusedRequest | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._bytes = 0
        self.turned_away = 0
        self.refusals = Refusals()

    def put(self, request: ReceivedRequest) -> None:
        """Add a request.

        Raises:
            Full: too much is waiting already.

        """
        encoded = _Encoded(request)
        with self._lock:
            if self._bytes >= MAX_WAITING_BYTES:
                self.turned_away += 1
                raise Full
            self._bytes += encoded.size
        self._queue.put(encoded)

    def refuse(self, refused: RefusedRequest) -> None:
        """Count a refused request, and add it if it is the first of its kind."""
        if self.refusals.add(refused):
            self._queue.put(refused)

    def take(self, *, wait: bool) -> ReceivedRequest | RefusedRequest | None:
        """Remove and return a request, or None for a call of `stop`.

        Raises:
            Empty: there is none; with `wait`, none came within a second.

        """
        # Not timeout=0, with which Python before 3.13 may wait forever.
        taken = self._queue.get(wait, _POLL_S if wait else None)
        if not isinstance(taken, _Encoded):
            return taken
        with self._lock:
            self._bytes -= taken.size
        return taken.decoded()

    def stop(self) -> None:
        """Let `take` return None behind what is waiting; a signal handler may call this."""
        self._queue.put(None)

    def __len__(self) -> int:
        return self._queue.qsize()


class Listening:
    """Takes requests, adds them up, and has them shown."""

    def __init__(self, arrivals: Arrivals, view: View) -> None:
        self._arrivals = arrivals
        self._view = view
        self._summaries = Summaries()
        self._events = 0
        self._others = 0

    def until_stopped(self) -> None:
        """Show what arrives, until the arrivals are stopped."""
        self._view.status(self.status())
        while True:
            try:
                request = self._arrivals.take(wait=True)
            except Empty:
                continue
            if request is None:
                return
            self._show(request)
            self._view.status(self.status())

    def rest(self) -> None:
        """Show what is still waiting."""
        while True:
            try:
                request = self._arrivals.take(wait=False)
            except Empty:
                return
            if request is not None:
                self._show(request)

    def end(self) -> None:
        """Show the summaries."""
        self._view.end(self._total())
        for summary in self._summaries:
            self._view.conversation_ends(summary)
        self._view.refusals(self._arrivals.refusals)
        if self._arrivals.turned_away:
            self._view.warn(
                f"the output was too slow for {counted(self._arrivals.turned_away, 'request')}: "
                "the sender was told to send again"
            )

    def _show(self, request: ReceivedRequest | RefusedRequest) -> None:
        if isinstance(request, RefusedRequest):
            self._view.refused(request)
            return
        # A request holds the events of each logger together; by time they are in order again.
        for event in sorted(events_of(request), key=time_of):
            if not is_event(event):
                self._others += 1
                self._view.event(event, None)
                continue
            self._events += 1
            summary, new = self._summaries.summary_for(event)
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
            total += f", and {counted(self._others, 'record')} that {are(self._others)} no event"
        return total

    def status(self) -> str:
        """Return how many events have arrived, and what else there is to know."""
        waiting = len(self._arrivals)
        behind = f"; {counted(waiting, 'request')} not printed yet" if waiting else ""
        refusals = self._arrivals.refusals.total
        refused = f"; {counted(refusals, 'request')} refused" if refusals else ""
        return f"{self._total()}{refused}{behind}; {HOW_TO_END}"


def _addresses(receiver: Receiver) -> list[str]:
    """Return the endpoints, for HTTP and, where it can be, for gRPC."""
    try:
        return [receiver.http_endpoint, receiver.grpc_endpoint]
    except ImportError:
        return [receiver.http_endpoint]
