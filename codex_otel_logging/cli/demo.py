"""`codex-otel-logging demo`: plays a recorded agent session and compares what arrives.

Nothing is simulated: `dictConfig` with a TOML file, plain `logger.info` calls, the exporters, and a
`Receiver` on loopback. `session.jsonl` holds the calls: one line for the conversation, then one for
each event with its logger, name and fields.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from .. import catalog
from ..config.settings import ExporterConfig, ExporterName
from ..conversation import Conversation
from ..events.redaction import REDACTED
from ..handler import CodexOtelHandler
from ..otlp.factory import missing_package
from ..receiver import ReceivedEvent, Receiver
from ..text import shown
from .layout import cut

Transport = Literal["http", "grpc"]

ENVIRONMENT = "demo"
_TIMEOUT_S = 15.0
_MAX_FAULTS = 20
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_SEVERITY_INFO = 9


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One logging call of the session."""

    logger: str
    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """The logging calls of one conversation."""

    conversation: Conversation
    events: Sequence[LoggedEvent]


@dataclass(frozen=True, slots=True)
class Played:
    """The result of playing a session over one transport."""

    transport: Transport
    sent: int
    received: Sequence[ReceivedEvent]
    faults: Sequence[str]


def recorded_session() -> Session:
    """Return the session shipped with the package."""
    text = resources.files(__package__).joinpath("session.jsonl").read_text(encoding="utf-8")
    first, *rest = map(json.loads, text.splitlines())
    return Session(
        Conversation(**first["conversation"]), tuple(LoggedEvent(**line) for line in rest)
    )


def run(transports: Sequence[Transport]) -> int:
    """Play the session over each transport, print what arrived, and return the exit status.

    Blocks until everything has arrived, at most about 15 seconds per transport.
    """
    session = recorded_session()
    names = " and ".join(_LABELS[transport] for transport in transports)
    print(f"A recorded agent session of {len(session.events)} events, sent over {names}\n")
    with _without_environment_settings():
        results = [play(session, transport) for transport in transports]
    for line in _report(results):
        print(line)
    return 1 if any(result.faults for result in results) else 0


def installed_transports() -> Sequence[Transport]:
    """Return the transports whose exporter is installed; both if neither is, so that `run` fails.

    The error message of `run` then names the packages to install.
    """
    exporters: dict[Transport, ExporterName] = {"http": "otlp-http", "grpc": "otlp-grpc"}
    installed = [t for t in exporters if missing_package(ExporterConfig(exporters[t], "")) is None]
    return installed or list(exporters)


@contextmanager
def _without_environment_settings() -> Iterator[None]:
    """Hide `OTEL_*` variables and proxies: the demo must work on any machine."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def play(session: Session, transport: Transport) -> Played:
    """Log the session to a receiver and compare what arrived with what was logged."""
    with Receiver() as receiver, TemporaryDirectory() as folder:
        endpoint = receiver.http_endpoint if transport == "http" else receiver.grpc_endpoint
        handler = _configure(Path(folder), transport, endpoint, session.conversation)
        try:
            with session.conversation.bind():
                for event in session.events:
                    logging.getLogger(event.logger).info(event.event, extra=dict(event.fields))
            handler.flush(_TIMEOUT_S)
            sent = handler.stats().accepted
        finally:
            logging.getLogger("codex_otel").removeHandler(handler)
            handler.close()
        # OTLP groups records by scope, which here is the logger: sort by time to restore the order.
        received = sorted(
            receiver.events, key=lambda e: (e.time_unix_nano, e.observed_time_unix_nano)
        )
    return Played(transport, sent, received, tuple(faults(session, received)))


def _configure(
    folder: Path, transport: Transport, endpoint: str, conversation: Conversation
) -> CodexOtelHandler:
    """Configure logging as an application does, and return the handler."""
    settings = folder / "otel.toml"
    settings.write_text(
        "[otel]\n"
        f'environment = "{ENVIRONMENT}"\n'
        f'exporter = {{ otlp-{transport} = {{ endpoint = "{endpoint}" }} }}\n'
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "codex_otel": {
                    "()": "codex_otel_logging.from_toml",
                    "path": str(settings),
                    "app_version": conversation.app_version,
                    "strict": True,
                }
            },
            "loggers": {
                "codex_otel": {"level": "INFO", "propagate": False, "handlers": ["codex_otel"]}
            },
        }
    )
    (handler,) = logging.getLogger("codex_otel").handlers
    assert isinstance(handler, CodexOtelHandler)
    return handler


def faults(session: Session, received: Sequence[ReceivedEvent]) -> Iterator[str]:
    """Yield a line for each difference between what was logged and what arrived."""
    if len(received) != len(session.events):
        yield f"{len(session.events)} events were logged, {len(received)} arrived"
    # A different number is already reported: compare as many pairs as there are.
    for number, (logged, event) in enumerate(zip(session.events, received, strict=False), 1):
        for what, expected, arrived in _compared(session.conversation, logged, event):
            if type(expected) is not type(arrived) or expected != arrived:  # True == 1
                yield f"event {number}, {logged.event}: {what}: {expected!r} became {arrived!r}"


def _compared(
    conversation: Conversation, logged: LoggedEvent, event: ReceivedEvent
) -> Iterator[tuple[str, object, object]]:
    """Yield each compared value: its name, as logged, as received."""
    yield "event name", logged.event, event.event_name
    yield "body", logged.event, event.body
    yield "scope", logged.logger, event.scope
    yield "severity", _SEVERITY_INFO, event.severity_number
    resource = {
        "service.name": "codex-cli",
        "service.version": conversation.app_version,
        "env": ENVIRONMENT,
    }
    for key, value in resource.items():
        yield f"resource {key}", value, event.resource.get(key)
    # The time of the call is unknown here, so only its form is compared.
    timestamp = str(event.attributes.get("event.timestamp"))
    yield "event.timestamp", True, _TIMESTAMP.fullmatch(timestamp) is not None
    expected = {
        "event.name": logged.event,
        "event.timestamp": timestamp,
        "conversation.id": conversation.id,
        "app.version": conversation.app_version,
        "terminal.type": conversation.terminal_type,
        "model": conversation.model,
        "slug": conversation.slug,
        **logged.fields,
    }
    if "prompt" in logged.fields:  # `log_user_prompt` is off by default
        expected["prompt_length"] = len(logged.fields["prompt"])
        expected["prompt"] = REDACTED
    for key in sorted(expected.keys() | event.attributes.keys()):
        yield key, expected.get(key), event.attributes.get(key)


_LABELS: dict[Transport, str] = {"http": "OTLP/HTTP", "grpc": "OTLP/gRPC"}

_SHARED = catalog.COMMON_FIELD_NAMES - {"event.name", "event.timestamp"}


def _report(results: Sequence[Played]) -> Iterator[str]:
    first = results[0]
    width = shutil.get_terminal_size((120, 24)).columns
    yield f"{'#':>3}  {'time':12}  {'event':25}  fields"
    for number, event in enumerate(first.received, start=1):
        moment = datetime.fromtimestamp(event.time_unix_nano / 1e9, timezone.utc)
        fields = ", ".join(
            f"{key}={shown(value)}"
            for key, value in event.attributes.items()
            if key not in catalog.COMMON_FIELD_NAMES
        )
        clock = moment.time().isoformat(timespec="milliseconds")
        yield cut(f"{number:>3}  {clock}  {event.name:25}  {fields}", width)
    if first.received:
        event = first.received[0]
        yield "\nresource"
        yield from (f"  {key} = {value}" for key, value in event.resource.items())
        yield "\non every event"
        yield from (
            f"  {key} = {value}" for key, value in event.attributes.items() if key in _SHARED
        )
    yield "\nredacted"
    for event in first.received:
        for key, value in event.attributes.items():
            if value == REDACTED:
                length = event.attributes.get(f"{key}_length")
                yield f"  {event.name}: {key} = {value}, only the length was sent: {length}"
    yield f"\n{'':11}  sent  received"
    for result in results:
        yield f"{_LABELS[result.transport]:11}  {result.sent:>4}  {len(result.received):>8}"
    yield ""
    found = [f"{_LABELS[r.transport]}: {fault}" for r in results for fault in r.faults]
    if not found:
        yield "Every event arrived, with every attribute as logged."
        return
    yield "NOT everything arrived as logged:"
    yield from (f"  {fault}" for fault in found[:_MAX_FAULTS])
    if len(found) > _MAX_FAULTS:
        yield f"  and {len(found) - _MAX_FAULTS} more"
