"""An OpenTelemetry Collector receives events and forwards them, complete and unchanged.

The environment variable OTELCOL names the program; `.ci/get_otelcol.sh` builds one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from codex_otel_logging import Receiver, Stats
from codex_otel_logging.config.toml import loads
from support import samples
from support.certificates import Certificates
from support.collector_programs import (
    PROTOCOLS,
    CollectorProgram,
    Log,
    assert_forwards_unchanged,
    assert_large_events_arrive,
    assert_restart_loses_nothing,
)
from support.collectors import OK, Gate, GrpcCollector, Tls
from support.fixtures import HandlerFactory
from support.pages import block, recipe

PROGRAM = os.environ.get("OTELCOL", "")
if not PROGRAM:
    pytest.skip("OTELCOL names no OpenTelemetry Collector", allow_module_level=True)


class Otelcol(CollectorProgram):
    """The Collector. `start` writes `config` to its configuration file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._config_file = folder / "otelcol.yaml"
        self.command = [PROGRAM, "--config", str(self._config_file)]
        self.config: dict[str, Any] = {}

    @property
    def protocols(self) -> dict[str, Any]:
        """The receiver's settings for `grpc` and `http`."""
        protocols: dict[str, Any] = self.config["receivers"]["otlp"]["protocols"]
        return protocols

    def start(self) -> None:
        self._config_file.write_text(yaml.safe_dump(self.config))
        super().start()


NO_METRICS = {"metrics": {"level": "none"}}
"""Metrics would be served on a fixed port, which may be in use."""


def forwarding_config(addresses: tuple[str, str], forward: str, endpoint: str) -> dict[str, Any]:
    """Return a configuration without a queue: the Collector answers after it has forwarded."""
    grpc, http = ({"endpoint": address} for address in addresses)
    exporter: dict[str, Any] = {
        "sending_queue": {"enabled": False},
        "retry_on_failure": {"enabled": False},
    }
    if forward == "otlp_http":
        exporter |= {"logs_endpoint": endpoint}
    else:
        exporter |= {"endpoint": urlsplit(endpoint).netloc, "tls": {"insecure": True}}
    return {
        "receivers": {"otlp": {"protocols": {"grpc": grpc, "http": http}}},
        "exporters": {forward: exporter},
        "service": {
            "telemetry": {**NO_METRICS, "logs": {"level": "warn"}},
            "pipelines": {"logs": {"receivers": ["otlp"], "exporters": [forward]}},
        },
    }


@pytest.fixture(params=["otlp_grpc", "otlp_http"])
def forward(request: pytest.FixtureRequest) -> str:
    """The Collector's exporter."""
    name: str = request.param
    return name


ONCE = pytest.mark.parametrize("forward", ["otlp_http"], indirect=True)
"""For tests in which the Collector's exporter does not matter."""


@pytest.fixture
def downstream(forward: str, receiver: Receiver) -> Iterator[Gate]:
    """A gate between the Collector and the receiver."""
    over_grpc = forward == "otlp_grpc"
    gate = Gate(receiver.grpc_endpoint if over_grpc else receiver.http_endpoint)
    yield gate
    gate.close()


@pytest.fixture
def otelcol(forward: str, downstream: Gate, tmp_path: Path) -> Iterator[Otelcol]:
    """A Collector that forwards to the receiver. Tests start it."""
    otelcol = Otelcol(tmp_path)
    otelcol.config = forwarding_config(otelcol.addresses, forward, downstream.endpoint)
    yield otelcol
    otelcol.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collector_forwards_events_unchanged(
    otelcol: Otelcol, receiver: Receiver, attach: HandlerFactory, protocol: str, compression: str
) -> None:
    otelcol.start()
    fields = {**samples.ODD, **samples.ODD_AS_JSON}
    assert_forwards_unchanged(receiver, attach, otelcol.exporter(protocol, compression), fields)


@ONCE
@pytest.mark.parametrize("stop", [Otelcol.end, Otelcol.kill])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_restart_under_load_drops_no_event(
    otelcol: Otelcol,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    stop: Callable[[Otelcol], None],
) -> None:
    otelcol.start()
    handler = attach({"exporter": otelcol.exporter(protocol), "batch": {"schedule_delay_ms": 5}})
    assert_restart_loses_nothing(otelcol, receiver, handler, caplog, stop)


@pytest.mark.parametrize("fault", [Gate.refuse, Gate.hang, Gate.reset])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failing_downstream_drops_no_event(
    otelcol: Otelcol,
    downstream: Gate,
    receiver: Receiver,
    attach: HandlerFactory,
    forward: str,
    protocol: str,
    fault: Callable[[Gate], None],
) -> None:
    """The Collector answers with the failure, and the handler retries."""
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


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def server_files(certificates: Certificates, tmp_path: Path) -> dict[str, str]:
    """The Collector's `tls` settings for its own certificate."""
    file = tmp_path / "server.pem"
    certificates.good.private_key_and_cert_chain_pem.write_to_path(str(file))
    return {"cert_file": str(file), "key_file": str(file)}


@ONCE
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls_requires_the_client_certificate(
    otelcol: Otelcol,
    receiver: Receiver,
    attach: HandlerFactory,
    certificates: Certificates,
    server_files: dict[str, str],
    protocol: str,
) -> None:
    """An event without a client certificate stays queued, one with it arrives."""
    anonymous, known = certificates.settings(), certificates.settings(certificates.client)
    for settings in otelcol.protocols.values():
        settings["tls"] = {**server_files, "client_ca_file": known["ca-certificate"]}
    otelcol.start()
    handlers = [
        attach({"exporter": otelcol.exporter(protocol, scheme="https", tls=tls)})
        for tls in (anonymous, known)
    ]
    Log()()
    assert handlers[1].flush(10)
    assert handlers[0].flush(0.5) is False
    assert handlers[0].stats() == Stats(accepted=1, queued=1)
    assert len(receiver.events) == 1


@ONCE
@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_events_arrive_despite_the_request_limit(
    otelcol: Otelcol,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    compression: str,
) -> None:
    """Requests of the default size exceed the limit: the handler immediately resends halves.

    Over HTTP, the Collector answers 400 to a body that is too large, as to an invalid one.
    """
    otelcol.protocols["http"]["max_request_body_size"] = 1_000_000
    otelcol.protocols["grpc"]["max_recv_msg_size_mib"] = 1
    otelcol.start()
    exporter = otelcol.exporter(protocol, compression)
    handler = attach({"exporter": exporter, "batch": {"retry_for_ms": 0}})
    assert_large_events_arrive(receiver, handler, caplog)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_memory_limiter_that_refuses_for_a_while_drops_no_event(
    otelcol: Otelcol,
    downstream: Gate,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    forward: str,
    protocol: str,
) -> None:
    """The Collector's queue fills its memory while the downstream is unreachable."""
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


def take_out_missing_components(config: dict[str, Any]) -> None:
    """Remove the components that this build of the Collector lacks, and references to them."""
    listed = subprocess.run([PROGRAM, "components"], capture_output=True, check=True, timeout=30)
    components = yaml.safe_load(listed.stdout)
    for kind in ("extensions", "receivers", "processors", "exporters"):
        found = {component["name"] for component in components[kind]}
        config[kind] = {name: config[kind][name] for name in config[kind] if name in found}
    service = config["service"]
    service["extensions"] = [name for name in service["extensions"] if name in config["extensions"]]
    for pipeline in service["pipelines"].values():
        for kind, names in pipeline.items():
            pipeline[kind] = [name for name in names if name in config[kind]]
    for protocol in config["receivers"]["otlp"]["protocols"].values():
        if protocol["auth"]["authenticator"] not in config["extensions"]:
            del protocol["auth"]
    for exporter in config["exporters"].values():
        if exporter["sending_queue"]["storage"] not in config["extensions"]:
            del exporter["sending_queue"]["storage"]


def test_readme_gateway_forwards_to_the_backend(
    attach: HandlerFactory,
    grpc_collector: Callable[..., GrpcCollector],
    certificates: Certificates,
    server_files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uses the documented configuration, without components that this build lacks.

    Addresses and certificates are replaced by the test's own.
    """
    backend = grpc_collector(OK, tls=Tls(certificates.good))
    trust = certificates.settings()["ca-certificate"]
    gateway = Otelcol(tmp_path)
    gateway.environment = {"BACKEND_TOKEN": "backend-token"}
    gateway.config = yaml.safe_load(recipe("yaml", "gateway.yaml"))
    take_out_missing_components(gateway.config)
    gateway.config["service"]["telemetry"] = NO_METRICS
    for protocol, address in zip(("grpc", "http"), gateway.addresses, strict=True):
        gateway.protocols[protocol]["endpoint"] = address
        gateway.protocols[protocol]["tls"] = server_files
    exporter = gateway.config["exporters"]["otlp_grpc"]
    exporter |= {"endpoint": urlsplit(backend.endpoint).netloc, "tls": {"ca_file": trust}}

    otel = loads(block("toml", "telemetry.example.com"))["otel"]
    otel["exporter"]["otlp-grpc"]["endpoint"] = f"https://{gateway.addresses[0]}"
    otel["exporter"]["otlp-grpc"]["tls"] = {"ca-certificate": trust}
    monkeypatch.setenv("OTLP_TOKEN", "gateway-token")
    try:
        gateway.start()
        handler = attach(otel)
        log = Log()
        log(500, text="x" * 20_480)
        assert handler.flush(30)
        assert handler.stats() == Stats(accepted=500, exported=500)
        assert backend.wait_for(500)
    finally:
        gateway.close()
    assert sorted(event.attributes["duration_ms"] for event in backend.events) == [*range(500)]
    assert {headers["authorization"] for headers in backend.requests} == {"Bearer backend-token"}
    assert max(backend.sizes) < 4 << 20
