"""An OpenTelemetry Collector takes events and forwards them: nothing is lost, nothing changes.

The environment variable OTELCOL names the program; `.ci/get_otelcol.sh` builds one.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import tomli
import trustme
import yaml

import samples
from codex_otel_logging import Receiver, Stats
from collector_programs import (
    PROTOCOLS,
    CollectorProgram,
    Log,
    assert_forwards_unchanged,
    assert_large_events_arrive,
    assert_restart_loses_nothing,
)
from collectors import Gate
from conftest import ROOT, HandlerFactory

PROGRAM = os.environ.get("OTELCOL", "")
if not PROGRAM:
    pytest.skip("OTELCOL names no OpenTelemetry Collector", allow_module_level=True)


class Otelcol(CollectorProgram):
    """Forwards logs to an endpoint; `config` may be changed before it starts.

    It has no queue: a request is answered when what was in it has been forwarded.
    """

    def __init__(self, folder: Path, forward: str, endpoint: str) -> None:
        super().__init__(folder)
        self._config_file = folder / "otelcol.yaml"
        self.command = [PROGRAM, "--config", str(self._config_file)]
        grpc, http = self.addresses
        address = {"tls": {"insecure": True}, "endpoint": urlsplit(endpoint).netloc}
        if forward == "otlp_http":
            address = {"logs_endpoint": endpoint}
        at_once = {"sending_queue": {"enabled": False}, "retry_on_failure": {"enabled": False}}
        self.config: dict[str, Any] = {
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}
            },
            "exporters": {forward: {**address, **at_once}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
                "pipelines": {"logs": {"receivers": ["otlp"], "exporters": [forward]}},
            },
        }

    @property
    def protocols(self) -> dict[str, Any]:
        """The receiver's settings for `grpc` and `http`."""
        protocols: dict[str, Any] = self.config["receivers"]["otlp"]["protocols"]
        return protocols

    def start(self) -> None:
        self._config_file.write_text(yaml.safe_dump(self.config))
        super().start()


@pytest.fixture(params=["otlp_grpc", "otlp_http"])
def forward(request: pytest.FixtureRequest) -> str:
    """The exporter that the collector forwards with."""
    name: str = request.param
    return name


ONCE = pytest.mark.parametrize("forward", ["otlp_http"], indirect=True)
"""For tests that are not about forwarding."""


@pytest.fixture
def downstream(forward: str, receiver: Receiver) -> Iterator[Gate]:
    """Stands between the collector and the receiver."""
    over_grpc = forward == "otlp_grpc"
    gate = Gate(receiver.grpc_endpoint if over_grpc else receiver.http_endpoint)
    yield gate
    gate.close()


@pytest.fixture
def otelcol(forward: str, downstream: Gate, tmp_path: Path) -> Iterator[Otelcol]:
    """Forwards to the receiver once it is started."""
    otelcol = Otelcol(tmp_path, forward, downstream.endpoint)
    yield otelcol
    otelcol.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everything_arrives_unchanged(
    otelcol: Otelcol, receiver: Receiver, attach: HandlerFactory, protocol: str, compression: str
) -> None:
    otelcol.start()
    fields = {**samples.ODD, **samples.ODD_AS_JSON}
    assert_forwards_unchanged(receiver, attach, otelcol.exporter(protocol, compression), fields)


@ONCE
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_restart_under_load_loses_nothing(
    otelcol: Otelcol,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
) -> None:
    otelcol.start()
    handler = attach({"exporter": otelcol.exporter(protocol), "batch": {"schedule_delay_ms": 5}})
    assert_restart_loses_nothing(otelcol, receiver, handler, caplog)


@pytest.mark.parametrize("fault", [Gate.refuse, Gate.hang, Gate.reset])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failing_downstream_loses_nothing(
    otelcol: Otelcol,
    downstream: Gate,
    receiver: Receiver,
    attach: HandlerFactory,
    forward: str,
    protocol: str,
    fault: Callable[[Gate], None],
) -> None:
    """The collector passes the failure on, and the handler tries again."""
    otelcol.config["exporters"][forward]["timeout"] = "500ms"
    otelcol.start()
    handler = attach({"exporter": otelcol.exporter(protocol), "batch": {"schedule_delay_ms": 5}})
    log = Log()
    log(100)
    assert handler.flush(10)
    fault(downstream)
    log(100)
    assert handler.flush(1) is False
    downstream.open()
    log(100)
    log.assert_exported(handler, receiver)


@ONCE
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls(
    otelcol: Otelcol, receiver: Receiver, attach: HandlerFactory, tmp_path: Path, protocol: str
) -> None:
    authority = trustme.CA()
    ca_file, server_file, client_file = (tmp_path / f"{n}.pem" for n in ("ca", "server", "client"))
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server_file)
    client = authority.issue_cert("agent@example.com")
    client.private_key_and_cert_chain_pem.write_to_path(client_file)
    for settings in otelcol.protocols.values():
        settings["tls"] = {
            "cert_file": str(server_file),
            "key_file": str(server_file),
            "client_ca_file": str(ca_file),
        }
    otelcol.start()
    trust = {"ca-certificate": str(ca_file)}
    files = {"client-certificate": str(client_file), "client-private-key": str(client_file)}
    stranger = attach({"exporter": otelcol.exporter(protocol, scheme="https", tls=trust)})
    log = Log()
    log()
    assert stranger.flush(0.5) is False
    assert stranger.stats() == Stats(accepted=1, queued=1)
    assert receiver.events == []
    logging.getLogger("codex_otel").removeHandler(stranger)
    handler = attach({"exporter": otelcol.exporter(protocol, scheme="https", tls=trust | files)})
    log()
    assert handler.flush(10)
    assert handler.stats() == Stats(accepted=1, exported=1)
    (event,) = receiver.events
    assert event.attributes["duration_ms"] == 1


@ONCE
@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_events_arrive_within_its_limit(
    otelcol: Otelcol,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    compression: str,
) -> None:
    """The default request of a handler is larger: it is sent again in halves, at once.

    Over HTTP a Collector answers 400 to a body that is too large, as to any it cannot read.
    """
    otelcol.protocols["http"]["max_request_body_size"] = 1_000_000
    otelcol.protocols["grpc"]["max_recv_msg_size_mib"] = 1
    otelcol.start()
    exporter = otelcol.exporter(protocol, compression)
    handler = attach({"exporter": exporter, "batch": {"retry_for_ms": 0}})
    assert_large_events_arrive(receiver, handler, caplog)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_memory_limiter_that_refuses_for_a_while_loses_nothing(
    otelcol: Otelcol,
    downstream: Gate,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    forward: str,
    protocol: str,
) -> None:
    """Its queue fills the memory while its downstream is away, and empties afterwards."""
    otelcol.config["processors"] = {
        "memory_limiter": {
            "check_interval": "50ms",
            "limit_mib": 32,
            "spike_limit_mib": 8,
            "min_gc_interval_when_soft_limited": "50ms",
            "min_gc_interval_when_hard_limited": "50ms",
        }
    }
    otelcol.config["service"]["pipelines"]["logs"]["processors"] = ["memory_limiter"]
    otelcol.config["exporters"][forward] |= {
        "sending_queue": {"enabled": True},
        "retry_on_failure": {"initial_interval": "50ms", "max_interval": "50ms"},
    }
    otelcol.start()
    handler = attach({"exporter": otelcol.exporter(protocol)})
    log = Log()
    downstream.refuse()

    def is_refused() -> bool:
        log(50, text="x" * 20_480)
        return not handler.flush(1)

    assert any(is_refused() for _ in range(100))
    assert "data refused due to high memory usage" in caplog.messages[0]
    downstream.open()
    log(50)
    log.assert_exported(handler, receiver)
