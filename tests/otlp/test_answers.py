"""Judging unusual answers: interim (1xx) answers, odd successes, web pages, odd gRPC calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from support import http2
from support.collectors import JSON, PROTOBUF, TEXT, HttpCollector
from support.events import log
from support.exporters import HTTP, connected, event
from support.fixtures import HandlerFactory
from support.scripted_peers import OK, Peer, Serve, answering, drip, read_request

HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in.</body></html>"


def http(protocol: Any, endpoint: str) -> ExporterConfig:
    if protocol == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    return ExporterConfig("otlp-http", endpoint, protocol=protocol)


def grpc(peer: Peer) -> ExporterConfig:
    return ExporterConfig("otlp-grpc", f"http://127.0.0.1:{peer.port}", timeout_ms=2000)


INTERIM = {
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    "104": b"HTTP/1.1 104 Upload Resumption Supported\r\n\r\n",
    "199 without a reason": b"HTTP/1.1 199\r\n\r\n",
}
INTERIM["all of them"] = b"".join(INTERIM.values())
INTERIM["one many times"] = INTERIM["102"] * 50


class TestInterimAnswers:
    """A client must be able to skip interim answers, even unexpected ones (RFC 9110, 15.2)."""

    @pytest.mark.parametrize("protocol", HTTP)
    @pytest.mark.parametrize("interim", INTERIM)
    def test_interim_answers_are_skipped(self, protocol: Any, interim: str) -> None:
        """Each request gets the final answer that follows, on one connection."""
        final = OK.replace(b"200 OK", b"401 Unauthorized")
        answers = [INTERIM[interim] + answer for answer in (OK, final, OK)]
        with Peer(answering(*answers)) as peer:
            url = f"http://127.0.0.1:{peer.port}"
            with connected(http(protocol, url)) as exporter:
                outcomes = [exporter.export([event()]) for _ in range(3)]
            assert peer.connections == 1
        refused = Outcome("refused", "HTTP 401 Unauthorized", status=401)
        assert outcomes == [DELIVERED, refused, DELIVERED]

    @pytest.mark.parametrize("protocol", HTTP)
    @pytest.mark.parametrize("interim", ["100", "103"])
    def test_interim_answers_that_arrive_byte_by_byte_are_skipped(
        self, protocol: Any, interim: str
    ) -> None:
        def serve(connection: Any) -> None:
            while True:
                read_request(connection)
                drip(connection, INTERIM[interim] + OK, 0.001)

        with (
            Peer(serve) as peer,
            connected(http(protocol, f"http://127.0.0.1:{peer.port}")) as exporter,
        ):
            assert [exporter.export([event()]) for _ in range(3)] == [DELIVERED] * 3
            assert peer.connections == 1

    @pytest.mark.parametrize("protocol", HTTP)
    @pytest.mark.parametrize("interim", ["100", "102", "103"])
    def test_events_are_exported_once_despite_interim_answers(
        self, attach: HandlerFactory, protocol: Any, interim: str
    ) -> None:
        with Peer(answering(INTERIM[interim] + OK)) as peer:
            endpoint = f"http://127.0.0.1:{peer.port}"
            http(protocol, endpoint)
            exporter = {"otlp-http": {"endpoint": endpoint, "protocol": protocol}}
            handler = attach({"exporter": exporter})
            for number in range(3):
                log(first=number)
                assert handler.flush(10)
            assert handler.stats() == Stats(accepted=3, exported=3)
            assert peer.connections == 1

    @pytest.mark.parametrize("protocol", HTTP)
    def test_interim_answers_of_a_proxy_are_skipped(
        self, monkeypatch: pytest.MonkeyPatch, protocol: Any
    ) -> None:
        refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        with Peer(answering(INTERIM["100"] + INTERIM["103"] + refusal)) as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            with connected(http(protocol, "https://127.0.0.1:9")) as exporter:
                outcome = exporter.export([event()])
        assert outcome.verdict == "retry"
        assert "403 Forbidden" in outcome.reason

    @pytest.mark.parametrize("protocol", HTTP)
    def test_switching_protocols_is_a_failure(self, protocol: Any) -> None:
        """No upgrade was requested, and the connection no longer carries HTTP."""
        switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: odd\r\n\r\n"
        with Peer(answering(switching + OK), answering(OK)) as peer:
            url = f"http://127.0.0.1:{peer.port}"
            with connected(http(protocol, url)) as exporter:
                outcomes = [exporter.export([event()]) for _ in range(2)]
            assert peer.connections == 2
        assert outcomes == [
            Outcome("refused", "HTTP 101 Switching Protocols", status=101),
            DELIVERED,
        ]


SUCCESSES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "200 without a body": (200, {}, b""),
    "200 without a body, as HTML": (200, HTML, b""),
    "200 with text": (200, TEXT, b"ok"),
    "200 with text, as HTML": (200, HTML, b"ok"),
    "200 with {}": (200, JSON, b"{}"),
    "200 with {}, as protobuf": (200, PROTOBUF, b"{}"),
    "200 with {}, as HTML": (200, HTML, b"{}"),
    "200 with odd JSON": (200, JSON, b"null"),
    "200 with XML": (200, {"Content-Type": "application/xml"}, b"<?xml version='1.0'?><ok/>"),
    "201": (201, JSON, b'{"id": 1}'),
    "202 without a body": (202, {}, b""),
    "202 with text": (202, TEXT, b"queued"),
    "204": (204, {}, b""),
    "299": (299, {}, b""),
}


@pytest.mark.parametrize("protocol", HTTP)
@pytest.mark.parametrize("target", ["/elsewhere", "http://[::1", "http://\xfc..x:99999/", "", "x:"])
def test_redirect_is_refused_whatever_its_target(
    http_collector: Callable[..., HttpCollector], protocol: Any, target: str
) -> None:
    collector = http_collector((302, {"Location": target}, b"moved"))
    with connected(http(protocol, collector.endpoint)) as exporter:
        outcome = exporter.export([event()])
    assert (outcome.verdict, outcome.status) == ("refused", 302)
    assert outcome.reason.startswith("HTTP 302 Found: redirects are not followed")


PAGES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "as HTML": (200, HTML, PAGE),
    "as XHTML": (200, {"Content-Type": "application/xhtml+xml"}, b"<html xmlns='x'></html>"),
    "a part of a page, as HTML": (200, HTML, b"<p>Sign in</p>"),
    "as text": (200, TEXT, PAGE),
    "as nothing": (200, {}, b"\n  <HTML lang=en>"),
    "as JSON": (200, JSON, PAGE),
    "with 202": (202, HTML, PAGE),
    "after a byte order mark": (200, {}, b"\xef\xbb\xbf" + PAGE),
    "after an XML declaration": (200, {}, b"<?xml version='1.0'?>\n" + PAGE),
    "larger than is read": (200, HTML, PAGE + b" " * 1_000_000),
}


@pytest.mark.parametrize("protocol", HTTP)
@pytest.mark.parametrize("answer", SUCCESSES.values(), ids=SUCCESSES)
def test_2xx_status_is_a_success_whatever_the_body(
    http_collector: Callable[..., HttpCollector], protocol: Any, answer: Any
) -> None:
    collector = http_collector(answer)
    with connected(http(protocol, collector.endpoint)) as exporter:
        assert [exporter.export([event()]) for _ in range(2)] == [DELIVERED] * 2
    assert collector.connections == 1


@pytest.mark.parametrize("protocol", HTTP)
@pytest.mark.parametrize("answer", PAGES.values(), ids=PAGES)
def test_web_page_is_recognized(
    http_collector: Callable[..., HttpCollector], protocol: Any, answer: Any
) -> None:
    collector = http_collector(answer)
    with connected(http(protocol, collector.endpoint)) as exporter:
        outcome = exporter.export([event()])
    assert (outcome.verdict, outcome.status, outcome.web_page) == ("delivered", answer[0], True)
    assert outcome.reason.startswith(f"HTTP {answer[0]} ")


@pytest.mark.parametrize("protocol", HTTP)
def test_web_page_is_reported_once_and_its_events_count_as_exported(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    protocol: Any,
) -> None:
    collector = http_collector(
        (200, HTML, PAGE), (200, HTML, PAGE), (200, PROTOBUF, b""), (200, HTML, PAGE)
    )
    http(protocol, collector.endpoint)
    settings = {"endpoint": collector.endpoint, "protocol": protocol}
    handler = attach({"exporter": {"otlp-http": settings}})
    for number in range(4):
        log(first=number)
        assert handler.flush(10)
    assert handler.stats() == Stats(accepted=4, exported=4)
    (message,) = caplog.messages
    assert message.startswith(
        f"otlp-http {collector.endpoint}: the answer is a web page (HTTP 200 OK, text/html), "
        "so the endpoint is probably not a collector; events count as exported"
    )


OK_CALLS: dict[str, Serve] = {
    "an empty response": http2.answering(http2.accepted),
    "a response that is no protobuf": http2.answering(
        lambda stream: http2.accepted(stream, http2.message(b"\xff"))
    ),
    "a response that is text": http2.answering(
        lambda stream: http2.accepted(stream, http2.message(b"hello"))
    ),
    "no response": http2.answering(
        lambda stream: (
            http2.headers(stream, http2.GRPC) + http2.headers(stream, http2.STATUS_OK, end=True)
        )
    ),
    "trailers alone": http2.answering(
        lambda stream: http2.headers(stream, {**http2.GRPC, **http2.STATUS_OK}, end=True)
    ),
}


@pytest.mark.parametrize("serve", OK_CALLS.values(), ids=OK_CALLS)
def test_grpc_status_ok_is_a_success_whatever_the_response(serve: Serve) -> None:
    with Peer(serve) as peer, connected(grpc(peer)) as exporter:
        assert [exporter.export([event()]) for _ in range(2)] == [DELIVERED] * 2
        assert peer.connections == 1


def _with_status(status: int) -> Serve:
    fields = {":status": str(status), "content-type": "text/html"}
    return http2.answering(
        lambda stream: http2.headers(stream, fields) + http2.data(stream, PAGE, end=True)
    )


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, "refused"),
        (400, "invalid"),
        (401, "refused"),
        (403, "refused"),
        (404, "refused"),
        (413, "too large"),
        (429, "retry"),
        (502, "retry"),
        (503, "retry"),
        (504, "retry"),
    ],
)
def test_web_page_instead_of_a_grpc_answer_is_judged_by_its_http_status(
    status: int, verdict: str
) -> None:
    """Proxies without gRPC support send one. It is never a success, not even with status 200."""
    with Peer(_with_status(status)) as peer, connected(grpc(peer)) as exporter:
        outcome = exporter.export([event()])
    assert outcome.verdict == verdict
    assert outcome.reason.startswith("gRPC ")
