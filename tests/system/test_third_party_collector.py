"""rotel, an independent collector written in Rust, receives events and forwards them.

The forwarded events are compared with the same events sent directly to a receiver.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from codex_otel_logging import Receiver, Stats
from support import samples
from support.collector_programs import (
    PROTOCOLS,
    CollectorProgram,
    Log,
    assert_forwards_unchanged,
    assert_large_events_arrive,
    assert_restart_loses_nothing,
)
from support.fixtures import HandlerFactory

rotel_package = pytest.importorskip(
    "rotel", reason="the package rotel is not installed; it has wheels for some platforms only"
)
PROGRAM = str(Path(rotel_package.__file__).with_name("rotel-agent"))
LIBRARIES = f"{sysconfig.get_config_var('LIBDIR')}:{sys.base_prefix}/lib"
ENVIRONMENT = {"LD_LIBRARY_PATH": LIBRARIES}
"""The program needs Python's shared library, which may be outside the linker's search path."""

_trial = subprocess.run(
    [PROGRAM, "--version"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30
)
if _trial.returncode != 0:
    reason = _trial.stderr.rpartition("rotel-agent: ")[2].strip()
    pytest.skip(f"rotel cannot run on this machine: {reason}", allow_module_level=True)


class Rotel(CollectorProgram):
    """rotel, forwarding logs to a receiver."""

    environment = ENVIRONMENT

    def __init__(self, folder: Path, receiver: Receiver, forward: str) -> None:
        super().__init__(folder)
        grpc, http = self.addresses
        endpoints = {
            "grpc": receiver.grpc_endpoint,
            "http": receiver.http_endpoint.removesuffix("/v1/logs"),
        }
        self.command = [
            PROGRAM,
            "start",
            f"--pid-file={folder / 'pid'}",
            f"--log-file={folder / 'log'}",
            f"--otlp-grpc-endpoint={grpc}",
            f"--otlp-http-endpoint={http}",
            "--otlp-grpc-max-recv-msg-size-mib=4",
            "--disable-batching",
            "--exporter=otlp",
            f"--otlp-exporter-protocol={forward}",
            f"--otlp-exporter-endpoint={endpoints[forward]}",
        ]


@pytest.fixture(params=["grpc", "http"], ids=["passes on as grpc", "passes on as http"])
def rotel(request: pytest.FixtureRequest, receiver: Receiver, tmp_path: Path) -> Iterator[Rotel]:
    """Passes on to `receiver`: once over gRPC, once over HTTP."""
    rotel = Rotel(tmp_path, receiver, request.param)
    try:
        rotel.start()
        yield rotel
    finally:
        rotel.close()


OVER_HTTP = pytest.mark.parametrize("rotel", ["http"], indirect=True)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("way", PROTOCOLS)
def test_rotel_forwards_events_unchanged(
    rotel: Rotel, receiver: Receiver, attach: HandlerFactory, way: str, compression: str
) -> None:
    fields = samples.ODD if way == "json" else {**samples.ODD, **samples.ODD_AS_JSON}
    assert_forwards_unchanged(receiver, attach, rotel.exporter(way, compression), fields)


@OVER_HTTP
@pytest.mark.parametrize("name", samples.ODD_AS_JSON)
def test_json_values_that_rotel_rejects_are_counted_and_reported(
    rotel: Rotel,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """The collector rejects the whole request.

    Protobuf's JSON form writes NaN and infinities as text and omits empty fields, and readers must
    accept that: https://protobuf.dev/programming-guides/json/. rotel 0.0.1a15 does not.
    """
    handler = attach({"exporter": rotel.exporter("json")})
    log = Log()
    log(odd=samples.ODD_AS_JSON[name])
    assert handler.flush(10)
    log()
    assert handler.flush(10)
    (event,) = receiver.wait_for(1)
    assert event.attributes["duration_ms"] == 1
    assert handler.stats() == Stats(accepted=2, exported=1, rejected=1)
    (message,) = caplog.messages
    assert "1 event rejected (HTTP 400 Bad Request)" in message


@OVER_HTTP
@pytest.mark.parametrize("way", PROTOCOLS)
def test_restart_of_rotel_under_load_drops_no_event(
    rotel: Rotel,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    handler = attach({"exporter": rotel.exporter(way), "batch": {"schedule_delay_ms": 5}})
    assert_restart_loses_nothing(rotel, receiver, handler, caplog)


@OVER_HTTP
@pytest.mark.parametrize("max_request_bytes", [3_670_016, 16 << 20], ids=["default", "too large"])
def test_large_events_arrive_despite_the_grpc_limit_of_rotel(
    rotel: Rotel,
    receiver: Receiver,
    attach: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
    max_request_bytes: int,
) -> None:
    """The limit is 4 MiB; the handler immediately resends larger requests in halves."""
    batch = {"max_request_bytes": max_request_bytes, "retry_for_ms": 0}
    handler = attach({"exporter": rotel.exporter("grpc"), "batch": batch})
    assert_large_events_arrive(receiver, handler, caplog)


@OVER_HTTP
def test_event_beyond_the_grpc_limit_of_rotel_is_rejected_alone(
    rotel: Rotel, receiver: Receiver, attach: HandlerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    handler = attach({"exporter": rotel.exporter("grpc"), "max_attribute_length": 0})
    log = Log()
    log(2)
    log(text="x" * (6 << 20))
    log(2)
    assert handler.flush(30)
    assert handler.stats() == Stats(accepted=5, exported=4, rejected=1)
    events = receiver.wait_for(4)
    assert sorted(event.attributes["duration_ms"] for event in events) == [0, 1, 3, 4]
    (message,) = caplog.messages
    assert "1 event rejected (gRPC OUT_OF_RANGE: Error, decoded message length too large" in message
