"""Dead connections and renewed certificates: at most one request fails, and no event is dropped."""

from __future__ import annotations

import gc
import http.client
import select
import socket
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from codex_otel_logging import Receiver, Stats
from codex_otel_logging.config.settings import ExporterConfig, TlsConfig
from codex_otel_logging.events.event import SharedAttributes
from codex_otel_logging.otlp import factory, http_connections
from codex_otel_logging.otlp.deadlines import Deadline, connect
from codex_otel_logging.otlp.http_connections import DeadlineAdapter
from support import http2
from support.collectors import OK, Gate, GrpcCollector, HttpCollector, Tls
from support.events import log, numbers
from support.fixtures import HandlerFactory
from support.parts import wait_until_backing_off
from support.scripted_peers import OK as OK_ANSWER
from support.scripted_peers import Peer, answering, once

TRANSPORTS = ["binary", "json", "grpc"]


def exporter(transport: str, endpoint: str, **more: Any) -> dict[str, Any]:
    """Return the `exporter` setting for a transport."""
    if transport == "grpc":
        return {"otlp-grpc": {"endpoint": endpoint, **more}}
    if transport == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    return {"otlp-http": {"endpoint": endpoint, "protocol": transport, **more}}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gate(transport: str, receiver: Receiver) -> Any:
    endpoint = receiver.grpc_endpoint if transport == "grpc" else receiver.http_endpoint
    gate = Gate(endpoint)
    yield gate
    gate.close()


def test_connection_that_goes_silent_fails_one_request(
    attach: HandlerFactory, receiver: Receiver, transport: str, gate: Gate
) -> None:
    """As when a proxy or firewall drops its state: neither side is notified."""
    handler = attach({"exporter": exporter(transport, gate.endpoint, timeout_ms=1000)})
    for round_ in range(3):
        log(first=2 * round_)
        assert handler.flush(10)
        gate.silence()
        log(first=2 * round_ + 1)
        assert handler.flush(10)
    assert numbers(receiver.events) == list(range(6))
    assert handler.stats() == Stats(accepted=6, exported=6)


def test_handlers_do_not_share_a_silent_connection(
    attach: HandlerFactory, receiver: Receiver, transport: str, gate: Gate
) -> None:
    """By default, all gRPC channels to an address share a connection."""
    handlers = [
        attach({"exporter": exporter(transport, gate.endpoint, timeout_ms=1000)}) for _ in range(2)
    ]
    log()
    assert all(handler.flush(10) for handler in handlers)
    gate.silence()
    log(first=1)
    assert all(handler.flush(10) for handler in handlers)
    assert numbers(receiver.events) == [0, 0, 1, 1]


def test_connection_closed_while_idle_costs_no_event(
    attach: HandlerFactory,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    transport: str,
    gate: Gate,
) -> None:
    handler = attach({"exporter": exporter(transport, gate.endpoint)})
    for number in range(5):
        log(first=number)
        assert handler.flush(10)
        gate.open()  # which closes all connections
    assert numbers(receiver.events) == list(range(5))
    assert handler.stats() == Stats(accepted=5, exported=5)
    assert caplog.messages == []


@pytest.mark.parametrize("transport", ["binary", "json"], indirect=True)
def test_connection_closed_as_a_request_arrives_costs_no_event(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture, transport: str
) -> None:
    """The connection pool cannot notice that before it sends."""
    with Peer(once(OK_ANSWER), once(OK_ANSWER), answering(OK_ANSWER)) as peer:
        handler = attach({"exporter": exporter(transport, f"http://127.0.0.1:{peer.port}")})
        for number in range(4):
            log(first=number)
            assert handler.flush(10)
        assert handler.stats() == Stats(accepted=4, exported=4)
        assert peer.connections == 3
    assert caplog.messages == []


@pytest.mark.parametrize("processed", [False, True])
def test_goaway_costs_no_event(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture, processed: bool
) -> None:
    """Whether or not the peer answers the call before it sends GOAWAY."""

    def leave(stream: int) -> bytes:
        return (
            http2.accepted(stream) + http2.going_away(stream) if processed else http2.going_away(0)
        )

    with Peer(http2.answering(leave), http2.answering(http2.accepted)) as peer:
        handler = attach({"exporter": exporter("grpc", f"http://127.0.0.1:{peer.port}")})
        for number in range(3):
            log(first=number)
            assert handler.flush(10)
        assert handler.stats() == Stats(accepted=3, exported=3)
        assert peer.connections == 2
    assert caplog.messages == []


def test_limited_connection_age_costs_no_event(
    attach_to: HandlerFactory, grpc_collector: Callable[..., GrpcCollector]
) -> None:
    collector = grpc_collector(OK, options=[("grpc.max_connection_age_ms", 50)])
    handler = attach_to(collector)
    for number in range(100):
        log(first=number)
        assert handler.flush(10)
    assert numbers(collector.events) == list(range(100))
    assert handler.stats() == Stats(accepted=100, exported=100)


@pytest.mark.parametrize("protocol", TRANSPORTS[:2])
def test_request_is_sent_in_one_piece(
    attach: HandlerFactory, monkeypatch: pytest.MonkeyPatch, receiver: Receiver, protocol: str
) -> None:
    """Each send releases the GIL; a thread that logs at full speed then keeps it for 5 ms."""
    sent: list[bytes] = []
    send = http.client.HTTPConnection.send

    def note(connection: http.client.HTTPConnection, data: bytes) -> None:
        sent.append(data)
        send(connection, data)

    handler = attach({"exporter": exporter(protocol, receiver.http_endpoint)})
    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPConnection, "send", note)
        for number in range(3):
            log(first=number)
            assert handler.flush()
    assert [data[:18] for data in sent] == 3 * [b"POST /v1/logs HTTP"]
    assert numbers(receiver.events) == [0, 1, 2]


@pytest.mark.parametrize("body", [b"", b"x"])
def test_request_without_a_body_is_sent(body: bytes) -> None:
    with Peer(answering(OK_ANSWER)) as peer, requests.Session() as session:
        session.mount("http://", DeadlineAdapter(Deadline(10), {}))
        assert session.post(f"http://127.0.0.1:{peer.port}/", data=body).ok


@pytest.mark.parametrize("protocol", ["binary", "json"])
def test_connection_reset_before_the_tls_handshake_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """A collector that stops does this to a connection in its backlog.

    CPython before 3.13 leaves the socket to the garbage collector, which complains in the
    application's log.
    """

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def connect_and_wait(*args: Any) -> socket.socket:
        connection = connect(*args)
        assert select.select([connection], [], [], 10)[0]
        return connection

    monkeypatch.setattr(http_connections, "connect", connect_and_wait)
    gc.collect()
    with Peer(reset) as peer, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exporter_settings = exporter(protocol, f"https://127.0.0.1:{peer.port}/")["otlp-http"]
        config = ExporterConfig("otlp-http", **exporter_settings)
        connected = factory.connect(config, SharedAttributes({}, {}))
        assert connected.export([]).verdict == "retry"
        connected.shutdown()
        gc.collect()
    assert [warning for warning in caught if warning.category is ResourceWarning] == []


CERTIFICATE_FILES = ("ca-certificate", "client-certificate", "client-private-key")


def write_certificates(
    folder: Path, authority: trustme.CA, *, clients: trustme.CA
) -> dict[str, str]:
    """Write an authority and a client certificate to files; return them as the `tls` setting."""
    client = clients.issue_cert("agent@example.com")
    contents = {
        "ca-certificate": authority.cert_pem.bytes(),
        "client-certificate": b"".join(pem.bytes() for pem in client.cert_chain_pems),
        "client-private-key": client.private_key_pem.bytes(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


class TestRenewedCertificates:
    """The certificate files are read again after a failed handshake."""

    @pytest.fixture
    def start(self, transport: str) -> Any:
        started: list[Any] = []

        def start(tls: Tls) -> Any:
            collector = (GrpcCollector if transport == "grpc" else HttpCollector)(OK, tls=tls)
            started.append(collector)
            return collector

        yield start
        for collector in started:
            collector.stop()

    @pytest.mark.parametrize("renewed", ["client", "authority"])
    def test_renewed_certificate_files_end_an_outage(
        self,
        attach: HandlerFactory,
        tmp_path: Path,
        transport: str,
        start: Callable[[Tls], Any],
        renewed: str,
    ) -> None:
        old, new = trustme.CA(), trustme.CA()
        tls = write_certificates(tmp_path, old, clients=old)
        before = start(Tls(old.issue_cert("127.0.0.1"), clients=old))
        if renewed == "client":
            after = start(Tls(old.issue_cert("127.0.0.1"), clients=new))
        else:
            after = start(Tls(new.issue_cert("127.0.0.1"), clients=old))
        gate = Gate(before.endpoint)
        try:
            handler = attach({"exporter": exporter(transport, gate.endpoint, tls=tls)})
            log()
            assert handler.flush(10)
            gate.lead_to(after.endpoint)
            log(first=1)
            assert handler.flush(0.1) is False
            wait_until_backing_off(handler)
            if renewed == "client":
                write_certificates(tmp_path, old, clients=new)
            else:
                write_certificates(tmp_path, new, clients=old)
            assert handler.flush(30)
        finally:
            gate.close()
        assert handler.stats() == Stats(accepted=2, exported=2)
        assert (numbers(before.events), numbers(after.events)) == ([0], [1])

    @pytest.mark.parametrize("name", CERTIFICATE_FILES)
    def test_empty_certificate_file_is_refused_before_grpc_reads_it(
        self, tmp_path: Path, name: str
    ) -> None:
        """For an empty key or certificate, gRPC ends the process."""
        authority = trustme.CA()
        files = write_certificates(tmp_path, authority, clients=authority)
        Path(files[name]).write_bytes(b"")
        tls = TlsConfig(*(files[each] for each in CERTIFICATE_FILES))
        config = ExporterConfig("otlp-grpc", "https://127.0.0.1:9", tls=tls)
        with pytest.raises(RuntimeError, match="a certificate file is empty"):
            factory.connect(config, SharedAttributes({}, {}))

    @pytest.mark.parametrize("name", CERTIFICATE_FILES)
    def test_temporarily_empty_certificate_files_cost_no_event(
        self,
        attach: HandlerFactory,
        tmp_path: Path,
        transport: str,
        start: Callable[[Tls], Any],
        name: str,
    ) -> None:
        """As while they are written anew."""
        authority = trustme.CA()
        files = write_certificates(tmp_path, authority, clients=authority)
        tls = Tls(authority.issue_cert("127.0.0.1"), clients=authority)
        gate = Gate(start(tls).endpoint)
        try:
            handler = attach({"exporter": exporter(transport, gate.endpoint, tls=files)})
            log()
            assert handler.flush(10)
            gate.refuse()
            content = Path(files[name]).read_bytes()
            Path(files[name]).write_bytes(b"")
            log(first=1)
            assert handler.flush(0.1) is False
            wait_until_backing_off(handler)
            gate.open()
            assert handler.flush(0.5) is False
            Path(files[name]).write_bytes(content)
            assert handler.flush(30)
        finally:
            gate.close()
        assert handler.stats() == Stats(accepted=2, exported=2)

    def test_temporarily_missing_certificate_files_cost_no_event(
        self,
        attach: HandlerFactory,
        tmp_path: Path,
        transport: str,
        start: Callable[[Tls], Any],
    ) -> None:
        """As while the files are replaced."""
        authority = trustme.CA()
        file, away = tmp_path / "ca.pem", tmp_path / "ca.away"
        authority.cert_pem.write_to_path(file)
        gate = Gate(start(Tls(authority.issue_cert("127.0.0.1"))).endpoint)
        try:
            tls = {"ca-certificate": str(file)}
            handler = attach({"exporter": exporter(transport, gate.endpoint, tls=tls)})
            log()
            assert handler.flush(10)
            gate.open()
            file.rename(away)
            gate.refuse()
            log(first=1)
            assert handler.flush(0.1) is False
            wait_until_backing_off(handler)
            gate.open()
            assert handler.flush(0.5) is False
            away.rename(file)
            assert handler.flush(30)
        finally:
            gate.close()
        assert handler.stats() == Stats(accepted=2, exported=2)
