"""Exporters, and events to send with them, without a handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery.exporter import Exporter
from codex_otel_logging.events.event import Event, SharedAttributes
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction
from codex_otel_logging.otlp.factory import connect
from support.records import record

SHARED = SharedAttributes({"service.name": "s"}, {"app.version": "1"})


def event(**fields: Any) -> Event:
    """Return an event with default settings and the given fields."""
    extra = {"duration_ms": 1, **fields}
    read = EventReader(Redaction()).read(record("codex.turn_ttft", extra=extra))
    assert read is not None
    return read


@contextmanager
def connected(config: ExporterConfig) -> Iterator[Exporter]:
    """Yield the exporter of the settings, and shut it down afterwards."""
    exporter = connect(config, SHARED)
    try:
        yield exporter
    finally:
        exporter.shutdown()


HTTP = ["binary", "json"]
"""The protocols of OTLP/HTTP."""


@contextmanager
def connected_over(
    protocol: Any, endpoint: str, *, timeout_ms: int = 500, **more: Any
) -> Iterator[Exporter]:
    """Yield an exporter for `grpc`, or for HTTP with the protocol `binary` or `json`."""
    name: Any = "otlp-grpc" if protocol == "grpc" else "otlp-http"
    if protocol == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    if protocol != "grpc":
        more["protocol"] = protocol
    with connected(ExporterConfig(name, endpoint, timeout_ms=timeout_ms, **more)) as exporter:
        yield exporter
