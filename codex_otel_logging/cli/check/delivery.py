"""Exports one marked event through the real exporter and reports each step.

Plain sockets probe the route first: an exporter reports a failure only as a whole, the probes show
which step fails. If the probes and the exporter disagree, the exporter decides.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from ...config.otel_config import OtelConfig
from ...config.settings import ExporterConfig
from ...delivery.exporter import Exporter
from ...otlp.deadlines import Deadline
from ...otlp.route import Route, route_to
from .diagnoses import Diagnosis, NextStep
from .protocols import detect_protocols
from .sample import sample_event
from .steps import build, connect, open_tunnel, resolve, send, tls_handshake


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a delivery: its result, its duration, and advice if it failed."""

    name: str
    text: str
    took_ms: float
    ok: bool
    advice: str


@dataclass(slots=True)
class Delivery:
    """Exports one event while the caller iterates over `steps`, which is possible once.

    `conversation_id` identifies the event. `delivered` is true once the collector has accepted it.
    """

    config: OtelConfig
    exporter: ExporterConfig
    conversation_id: str = field(default_factory=lambda: f"check-{uuid.uuid4()}")
    delivered: bool = False

    def steps(self) -> Iterator[Step]:
        """Yield each step when it is done. Blocks in each one, at most for the `timeout_ms`.

        Name resolution has no time limit. After a failure, no later step is yielded, except those
        that can explain it.
        """
        started = time.perf_counter()
        client = build(self.exporter, self.config)
        if isinstance(client, Diagnosis):
            yield _step("exporter", client, started)
            return
        try:
            started = time.perf_counter()
            for name, diagnosis in self._delivery(client):
                yield _step(name, diagnosis, started)
                started = time.perf_counter()
        finally:  # also if the caller stops iterating, for example at Ctrl-C
            client.shutdown()

    def _delivery(self, client: Exporter) -> Iterator[tuple[str, Diagnosis]]:
        """Probe the route and export the event; probe the port if the failure is unexplained."""
        next_step: NextStep = "continue"
        if (route := route_to(self.exporter)) is not None:
            next_step = yield from _probe(self.exporter, route)
        if next_step == "stop":
            return
        answer = send(client, sample_event(self.conversation_id), self.exporter, route)
        self.delivered = answer.ok
        yield "answer", answer
        # After "send", the TLS step has already explained the failure.
        if route is not None and answer.next == "detect" and next_step != "send":
            yield "port", detect_protocols(self.exporter, route, answer)


def _probe(
    exporter: ExporterConfig, route: Route
) -> Generator[tuple[str, Diagnosis], None, NextStep]:
    """Probe the route to the collector until a step fails; return what to do next."""
    diagnosis, addresses = resolve(route)
    yield "name", diagnosis
    if not addresses:
        return diagnosis.next
    # The exporter's timeout also covers connection, tunnel and handshake together.
    deadline = Deadline(exporter.timeout_ms / 1000)
    diagnosis, connection = connect(route, addresses, deadline)
    yield "connection", diagnosis
    if connection is None:
        return diagnosis.next
    with connection:
        if route.proxy and route.proxy.opaque:  # no tunnel: the collector is out of reach
            return diagnosis.next
        if route.proxy:
            diagnosis = open_tunnel(connection, exporter, route, route.proxy, deadline)
            yield "tunnel", diagnosis
        if route.tls and diagnosis.ok:
            diagnosis = tls_handshake(connection, exporter, route, deadline)
            yield "TLS", diagnosis
    return diagnosis.next


def _step(name: str, diagnosis: Diagnosis, started: float) -> Step:
    took_ms = round((time.perf_counter() - started) * 1000, 1)
    return Step(name, diagnosis.text, took_ms, diagnosis.ok, diagnosis.advice)
