"""TLS to collectors that have a certificate, want one, or must not be trusted; all are real."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery.outages import DIAGNOSE
from codex_otel_logging.otlp.grpc_answers import what_failed
from codex_otel_logging.otlp.reasons import tls_failure
from support.certificates import Certificates
from support.collectors import OK, GrpcCollector, HttpCollector, Tls
from support.events import log, numbers
from support.fixtures import HandlerFactory, RunPython, Scripted
from support.paths import read_program


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No authority comes from the machine's environment."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def exporter(collector: HttpCollector | GrpcCollector, tls: Any, **more: Any) -> dict[str, Any]:
    """The `exporter` setting for a collector, over TLS whatever that one speaks."""
    ((name, settings),) = collector.exporter.items()
    endpoint = settings["endpoint"].replace("http://", "https://")
    return {name: {"endpoint": endpoint, "tls": tls, **more}}


def test_an_authority_of_ones_own(
    scripted: Scripted, attach: HandlerFactory, certificates: Certificates
) -> None:
    collector = scripted(OK, tls=Tls(certificates.good))
    handler = attach({"exporter": exporter(collector, certificates.settings())})
    for number in range(3):
        log(first=number)
        assert handler.flush(10)
    assert numbers(collector.events) == [0, 1, 2]
    assert handler.stats() == Stats(accepted=3, exported=3)


def test_a_client_certificate(
    scripted: Scripted, attach: HandlerFactory, certificates: Certificates
) -> None:
    collector = scripted(OK, tls=Tls(certificates.good, certificates.authority))
    tls = certificates.settings(certificates.client)
    handler = attach({"exporter": exporter(collector, tls)})
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, exported=1)
    assert len(collector.events) == 1


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_json(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    compression: str,
) -> None:
    collector = http_collector(OK, tls=Tls(certificates.good, certificates.authority))
    tls = certificates.settings(certificates.client)
    more = {"protocol": "json", "compression": compression}
    handler = attach({"exporter": exporter(collector, tls, **more)})
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, exported=1)
    (headers,) = collector.requests
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("fault", ["unknown authority", "no TLS"])
def test_json_to_bad_ones(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    bad = BAD[fault]
    collector = http_collector(OK, tls=bad.collector(certificates))
    settings = exporter(collector, certificates.settings(), protocol="json")
    table = {"exporter": settings, "batch": {"retry_for_ms": 0}}
    handler = attach(table)
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, dropped=1)
    assert collector.requests == []
    (message,) = caplog.messages
    assert re.fullmatch(pattern(bad, table, LOST), message), message


@pytest.mark.parametrize("client", [False, True])
def test_a_bare_name_takes_the_files_of_the_standard_variables(
    scripted: Scripted,
    attach: HandlerFactory,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    client: bool,
) -> None:
    """They win over the machine's bundle, too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.strange_bundle)
    clients = certificates.authority if client else None
    collector = scripted(OK, tls=Tls(certificates.good, clients))
    files = certificates.settings(certificates.client if client else None)
    ((name, settings),) = collector.exporter.items()
    base = settings["endpoint"].removesuffix("/v1/logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", files["ca-certificate"])
    if client:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", files["client-certificate"])
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", files["client-private-key"])
    handler = attach({"exporter": name, "batch": {"retry_for_ms": 0}})
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, exported=1)


@pytest.mark.parametrize("protocol", ["binary", "json"])
def test_the_machines_bundle_holds_where_the_settings_say_nothing(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    collector = http_collector(OK, tls=Tls(certificates.good))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.settings()["ca-certificate"])
    batch = {"retry_for_ms": 0}
    handler = attach({"exporter": exporter(collector, {}, protocol=protocol), "batch": batch})
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, exported=1)


@pytest.mark.parametrize("protocol", ["binary", "json"])
def test_the_settings_win_over_the_machines_bundle(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    collector = http_collector(OK, tls=Tls(certificates.good))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.strange_bundle)
    tls = certificates.settings()
    batch = {"retry_for_ms": 0}
    handler = attach({"exporter": exporter(collector, tls, protocol=protocol), "batch": batch})
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, exported=1)


@dataclass(frozen=True)
class Bad:
    """A connection that must fail: what the collector has, what we show, and what is said then.

    `grpc` is what is said over gRPC where that differs; both are patterns.
    """

    collector: Callable[[Certificates], Tls | None]
    said: str
    client: Callable[[Certificates], trustme.LeafCert | None] = lambda _: None
    grpc: str = ""


HANGS_UP = "perhaps the collector requires a client certificate that it trusts"
OVER_HTTP_IT_HANGS_UP = (
    "((TLS failed: EOF occurred in violation of protocol"
    "|no connection: (Connection reset by peer|Broken pipe|Remote end closed .*)"
    f"); {HANGS_UP}"
    "|TLS failed: (tlsv13 alert certificate required|tlsv1 alert unknown ca"
    "|sslv3 alert certificate expired|sslv3 alert bad certificate)"
    "; the collector requires a client certificate that it trusts)"
)
OVER_GRPC_IT_HANGS_UP = f"(Socket closed|.*Connection reset by peer|.*Broken pipe); {HANGS_UP}"

BAD = {
    "unknown authority": Bad(
        lambda c: Tls(c.unknown),
        "TLS failed: certificate verify failed: unable to get local issuer certificate; "
        "unknown certificate authority, set ca-certificate",
    ),
    "expired": Bad(
        lambda c: Tls(c.expired),
        "TLS failed: certificate verify failed: certificate has expired",
    ),
    "not yet valid": Bad(
        lambda c: Tls(c.early),
        "TLS failed: certificate verify failed: certificate is not yet valid"
        "( or the system clock is incorrect)?",
    ),
    "for another host": Bad(
        lambda c: Tls(c.elsewhere),
        "TLS failed: certificate verify failed: (IP address|Hostname|hostname) mismatch; "
        "the certificate must name the endpoint's host",
    ),
    "no TLS": Bad(
        lambda _: None,
        "TLS failed: (wrong version number|record layer failure); "
        "the collector does not use TLS on this port",
    ),
    "no client certificate": Bad(
        lambda c: Tls(c.good, c.authority),
        OVER_HTTP_IT_HANGS_UP,
        grpc=OVER_GRPC_IT_HANGS_UP,
    ),
    "unknown client certificate": Bad(
        lambda c: Tls(c.good, c.authority),
        OVER_HTTP_IT_HANGS_UP,
        lambda c: c.unknown_client,
        grpc=OVER_GRPC_IT_HANGS_UP,
    ),
    "expired client certificate": Bad(
        lambda c: Tls(c.good, c.authority),
        OVER_HTTP_IT_HANGS_UP,
        lambda c: c.expired_client,
        grpc=OVER_GRPC_IT_HANGS_UP,
    ),
}

LOST = (
    "1 event dropped (retry_for_ms exceeded: REASON); further losses are counted but not reported; "
    f"{DIAGNOSE}"
)
WAITING = f"export failing (REASON); events stay queued and are retried; {DIAGNOSE}"


def pattern(bad: Bad, table: dict[str, Any], line: str) -> str:
    """What is said about a collector's fault, as a pattern; REASON in `line` is where it stands."""
    ((name, settings),) = table["exporter"].items()
    said = bad.said if name == "otlp-http" else f"gRPC UNAVAILABLE: {bad.grpc or bad.said}"
    before, after = line.split("REASON")
    return re.escape(f"{name} {settings['endpoint']}: {before}") + said + re.escape(after)


@pytest.mark.parametrize("fault", BAD)
def test_bad_ones_are_refused_and_told_of_once(
    scripted: Scripted,
    attach: HandlerFactory,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    bad = BAD[fault]
    collector = scripted(OK, tls=bad.collector(certificates))
    tls = certificates.settings(bad.client(certificates))
    table = {"exporter": exporter(collector, tls), "batch": {"retry_for_ms": 0}}
    handler = attach(table)
    for number in range(1, 3):
        log()
        assert handler.flush(10)
        assert handler.stats() == Stats(accepted=number, dropped=number)
    assert collector.requests == []
    (message,) = caplog.messages
    assert re.fullmatch(pattern(bad, table, LOST), message), message
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("codex_otel_logging", "WARNING")


PROGRAM = read_program("each_collector")


def test_bad_ones_bring_no_other_word(
    scripted: Scripted, run_python: RunPython, certificates: Certificates
) -> None:
    """All of them in one process; neither gRPC's core nor a library writes a line of its own."""
    tables = []
    for bad in BAD.values():
        collector = scripted(OK, tls=bad.collector(certificates))
        tls = certificates.settings(bad.client(certificates))
        tables.append({"exporter": exporter(collector, tls), "batch": {"retry_for_ms": 0}})
    done = run_python(PROGRAM, json.dumps(tables))
    assert done.stdout == "True 1\n" * len(BAD)
    lines = done.stderr.splitlines()
    for bad, table, said in zip(BAD.values(), tables, lines, strict=True):
        assert re.fullmatch(pattern(bad, table, LOST), said), said


UNTIL_WARNED = read_program("until_warned")


def test_events_wait_for_a_collector_that_can_be_trusted(
    scripted: Scripted, run_python: RunPython, certificates: Certificates
) -> None:
    bad = BAD["expired"]
    collector = scripted(OK, tls=bad.collector(certificates))
    batch = {"shutdown_timeout_ms": 0}
    table = {"exporter": exporter(collector, certificates.settings()), "batch": batch}
    done = run_python(UNTIL_WARNED, json.dumps(table))
    assert done.stdout == "True False 3\n"
    trouble, at_the_end = done.stderr.splitlines()
    assert re.fullmatch(pattern(bad, table, WAITING), trouble), trouble
    assert at_the_end.startswith("3 events not exported at exit (")
    assert at_the_end.endswith(f"certificate has expired); {DIAGNOSE}")


def test_a_renewed_certificate_ends_the_outage(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = http_collector(OK, tls=Tls(certificates.expired))
    handler = attach({"exporter": exporter(collector, certificates.settings())})
    log()
    assert handler.flush(0.8) is False
    log(first=1)
    assert collector.tls is not None
    certificates.good.configure_cert(collector.tls)
    assert handler.flush(30)
    assert numbers(collector.events) == [0, 1]
    assert handler.stats() == Stats(accepted=2, exported=2)
    assert "certificate has expired" in caplog.messages[0]
    assert "export recovered" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("what", "why", "text"),
    [
        ("CERTIFICATE_VERIFY_FAILED", "certificate has expired", "certificate has expired"),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "Hostname mismatch, certificate is not valid for 's3cr3t.example.com'.",
            "Hostname mismatch; the certificate must name the endpoint's host",
        ),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "self-signed certificate in certificate chain",
            "self-signed certificate in certificate chain; "
            "unknown certificate authority, set ca-certificate",
        ),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "self signed certificate",
            "self signed certificate; unknown certificate authority, set ca-certificate",
        ),
        ("CERTIFICATE_VERIFY_FAILED", "", None),
    ],
)
def test_words(what: str, why: str, text: str | None) -> None:
    expected = "TLS failed: certificate verify failed" + (f": {text}" if text else "")
    assert tls_failure(what, why) == expected


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ("says no", "says no"),
        ("", ""),
        (
            "errors resolving s3cr3t.example.com:4317: [field:hostname lookup error:address lookup "
            "failed for s3cr3t.example.com:4317: Domain name not found]",
            "host name not resolved: Domain name not found",
        ),
        (
            "DNS resolution failed for s3cr3t.example.com:4317: C-ares status is not ARES_SUCCESS "
            "qtype=A name=s3cr3t.example.com is_balancer=0: Domain name not found",
            "host name not resolved: Domain name not found",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:4317: "
            "Failed to connect to remote host: Connection refused",
            "Failed to connect to remote host: Connection refused",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:4317: "
            "Ssl handshake failed: SSL_ERROR_SSL: error:1000007d:SSL routines:"
            "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED",
            "TLS failed: certificate verify failed",
        ),
    ],
)
def test_what_grpc_says_without_names_and_addresses(details: str, said: str) -> None:
    assert what_failed(details, ExporterConfig("otlp-grpc", "http://${HOST}:4317")) == said
