"""TLS to real servers: authorities, client certificates, and how failures are reported."""

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
from support.spools import until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove certificate authorities of the machine from the environment."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def exporter(collector: HttpCollector | GrpcCollector, tls: Any, **more: Any) -> dict[str, Any]:
    """Return the `exporter` setting for a collector, with `https` even if it does not use TLS."""
    ((name, settings),) = collector.exporter.items()
    endpoint = settings["endpoint"].replace("http://", "https://")
    return {name: {"endpoint": endpoint, "tls": tls, **more}}


def test_custom_certificate_authority_is_trusted(
    scripted: Scripted, attach: HandlerFactory, certificates: Certificates
) -> None:
    collector = scripted(OK, tls=Tls(certificates.good))
    handler = attach({"exporter": exporter(collector, certificates.settings())})
    for number in range(3):
        log(first=number)
        assert handler.flush(10)
    assert numbers(collector.events) == [0, 1, 2]
    assert handler.stats() == Stats(accepted=3, exported=3)


def test_client_certificate_is_sent(
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
def test_json_exporter_uses_the_tls_settings(
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
def test_json_exporter_reports_a_tls_failure(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    failure = FAILURES[fault]
    collector = http_collector(OK, tls=failure.collector(certificates))
    settings = exporter(collector, certificates.settings(), protocol="json")
    table = {"exporter": settings, "batch": {"retry_for_ms": 0}}
    handler = attach(table)
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, dropped=1)
    assert collector.requests == []
    (message,) = caplog.messages
    assert re.fullmatch(pattern(failure, table, DROPPED), message), message


@pytest.mark.parametrize("client", [False, True])
def test_bare_exporter_name_uses_the_certificate_files_of_the_environment(
    scripted: Scripted,
    attach: HandlerFactory,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    client: bool,
) -> None:
    """They also take precedence over `REQUESTS_CA_BUNDLE`."""
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
def test_ca_bundle_of_the_environment_applies_without_a_ca_certificate(
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
def test_ca_certificate_setting_takes_precedence_over_the_ca_bundle(
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
class Failure:
    """A connection that must fail: the collector's TLS, our certificate, the reported reason.

    `reason` is a pattern, and so is `grpc_reason`, for gRPC where it differs.
    """

    collector: Callable[[Certificates], Tls | None]
    reason: str
    client: Callable[[Certificates], trustme.LeafCert | None] = lambda _: None
    grpc_reason: str = ""


CLIENT_CERTIFICATE_HINT = "perhaps the collector requires a client certificate that it trusts"
CLOSED_OVER_HTTP = (
    "((TLS failed: EOF occurred in violation of protocol"
    "|no connection: (Connection reset by peer|Broken pipe|Remote end closed .*)"
    f"); {CLIENT_CERTIFICATE_HINT}"
    "|TLS failed: (tlsv13 alert certificate required|tlsv1 alert unknown ca"
    "|sslv3 alert certificate expired|sslv3 alert bad certificate)"
    "; the collector requires a client certificate that it trusts)"
)
CLOSED_OVER_GRPC = (
    f"(Socket closed|.*Connection reset by peer|.*Broken pipe); {CLIENT_CERTIFICATE_HINT}"
)

FAILURES = {
    "unknown authority": Failure(
        lambda c: Tls(c.unknown),
        "TLS failed: certificate verify failed: unable to get local issuer certificate; "
        "unknown certificate authority, set ca-certificate",
    ),
    "expired": Failure(
        lambda c: Tls(c.expired),
        "TLS failed: certificate verify failed: certificate has expired",
    ),
    "not yet valid": Failure(
        lambda c: Tls(c.early),
        "TLS failed: certificate verify failed: certificate is not yet valid"
        "( or the system clock is incorrect)?",
    ),
    "for another host": Failure(
        lambda c: Tls(c.elsewhere),
        "TLS failed: certificate verify failed: (IP address|Hostname|hostname) mismatch; "
        "the certificate must name the endpoint's host",
    ),
    "no TLS": Failure(
        lambda _: None,
        "TLS failed: (wrong version number|record layer failure); "
        "the collector does not use TLS on this port",
    ),
    "no client certificate": Failure(
        lambda c: Tls(c.good, c.authority),
        CLOSED_OVER_HTTP,
        grpc_reason=CLOSED_OVER_GRPC,
    ),
    "unknown client certificate": Failure(
        lambda c: Tls(c.good, c.authority),
        CLOSED_OVER_HTTP,
        lambda c: c.unknown_client,
        grpc_reason=CLOSED_OVER_GRPC,
    ),
    "expired client certificate": Failure(
        lambda c: Tls(c.good, c.authority),
        CLOSED_OVER_HTTP,
        lambda c: c.expired_client,
        grpc_reason=CLOSED_OVER_GRPC,
    ),
}

DROPPED = (
    f"1 event dropped (retry_for_ms exceeded: REASON); further ones are only counted; {DIAGNOSE}"
)
FAILING = f"export failing (REASON); events stay queued and are retried; {DIAGNOSE}"


def pattern(failure: Failure, table: dict[str, Any], line: str) -> str:
    """Return a pattern for a report: `line`, with REASON replaced by that of the failure."""
    ((name, settings),) = table["exporter"].items()
    reason = failure.reason
    if name == "otlp-grpc":
        reason = f"gRPC UNAVAILABLE: {failure.grpc_reason or reason}"
    before, after = line.split("REASON")
    return re.escape(f"{name} {settings['endpoint']}: {before}") + reason + re.escape(after)


@pytest.mark.parametrize("fault", FAILURES)
def test_tls_failure_drops_events_and_is_reported_once(
    scripted: Scripted,
    attach: HandlerFactory,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    failure = FAILURES[fault]
    collector = scripted(OK, tls=failure.collector(certificates))
    tls = certificates.settings(failure.client(certificates))
    table = {"exporter": exporter(collector, tls), "batch": {"retry_for_ms": 0}}
    handler = attach(table)
    for number in range(1, 3):
        log()
        assert handler.flush(10)
        assert handler.stats() == Stats(accepted=number, dropped=number)
    assert collector.requests == []
    (message,) = caplog.messages
    assert re.fullmatch(pattern(failure, table, DROPPED), message), message
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("codex_otel_logging", "WARNING")


PROGRAM = read_program("each_collector")


def test_tls_failures_write_nothing_else_to_stderr(
    scripted: Scripted, run_python: RunPython, certificates: Certificates
) -> None:
    """All failures in one process: neither gRPC's core nor a library writes a line of its own."""
    tables = []
    for failure in FAILURES.values():
        collector = scripted(OK, tls=failure.collector(certificates))
        tls = certificates.settings(failure.client(certificates))
        tables.append({"exporter": exporter(collector, tls), "batch": {"retry_for_ms": 0}})
    done = run_python(PROGRAM, json.dumps(tables))
    assert done.stdout == "True 1\n" * len(FAILURES)
    lines = done.stderr.splitlines()
    for failure, table, report in zip(FAILURES.values(), tables, lines, strict=True):
        assert re.fullmatch(pattern(failure, table, DROPPED), report), report


UNTIL_WARNED = read_program("until_warned")


def test_events_stay_queued_while_the_certificate_is_invalid(
    scripted: Scripted, run_python: RunPython, certificates: Certificates
) -> None:
    failure = FAILURES["expired"]
    collector = scripted(OK, tls=failure.collector(certificates))
    batch = {"shutdown_timeout_ms": 0}
    table = {"exporter": exporter(collector, certificates.settings()), "batch": batch}
    done = run_python(UNTIL_WARNED, json.dumps(table))
    assert done.stdout == "True False 3\n"
    trouble, at_the_end = done.stderr.splitlines()
    assert re.fullmatch(pattern(failure, table, FAILING), trouble), trouble
    assert at_the_end.startswith("3 events not exported at exit (")
    assert at_the_end.endswith(f"certificate has expired); {DIAGNOSE}")


def test_renewed_server_certificate_ends_the_outage(
    http_collector: Callable[..., HttpCollector],
    attach: HandlerFactory,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = http_collector(OK, tls=Tls(certificates.expired))
    handler = attach({"exporter": exporter(collector, certificates.settings())})
    log()
    assert until(lambda: caplog.messages)
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
def test_tls_failure_is_described_without_the_host_name(
    what: str, why: str, text: str | None
) -> None:
    expected = "TLS failed: certificate verify failed" + (f": {text}" if text else "")
    assert tls_failure(what, why) == expected


@pytest.mark.parametrize(
    ("details", "description"),
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
def test_grpc_connection_failure_is_described_without_names_and_addresses(
    details: str, description: str
) -> None:
    assert what_failed(details, ExporterConfig("otlp-grpc", "http://${HOST}:4317")) == description
