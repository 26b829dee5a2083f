"""The JSON Lines output of `listen --json`.

Every line on standard output is a JSON object. Lines of `type` `event`, or `record` for a log
record that is not an event, are printed as they arrive:

    time            RFC 3339, UTC, milliseconds
    name            name of the event
    conversation    id of the conversation, or null
    attributes      all attributes as received; bytes as base64, NaN and infinity as text
    resource        attributes of the sender
    body, scope, severity, trace_id, span_id, transport

Lines of `type` `conversation` are printed at the end, or earlier for a conversation that was
inactive while `MAX_CONVERSATIONS` others had events:

    id, label, models, app_version, first, last, duration_ms, events, turns
    api_requests, api_failures
    tokens          {input, output, cached, reasoning, tool}
    decisions, denied
    tools           [{name, calls, succeeded, total_ms, median_ms}]
    failures        [{event, message, count}], the first `MAX_FAILURES` distinct ones
    other_failures  number of other failures

Lines of `type` `refused` are printed for the first request refused for a reason, and at the end for
each reason with more than one request:

    time, transport (`http` or `grpc`: the port), reason, advice, count
"""

from __future__ import annotations

import base64
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...events.event import timestamp_text
from ...receiver import ReceivedEvent, RefusedRequest
from ...text import counted
from .event_facts import time_of
from .refusals import Refusals
from .summaries import ConversationSummary
from .views import View, how_to_send

EVENT_KEYS = (
    *("type", "time", "name", "conversation", "attributes", "resource"),
    *("body", "scope", "severity", "trace_id", "span_id", "transport"),
)
"""The keys of a JSON line for an event."""


def json_view() -> View:
    """Return a view that prints JSON Lines."""
    return _JsonView()


class _JsonView:
    """Prints JSON Lines on standard output, and everything else on standard error."""

    def begin(self, addresses: Sequence[str]) -> None:
        for line in how_to_send(addresses):
            print(line, file=sys.stderr)
        sys.stderr.flush()

    def conversation_begins(self, summary: ConversationSummary, event: ReceivedEvent) -> None:
        pass

    def event(self, event: ReceivedEvent, summary: ConversationSummary | None) -> None:
        conversation = event.attributes.get("conversation.id")
        values = (
            "record" if summary is None else "event",
            timestamp_text(time_of(event)),
            event.name,
            None if conversation is None else str(conversation),
            event.attributes,
            event.resource,
            event.body,
            event.scope,
            event.severity_text,
            event.trace_id,
            event.span_id,
            event.transport,
        )
        self._print(dict(zip(EVENT_KEYS, values, strict=True)))

    def status(self, text: str) -> None:
        pass

    def end(self, total: str) -> None:
        pass

    def conversation_ends(self, summary: ConversationSummary, *, forgotten: bool = False) -> None:
        self._print(summary.as_json())

    def refused(self, refused: RefusedRequest) -> None:
        self._print_refused(refused, 1)

    def refusals(self, refusals: Refusals) -> None:
        for refused, count in refusals:
            if count > 1:
                self._print_refused(refused, count)
        if refusals.others:
            self.warn(f"{counted(refusals.others, 'request')} refused for other reasons")

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)

    def _print_refused(self, refused: RefusedRequest, count: int) -> None:
        moment = timestamp_text(time.time_ns())
        self._print({"type": "refused", "time": moment, **asdict(refused), "count": count})

    def _print(self, line: Mapping[str, Any]) -> None:
        # allow_nan=False: a literal NaN would not be JSON. flush: readers process line by line.
        print(json.dumps(_json_value(line), allow_nan=False), flush=True)


def _json_value(value: Any) -> Any:
    """Return a value as JSON can represent it: bytes as base64, NaN and infinity as text.

    OTLP/JSON does the same: https://protobuf.dev/programming-guides/json/
    """
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value
