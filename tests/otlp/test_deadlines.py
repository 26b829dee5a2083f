"""`timeout_ms` limits a whole request, whatever the peer does to prolong it.

No test measures time. A slow peer completes its answer after some seconds, one byte at a time. If
the timeout applied to single operations, the request would succeed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import trustme
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from codex_otel_logging import Receiver, Stats
from codex_otel_logging.config.settings import TlsConfig
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.otlp.deadlines import Deadline, connect
from support import http2
from support.collectors import Tls
from support.events import log
from support.exporters import HTTP, connected_over, event
from support.fixtures import HandlerFactory
from support.scripted_peers import (
    OK,
    Peer,
    answering,
    dripping,
    read_request,
    reading_slowly,
    tunneling,
)
from support.slow_peers import (
    BODIES,
    BODY,
    SLOW_ANSWERS,
    SLOW_CALLS,
    SLOW_TUNNELS,
    TUNNEL,
    slow_handshake,
)

TIMEOUT_MS = 500
NO_ANSWER = Outcome("retry", "no answer within 0.5 s")
TOO_LATE = "gRPC DEADLINE_EXCEEDED: "
MOVED = "redirects are not followed; set endpoint to the redirect's target"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> Tls:
    return Tls(authority.issue_cert("127.0.0.1"))


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Any) -> TlsConfig:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return TlsConfig(str(file))


@pytest.mark.parametrize("protocol", HTTP)
@pytest.mark.parametrize("slow", SLOW_ANSWERS)
def test_slow_answer_fails_at_the_timeout(protocol: str, slow: str) -> None:
    with Peer(SLOW_ANSWERS[slow]) as peer, connected_over(protocol, _url(peer)) as exporter:
        assert exporter.export([event()]) == NO_ANSWER


@pytest.mark.parametrize("protocol", HTTP)
def test_slow_answer_over_tls_fails_at_the_timeout(
    protocol: str, tls: Tls, trusted: TlsConfig
) -> None:
    with (
        Peer(SLOW_ANSWERS["headers"], tls=tls) as peer,
        connected_over(protocol, _url(peer, "https"), tls=trusted) as exporter,
    ):
        assert exporter.export([event()]) == NO_ANSWER


@pytest.mark.parametrize("protocol", [*HTTP, "grpc"])
def test_slow_handshake_fails_at_the_timeout(protocol: str, trusted: TlsConfig) -> None:
    with (
        Peer(slow_handshake) as peer,
        connected_over(protocol, _url(peer, "https"), tls=trusted) as exporter,
    ):
        outcome = exporter.export([event()])
    assert outcome == NO_ANSWER or outcome.reason.startswith(TOO_LATE)
    assert outcome.verdict == "retry"


@pytest.mark.parametrize("protocol", HTTP)
@pytest.mark.parametrize("secure", [False, True])
def test_request_that_is_read_slowly_fails_at_the_timeout(
    protocol: str, secure: bool, tls: Tls, trusted: TlsConfig
) -> None:
    """The request is larger than the connection's buffers, so sending blocks."""
    large = event(text="x" * 16_000_000)
    with (
        Peer(reading_slowly, tls=tls if secure else None) as peer,
        connected_over(
            protocol, _url(peer, "https" if secure else "http"), tls=trusted
        ) as exporter,
    ):
        assert exporter.export([large]) == NO_ANSWER


@pytest.mark.parametrize("protocol", HTTP)
def test_sending_gets_the_time_left_by_the_handshake(
    tls: Tls, trusted: TlsConfig, protocol: str
) -> None:
    given_up, in_time = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        threading.Event().wait(1.2)
        with tls.context().wrap_socket(connection, server_side=True):
            if given_up.wait(1.6):  # with a timeout of its own, sending would still be going on
                in_time.set()

    with Peer(serve) as peer:
        endpoint = _url(peer, "https")
        with connected_over(protocol, endpoint, tls=trusted, timeout_ms=2000) as exporter:
            outcome = exporter.export([event(text="x" * 16_000_000)])
        given_up.set()
        assert outcome == Outcome("retry", "no answer within 2 s")
        assert in_time.wait(20)


@pytest.mark.parametrize("protocol", [*HTTP, "grpc"])
@pytest.mark.parametrize("slow", SLOW_TUNNELS)
def test_slow_proxy_fails_at_the_timeout(
    monkeypatch: pytest.MonkeyPatch, protocol: str, slow: str
) -> None:
    with Peer(SLOW_TUNNELS[slow]) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with connected_over(protocol, "https://127.0.0.1:9") as exporter:
            outcome = exporter.export([event()])
    assert outcome == NO_ANSWER or outcome.reason.startswith(TOO_LATE)
    assert outcome.verdict == "retry"
    assert proxy.connections >= 1


@pytest.mark.parametrize("protocol", HTTP)
def test_slow_answer_through_a_proxy_fails_at_the_timeout(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    with Peer(SLOW_ANSWERS["headers"]) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        with connected_over(protocol, "http://127.0.0.1:9/v1/logs") as exporter:
            assert exporter.export([event()]) == NO_ANSWER


@pytest.mark.parametrize("protocol", HTTP)
def test_handshake_gets_the_time_left_by_the_tunnel(
    monkeypatch: pytest.MonkeyPatch, tls: Tls, trusted: TlsConfig, protocol: str
) -> None:
    """The tunnel and the handshake are each within the timeout, but not both together."""
    shaken = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        threading.Event().wait(0.6)
        connection.sendall(TUNNEL + b"\r\n")
        threading.Event().wait(0.6)
        with tls.context().wrap_socket(connection, server_side=True):
            shaken.set()

    with Peer(serve) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        endpoint = "https://127.0.0.1:9"
        with connected_over(protocol, endpoint, tls=trusted, timeout_ms=1000) as exporter:
            assert exporter.export([event()]) == Outcome("retry", "no answer within 1 s")
        assert not shaken.wait(0.5)


class TestHttpsProxy:
    """TLS inside TLS, which urllib3 implements in Python."""

    @pytest.fixture(autouse=True)
    def proxy(self, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with Peer(tunneling, tls=tls) as proxy:
            monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{proxy.port}")
            yield

    @pytest.mark.parametrize("protocol", HTTP)
    @pytest.mark.parametrize("answer", [OK, OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)])
    def test_answer_arrives_through_an_https_proxy(
        self, tls: Tls, trusted: TlsConfig, protocol: str, answer: bytes
    ) -> None:
        with (
            Peer(answering(answer), tls=tls) as peer,
            connected_over(protocol, _url(peer, "https"), tls=trusted, timeout_ms=5000) as exporter,
        ):
            assert [exporter.export([event()]) for _ in range(2)] == [DELIVERED] * 2

    @pytest.mark.parametrize("protocol", HTTP)
    def test_slow_handshake_fails_at_the_timeout(self, trusted: TlsConfig, protocol: str) -> None:
        with (
            Peer(slow_handshake) as peer,
            connected_over(protocol, _url(peer, "https"), tls=trusted) as exporter,
        ):
            assert exporter.export([event()]) == NO_ANSWER

    @pytest.mark.parametrize("protocol", HTTP)
    def test_slow_answer_fails_at_the_timeout(
        self, tls: Tls, trusted: TlsConfig, protocol: str
    ) -> None:
        with (
            Peer(SLOW_ANSWERS["headers"], tls=tls) as peer,
            connected_over(protocol, _url(peer, "https"), tls=trusted) as exporter,
        ):
            assert exporter.export([event()]) == NO_ANSWER


@pytest.mark.parametrize("slow", SLOW_CALLS)
def test_slow_grpc_answer_fails_at_the_timeout(slow: str) -> None:
    with Peer(SLOW_CALLS[slow]) as peer, connected_over("grpc", _url(peer)) as exporter:
        outcome = exporter.export([event()])
    assert outcome.verdict == "retry"
    assert outcome.reason.startswith(TOO_LATE)


@pytest.mark.parametrize("protocol", HTTP)
@pytest.mark.parametrize("headers", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("200 OK", DELIVERED),
        ("503 Busy", Outcome("retry", "HTTP 503 Busy", status=503)),
        ("400 Bad", Outcome("invalid", "HTTP 400 Bad", status=400)),
        ("302 Found\r\nLocation: /", Outcome("refused", f"HTTP 302 Found: {MOVED}", status=302)),
    ],
    ids=["200", "503", "400", "302"],
)
def test_status_is_final_even_if_the_body_never_ends(
    protocol: str, headers: bytes, status: str, outcome: Outcome
) -> None:
    """The body is read only until the timeout."""
    done = threading.Event()
    slow = dripping(BODY, first=b"HTTP/1.1 " + status.encode() + b"\r\n" + headers, done=done)
    with Peer(slow, answering(OK)) as peer, connected_over(protocol, _url(peer)) as exporter:
        assert exporter.export([event()]) == outcome
        assert not done.is_set()
        assert exporter.export([event()]) == DELIVERED
        assert peer.connections == 2


@pytest.mark.parametrize("protocol", [*HTTP, "grpc"])
def test_events_of_a_timed_out_request_are_exported_by_the_next_attempt(
    attach: HandlerFactory, protocol: str
) -> None:
    """The peer answers the second connection at once."""
    if protocol == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    if protocol == "grpc":
        serve = (
            http2.answering(lambda stream: http2.accepted(stream)[:20]),
            http2.answering(http2.accepted),
        )
    else:
        serve = (SLOW_ANSWERS["headers"], answering(OK))
    with Peer(*serve) as peer:
        settings: dict[str, Any] = {"endpoint": _url(peer), "timeout_ms": 2000}
        if protocol == "grpc":
            exporter = {"otlp-grpc": {**settings, "endpoint": f"http://127.0.0.1:{peer.port}"}}
        else:
            exporter = {"otlp-http": {**settings, "protocol": protocol}}
        handler = attach({"exporter": exporter})
        log(3)
        assert handler.flush(20)
        assert handler.stats() == Stats(accepted=3, exported=3)
        assert peer.connections == 2


class TestConnecting:
    """All addresses of a host share one timeout."""

    @pytest.fixture
    def hole(self) -> Iterator[tuple[str, int]]:
        """Return an address that does not answer: a listener with a full queue."""
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                with suppress(BlockingIOError):
                    waiting.connect(listener.getsockname())
            yield listener.getsockname()

    @pytest.fixture
    def resolve(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Make `collector.localhost` resolve to given addresses, after a delay."""
        real = socket.getaddrinfo

        def resolve(*addresses: tuple[str, int], after_s: float = 0.0) -> None:
            def found(host: Any, *args: Any, **more: Any) -> Any:
                if host != "collector.localhost":
                    return real(host, *args, **more)
                threading.Event().wait(after_s)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in addresses]

            monkeypatch.setattr(socket, "getaddrinfo", found)

        return resolve

    @pytest.mark.parametrize("protocol", HTTP)
    def test_unreachable_address_leaves_time_for_the_next(
        self, resolve: Callable[..., None], hole: Any, receiver: Receiver, protocol: str
    ) -> None:
        port = int(receiver.http_endpoint.split(":")[2].partition("/")[0])
        resolve(hole, ("127.0.0.1", port))
        url = "http://collector.localhost/v1/logs"
        with connected_over(protocol, url, timeout_ms=2000) as exporter:
            assert exporter.export([event()]) == DELIVERED
        assert len(receiver.events) == 1

    @pytest.mark.parametrize("protocol", HTTP)
    def test_many_unreachable_addresses_take_no_longer_than_one(
        self, resolve: Callable[..., None], hole: Any, protocol: str
    ) -> None:
        resolve(*[hole] * 1000)
        with connected_over(protocol, "http://collector.localhost/v1/logs") as exporter:
            outcome = exporter.export([event()])
        assert outcome == Outcome("retry", "no connection within 0.5 s")

    @pytest.mark.parametrize("protocol", HTTP)
    def test_name_resolution_is_excluded_from_the_timeout(
        self, resolve: Callable[..., None], receiver: Receiver, protocol: str
    ) -> None:
        """Python cannot interrupt it, and a slow resolver must not make every request fail."""
        port = int(receiver.http_endpoint.split(":")[2].partition("/")[0])
        resolve(("127.0.0.1", port), after_s=3.0)
        url = "http://collector.localhost/v1/logs"
        with connected_over(protocol, url, timeout_ms=2000) as exporter:
            assert exporter.export([event()]) == DELIVERED

    @pytest.mark.parametrize("protocol", HTTP)
    def test_socks_proxy_class_connects_within_the_timeout(
        self, monkeypatch: pytest.MonkeyPatch, protocol: str
    ) -> None:
        """That class resolves no name here, and negotiates with the proxy before the request."""
        timeouts: list[float] = []

        class ThroughProxy(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                assert self.timeout is not None
                timeouts.append(self.timeout)
                return socket.create_connection(("127.0.0.1", proxy.port), self.timeout)

        monkeypatch.setattr(HTTPConnectionPool, "ConnectionCls", ThroughProxy)
        with (
            Peer(answering(OK)) as proxy,
            connected_over(
                protocol, "http://collector.invalid/v1/logs", timeout_ms=5000
            ) as exporter,
        ):
            assert exporter.export([event()]) == DELIVERED
        (timeout,) = timeouts
        assert 0 < timeout <= 5

    def test_connecting_to_no_address_raises(self) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect([], Deadline(1))

    def test_address_of_an_unsupported_family_is_skipped(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            addresses: list[tuple[int, Any]] = [(-7, ""), (socket.AF_INET, listener.getsockname())]
            with connect(addresses, Deadline(5)) as connection:
                assert connection.getpeername() == listener.getsockname()

    def test_connection_established_after_the_deadline_is_closed(self) -> None:
        class PassedMeanwhile(Deadline):
            def limit(self, connection: Any) -> None:
                self.start(-1)
                super().limit(connection)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            with pytest.raises(TimeoutError) as timeout:
                connect([(socket.AF_INET, listener.getsockname())], PassedMeanwhile(60))
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(10)
                assert peer.recv(1) == b""
        assert timeout.tb is not None  # the traceback would keep an open connection alive

    @pytest.mark.parametrize("protocol", HTTP)
    def test_proxy_connection_established_after_the_deadline_is_closed(
        self, monkeypatch: pytest.MonkeyPatch, protocol: str
    ) -> None:
        late: list[socket.socket] = []

        class ThroughProxy(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                late.append(socket.create_connection(("127.0.0.1", proxy.port)))
                threading.Event().wait(self.timeout)
                return late[0]

        monkeypatch.setattr(HTTPConnectionPool, "ConnectionCls", ThroughProxy)
        with (
            Peer(answering(OK)) as proxy,
            connected_over(protocol, "http://collector.invalid/v1/logs") as exporter,
        ):
            assert exporter.export([event()]) == NO_ANSWER
            assert late[0].fileno() == -1


def test_expired_deadline_raises() -> None:
    deadline = Deadline(-1)
    with pytest.raises(TimeoutError):
        deadline.left_s()
    deadline.start(60)
    assert 0 < deadline.left_s() <= 60


def test_socket_timeout_is_set_only_if_it_differs_noticeably() -> None:
    """Setting it releases the GIL, which another thread may then keep for 5 ms."""

    class Connection:
        def __init__(self) -> None:
            self.timeouts: list[float | None] = [None]

        def gettimeout(self) -> float | None:
            return self.timeouts[-1]

        def settimeout(self, timeout_s: float) -> None:
            self.timeouts.append(timeout_s)

    connection = Connection()
    for timeout_s, expected in [(60, 60), (60, 60), (59.5, 60), (50, 50), (70, 70)]:
        Deadline(timeout_s).limit(connection)
        assert connection.timeouts[-1] == pytest.approx(expected, abs=0.4)
    assert len(connection.timeouts) == 4


def _url(peer: Peer, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{peer.port}"
