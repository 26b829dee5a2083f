"""Delivers one marked event through the real exporter, and says step by step what happened.

The way is gone with sockets first (`probes`), so that it is known where it ends. Only what the
exporter says counts: where it and the steps before differ, it is right.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...attachment import EVENT_LOGGER
from ...config.otel_config import OtelConfig
from ...config.settings import ExporterConfig
from ...conversation import Conversation
from ...delivery.exporter import Outcome
from ...diagnostics import suppress_own_records
from ...events.event import Event
from ...events.reader import EventReader
from ...events.redaction import REDACT_ALL
from ...handler import shared_attributes_of
from ...otlp.deadlines import Deadline
from ...otlp.factory import connect
from ...otlp.route import Route, route_to
from .advice import advice_on_answer, advice_on_port
from .probes import DeadEndError, Found, Spoken, resolve, shake_hands, spoken_at, tunnel
from .probes import connect as connect_to

EVENT = "codex.startup_phase"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a delivery: what happened, how long it took, and what to do if it failed."""

    name: str
    text: str
    took_ms: float
    ok: bool = True
    advice: str = ""


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
        try:
            with suppress_own_records():
                real = connect(self.exporter, shared_attributes_of(self.config, None))
        except ImportError as error:
            yield Step("exporter", str(error), _since(started), ok=False)
            return
        except RuntimeError as error:
            text = f"the exporter cannot be built: {error}"
            advice = "install its package again"
            yield Step("exporter", text, _since(started), ok=False, advice=advice)
            return
        route = route_to(self.exporter)
        dead_end = None
        try:
            if route is not None:
                dead_end = yield from _way(self.exporter, route)
            if dead_end is None or dead_end.then != "stop":
                yield from self._sending(real, route, dead_end)
        finally:
            real.shutdown()

    def _sending(
        self,
        real: Any,
        route: Route | None,
        dead_end: DeadEndError | None,
    ) -> Iterator[Step]:
        event = _marked_event(self.conversation_id)
        with suppress_own_records():
            outcome, took_ms = _timed(lambda: _exported(real, event))
        accepted = outcome.verdict == "delivered" and not outcome.rejected
        self.delivered = accepted and not outcome.web_page
        advice = "" if self.delivered else advice_on_answer(outcome, self.exporter)
        if advice is None and route is None:
            advice = f"is {self.exporter.safe_endpoint} the collector's address?"
        yield Step("answer", _what_came(outcome), took_ms, self.delivered, advice or "")
        may_look = dead_end is None or dead_end.then == "look"
        if advice is None and may_look and route is not None:
            yield _look(self.exporter, route, outcome)


def _way(exporter: ExporterConfig, route: Route) -> Generator[Step, None, DeadEndError | None]:
    """Go the way as far as it leads; return where it ended, if it did."""
    started = time.perf_counter()
    name = "name"
    try:
        found = resolve(route)
        yield Step(name, _what_was_found(route, found), _since(started))
        name, started = "connection", time.perf_counter()
        deadline = Deadline(exporter.timeout_ms / 1000)
        with connect_to(route, found, deadline) as connection:
            peer = connection.getpeername()
            yield Step(name, f"connected to {peer[0]}, port {peer[1]}", _since(started))
            if route.is_hidden:
                return None
            if route.proxy:
                name, started = "tunnel", time.perf_counter()
                tunnel(connection, route, route.proxy, deadline, exporter)
                yield Step(name, "the proxy connects to the collector", _since(started))
            if route.tls:
                name, started = "TLS", time.perf_counter()
                with shake_hands(connection, exporter, route, deadline) as secure:
                    text = f"{secure.version()}, the collector's certificate is good"
                    yield Step(name, text, _since(started))
    except DeadEndError as error:
        yield Step(name, error.what, _since(started), ok=False, advice=error.advice)
        return error
    return None


def _what_was_found(route: Route, found: Sequence[Found]) -> str:
    addresses = ", ".join(dict.fromkeys(map(str, found)))
    if route.proxy:
        return f"{route.proxy.address.host}, the proxy of {route.proxy.variable}, is {addresses}"
    if addresses == route.host_shown:
        return f"{addresses} is a number, there is nothing to look up"
    return f"{route.host_shown} is {addresses}"


def _look(exporter: ExporterConfig, route: Route, outcome: Outcome) -> Step:
    """Find out what is spoken at the port after a failure that nothing else explains."""
    started = time.perf_counter()
    if route.is_hidden and route.proxy:
        text = f"the proxy of {route.proxy.variable} is between here and the collector"
        return Step("port", text, _since(started), ok=False, advice="see the proxy's log")
    try:
        spoken = spoken_at(exporter, route, exporter.timeout_ms / 1000)
    except DeadEndError as error:
        return Step("port", error.what, _since(started), ok=False, advice=error.advice)
    advice = advice_on_port(spoken, outcome, exporter, route)
    return Step("port", _what_is_spoken(spoken), _since(started), ok=False, advice=advice)


def _what_is_spoken(spoken: Spoken | None) -> str:
    if spoken is None:
        return "what listens there speaks neither HTTP nor gRPC"
    protocols = [name for name, it in (("HTTP/1", spoken.http1), ("gRPC", spoken.http2)) if it]
    return f"speaks {' and '.join(protocols)} {'with' if spoken.tls else 'without'} TLS"


def marked_record(logger: str = EVENT_LOGGER) -> logging.LogRecord:
    """Return the event as if an application had logged it, before a handler reads it."""
    fields = {"startup.phase": "check", "startup.status": "ok", "duration_ms": 0}
    record = logging.LogRecord(logger, logging.INFO, __file__, 0, EVENT, None, None)
    record.__dict__.update(fields)
    return record


def _marked_event(conversation_id: str) -> Event:
    record = marked_record()
    reader = EventReader(REDACT_ALL)
    with Conversation(conversation_id, "none").bind():
        event = reader.read(record)
    assert event is not None
    return event


def _exported(real: Any, event: Event) -> Outcome:
    try:
        outcome: Outcome = real.export([event])
    except OSError as error:
        return Outcome("retry", f"no connection: {error.strerror or type(error).__name__}")
    except Exception as error:  # what an exporter falls over; its text may hold anything
        return Outcome("refused", f"the exporter failed: {type(error).__name__}")
    return outcome


def _what_came(outcome: Outcome) -> str:
    if outcome.verdict != "delivered":
        wait = outcome.retry_after_s
        asked = "" if wait is None else f"; it asks to be left alone for {wait:g} s"
        return f"{outcome.reason}{asked}"
    if outcome.web_page:
        return f"the answer is a web page ({outcome.reason})"
    if outcome.rejected:
        return f"the collector left the event out ({outcome.reason or 'it did not say why'})"
    return "accepted" + (f", with a warning: {outcome.reason}" if outcome.reason else "")


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return call(), _since(started)


def _since(started: float) -> float:
    """Return the milliseconds since then."""
    return round((time.perf_counter() - started) * 1000, 1)
