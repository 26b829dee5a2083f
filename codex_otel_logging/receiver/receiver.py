"""The receiver as applications see it: its endpoints, and the events that have arrived."""

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

    It listens as soon as it is built, over gRPC only where the package `grpcio` is installed. All
    methods may be called from any thread. Connections that stay idle for a minute are ended. While
    it listens on a loopback address, HTTP requests with a `Host` or `Origin` other than a loopback
    name are refused: a web page can make a browser send those.

    Args:
        host: address to listen on.
        http_port: port for HTTP; 0 takes a free one.
        grpc_port: port for gRPC; 0 takes a free one.
        on_request: called with each request, instead of keeping it: `events` and `requests` stay
            empty, memory use does not grow, and the function keeps what it needs of `events_of` the
            request. It is called from the receiver's threads, several at once, and the sender is
            answered when it returns. If it raises `queue.Full`, the sender is asked to send the
            request again (HTTP 503, gRPC UNAVAILABLE), so the `put_nowait` of a `queue.Queue` is
            enough. Any other exception fails the request for good and is printed on stderr.
        on_refused: called with each request that is refused, such as one to another path, before
            the sender is answered. It is called from the receiver's threads, several at once. An
            exception that it raises is printed on stderr, and the sender gets no answer.
        max_request_bytes: how large a request may be, as sent and as decompressed; larger ones are
            refused. The default of 4 MiB is that of gRPC.

    Raises:
        PortError: a port is taken, or not allowed; an `OSError`.
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
        try:  # here, so that the class can be imported and documented without the extra
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
            self._http.stop()
            raise
        self._http.start()

    @property
    def http_endpoint(self) -> str:
        """The address for an `otlp-http` exporter."""
        return f"http://{url_host(self._host)}:{self._http.port}{LOGS_PATH}"

    @property
    def grpc_endpoint(self) -> str:
        """The address for an `otlp-grpc` exporter.

        Raises:
            ImportError: the package `grpcio` is not installed.

        """
        return f"http://{url_host(self._host)}:{self._grpc.port}"

    @property
    def events(self) -> list[ReceivedEvent]:
        """The events that have arrived so far, in the order of their arrival; a copy."""
        with self._arrival:
            return list(self._events)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests that have arrived so far; a copy."""
        with self._arrival:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedEvent]:
        """Wait until `count` events have arrived in all, and return all that have.

        Raises:
            TimeoutError: fewer arrived within `timeout` seconds; says how many, and their names.

        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self._events) >= count, timeout):
                arrived = f"{len(self._events)} of {count} events arrived within {timeout:g} s"
                names = names_of(self._events)
                raise TimeoutError(f"{arrived}: {names}" if names else arrived)
            return list(self._events)

    def close(self) -> None:
        """Stop listening and close the connections. Blocks for about three seconds at most."""
        self._http.stop()
        self._http.hang_up()
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
        """Report a refused request, and return it with this receiver's endpoints in the advice."""
        try:
            grpc = self.grpc_endpoint
        except ImportError:
            grpc = "a collector that receives OTLP/gRPC"
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
