"""Delivers one marked event through the real exporter, and says step by step what happened.

The way is gone with sockets first, so that it is known where it ends. Only what the exporter says
counts: where it and the steps before differ, it is right.
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
from .sample import sample_event
from .steps import build, connect, detect_protocols, open_tunnel, resolve, send, shake_hands


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a delivery: what happened, how long it took, and what to do if it failed."""

    name: str
    text: str
    took_ms: float
    ok: bool
    advice: str


@dataclass(slots=True)
class Delivery:
    """The delivery of one event, made by going through `steps` once. Blocks at each of them.

    `conversation_id` marks the event. `delivered` holds when the collector has taken it.
    """

    config: OtelConfig
    exporter: ExporterConfig
    conversation_id: str = field(default_factory=lambda: f"check-{uuid.uuid4()}")
    delivered: bool = False

    def steps(self) -> Iterator[Step]:
        """Yield each step when it has been made; the last one says why if it failed."""
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
        finally:
            client.shutdown()

    def _delivery(self, client: Exporter) -> Iterator[tuple[str, Diagnosis]]:
        """Go the way, send the event and, if nothing else explains a failure, look at the port."""
        then: NextStep = "continue"
        if (route := route_to(self.exporter)) is not None:
            then = yield from _way(self.exporter, route)
        if then == "stop":
            return
        answer = send(client, sample_event(self.conversation_id), self.exporter, route)
        self.delivered = answer.ok
        yield "answer", answer
        if route is not None and answer.next == "look" and then != "send":
            yield "port", detect_protocols(self.exporter, route, answer)


def _way(
    exporter: ExporterConfig, route: Route
) -> Generator[tuple[str, Diagnosis], None, NextStep]:
    """Go the way to the collector as far as it leads; return what is worth doing then."""
    diagnosis, addresses = resolve(route)
    yield "name", diagnosis
    if not addresses:
        return diagnosis.next
    deadline = Deadline(exporter.timeout_ms / 1000)
    diagnosis, connection = connect(route, addresses, deadline)
    yield "connection", diagnosis
    if connection is None:
        return diagnosis.next
    with connection:
        if route.proxy and route.proxy.opaque:
            return diagnosis.next
        if route.proxy:
            diagnosis = open_tunnel(connection, exporter, route, route.proxy, deadline)
            yield "tunnel", diagnosis
        if route.tls and diagnosis.ok:
            diagnosis = shake_hands(connection, exporter, route, deadline)
            yield "TLS", diagnosis
    return diagnosis.next


def _step(name: str, diagnosis: Diagnosis, started: float) -> Step:
    took_ms = round((time.perf_counter() - started) * 1000, 1)
    return Step(name, diagnosis.text, took_ms, diagnosis.ok, diagnosis.advice)
