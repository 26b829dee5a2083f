"""The class `Receiver`: its endpoints, and the events that have arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Literal

from ..config.endpoints import LOGS_PATH
from .connections import url_host
from .received import ReceivedEvent, ReceivedRequest, RefusedRequest, events_of, names_of


class Receiver:
    """Receives log records over OTLP/HTTP and OTLP/gRPC; a context manager.

    It listens as soon as it is built; over gRPC only if the package `grpcio` is installed. All
    methods are thread-safe. Connections that are idle for a minute are ended. On a loopback
    address, HTTP requests whose `Host` or `Origin` is not a loopback name are refused, because a
    web page could make a browser send them.

    Args:
        host: the address to listen on.
        http_port: the port for HTTP; 0 selects a free one.
        grpc_port: the port for gRPC; 0 selects a free one.
        on_request: called with each request instead of storing it. `events` and `requests` stay
            empty, and memory use does not grow. The function runs on the receiver's threads,
            several at once, and the sender gets its answer when the function returns. If it raises
            `queue.Full`, the sender is asked to retry (HTTP 503, gRPC UNAVAILABLE), so the
            `put_nowait` of a `queue.Queue` is enough. Any other exception fails the request
            permanently and is printed to stderr.
        on_refused: called with each refused request, such as one to another path, before the sender
            is answered. It runs on the receiver's threads, several at once. An exception is printed
            to stderr, and the sender gets no answer.
        max_request_bytes: the maximum size of a request, as sent and as decompressed; larger ones
            are refused. The default is 4 MiB, as in gRPC.

    Raises:
        PortError: a port is taken or not allowed; a subclass of `OSError`.
        ImportError: the packages of the extra `[otel]` are not installed.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        on_request: Callable[[ReceivedRequest], object] | None = None,
        on_refused: Callable[[RefusedRequest], object] | None = None,
        max_request_bytes: int = 4 << 20,
    ) -> None:
        try:  # imported here, so that the class can be imported without the extra
            from .grpc_server import GrpcServer
            from .http_server import HttpServer
            from .intake import Intake
        except ImportError as error:
            raise ImportError(
                "the receiver needs an extra package: pip install 'codex_otel_logging[otel]'"
            ) from error
        self._on_refused = on_refused
        self._arrival = threading.Condition()
        self._requests: list[ReceivedRequest] = []
        self._events: list[ReceivedEvent] = []
        self._host = host
        intake = Intake(on_request or self._keep, max_request_bytes)
        self._http = HttpServer((host, http_port), intake, partial(self._refuse, "http"))
        try:
            self._grpc = GrpcServer((host, grpc_port), intake, partial(self._refuse, "grpc"))
        except BaseException:
            self._http.stop()  # free the port
            raise
        # Only now, because advice about refused requests names both endpoints.
        self._http.start()

    @property
    def http_endpoint(self) -> str:
        """The `endpoint` for an `otlp-http` exporter."""
        return f"http://{url_host(self._host)}:{self._http.port}{LOGS_PATH}"

    @property
    def grpc_endpoint(self) -> str:
        """The `endpoint` for an `otlp-grpc` exporter.

        Raises:
            ImportError: the package `grpcio` is not installed.

        """
        return f"http://{url_host(self._host)}:{self._grpc.port}"

    @property
    def events(self) -> list[ReceivedEvent]:
        """The events received so far, in order of arrival; a copy."""
        with self._arrival:
            return list(self._events)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests received so far, in order of arrival; a copy."""
        with self._arrival:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedEvent]:
        """Wait until `count` events have arrived in total, and return all events received so far.

        Blocks for at most `timeout` seconds.

        Raises:
            TimeoutError: fewer events arrived; the message has their number and names.

        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self._events) >= count, timeout):
                arrived = f"{len(self._events)} of {count} events arrived within {timeout:g} s"
                names = names_of(self._events)
                raise TimeoutError(f"{arrived}: {names}" if names else arrived)
            return list(self._events)

    def close(self) -> None:
        """Stop listening and end all connections. Blocks for at most about three seconds.

        gRPC calls in progress get a second to end. What has been received stays available.
        """
        self._http.stop()
        self._http.disconnect_all()
        self._grpc.stop()

    def __enter__(self) -> Receiver:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse(
        self, transport: Literal["http", "grpc"], reason: str, advice: str
    ) -> RefusedRequest:
        """Report a refused request and return it, with this receiver's endpoints in the advice."""
        try:
            grpc = self.grpc_endpoint
        except ImportError:
            grpc = "a collector that accepts OTLP/gRPC"
        http = self.http_endpoint
        base = http.removesuffix(LOGS_PATH)
        refused = RefusedRequest(transport, reason, advice.format(http=http, base=base, grpc=grpc))
        if self._on_refused is not None:
            self._on_refused(refused)
        return refused

    def _keep(self, request: ReceivedRequest) -> None:
        events = list(events_of(request))
        with self._arrival:
            self._requests.append(request)
            self._events += events
            self._arrival.notify_all()
