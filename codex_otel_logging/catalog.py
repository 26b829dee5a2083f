"""The catalog of events that can be exported, as data.

Names, fields and their order are those of the Codex CLI. `find` decides which records are events,
`Field.sensitive` which fields may be redacted; `problems` checks an event, `markdown` documents the
catalog, and `register` adds an application's own events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args

from .values import attribute_value, encodable

FieldType = Literal["string", "integer", "number", "boolean string", "timestamp"]
"""The type of a field.

`number` is an integer or a float, `boolean string` is "true" or "false", and `timestamp` is RFC
3339 in UTC with milliseconds, ending in `Z`.
"""

Presence = Literal["always", "when available", "on failure", "on completion"]
"""When a field is present; `on completion` means that `event.kind` is `response.completed`."""

Sensitivity = Literal["prompt", "tool payload", "agent response", "guardian assessment"]
"""Which setting decides whether a field's value is sent.

In this order: `log_user_prompt`, `log_tool_payloads`, `log_agent_responses`,
`log_guardian_assessments`.
"""

COMPLETED = "response.completed"
"""The `event.kind` of the event that ends a response and holds its token counts."""

TEXT_DELTA = "response.output_text.delta"
"""The `event.kind` of the events that `log_sse_deltas = false` excludes."""


class Field(NamedTuple):
    """One attribute of an event. A `computed` field is a length that the handler can supply."""

    name: str
    type: FieldType = "string"
    presence: Presence = "always"
    description: str = ""
    choices: tuple[str, ...] = ()
    sensitive: Sensitivity | None = None
    computed: bool = False

    def problem(self, value: object) -> str | None:
        """Return what is wrong with a value of this field, or None. The value is not shown."""
        # To Python, but not to the catalog, a bool is an int.
        if not isinstance(value, PYTHON_TYPES[self.type]) or (
            isinstance(value, bool) and self.type in ("integer", "number")
        ):
            return f"expected {_ARTICLES[self.type]}, got {type(value).__name__}"
        # Encodable first: `str` refuses an integer of more than 4300 digits.
        if self.choices and str(encodable(value)) not in self.choices:  # type: ignore[arg-type]
            return f"expected one of {', '.join(map(repr, self.choices))}"
        return None


class EventType(NamedTuple):
    """A type of event: its name, and its fields in addition to the common ones."""

    name: str
    description: str = ""
    fields: tuple[Field, ...] = ()

    @property
    def boolean_strings(self) -> frozenset[str]:
        """The names of the fields in which True and False are sent as text."""
        return frozenset(f.name for f in self.fields if f.type == "boolean string")

    @property
    def length_fields(self) -> frozenset[str]:
        """The names of the fields whose length is computed if the application logs none."""
        return frozenset(f.name.removesuffix("_length") for f in self.fields if f.computed)


PYTHON_TYPES: Mapping[FieldType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean string": (str,),
    "timestamp": (str,),
}
"""The types that a field's value may have in Python, except that bool is none of them."""

_ARTICLES: dict[FieldType, str] = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean string": '"true" or "false"',
    "timestamp": "a timestamp",
}

COMMON_FIELDS = (
    Field("event.name", description="name of the event"),
    Field("event.timestamp", "timestamp", description="when it was logged"),
    Field("conversation.id", description="the conversation it belongs to"),
    Field("app.version", description="version of the application"),
    Field("auth_mode", presence="when available", description="how the user signed in"),
    Field("user.account_id", presence="when available", description="the user's account"),
    Field("terminal.type", description="terminal the application runs in"),
    Field("model", description="model the conversation uses"),
    Field("slug", description="the model's short name"),
)
"""The fields that all events have; the `Conversation` and the handler supply them."""

COMMON_FIELD_NAMES = frozenset(field.name for field in COMMON_FIELDS)

_BOOLEAN_STRINGS = ("true", "false")

_DECISIONS = (
    "approved",
    "approved_for_session",
    "approved_with_amendment",
    "approved_mcp_policy_amendment",
    "approved_with_network_policy_allow",
    "denied",
    "denied_with_network_policy_deny",
    "timed_out",
    "abort",
)

_DECISION_SOURCES = ("config", "user", "Config", "User", "AutomatedReviewer")
"""The first two are the documented spellings; the Codex CLI sends the others."""

_BUILT_IN = (
    EventType(
        "codex.conversation_starts",
        "A conversation begins, with the settings it runs under.",
        (
            Field("provider_name", description="provider of the model"),
            Field("reasoning_effort", presence="when available"),
            Field("reasoning_summary", presence="when available"),
            Field("context_window", "integer", "when available", "tokens"),
            Field("max_output_tokens", "integer", "when available", "tokens"),
            Field("auto_compact_token_limit", "integer", "when available", "tokens"),
            Field("approval_policy"),
            Field("sandbox_policy"),
            Field("mcp_servers", description="names, separated by commas"),
            Field("active_profile", presence="when available"),
        ),
    ),
    EventType(
        "codex.api_request",
        "One attempt of a request to the model's API has ended.",
        (
            Field(
                "cf_ray", presence="when available", description="Cloudflare's id of the request"
            ),
            Field("attempt", "integer", description="0 for the first try"),
            Field("duration_ms", "number", description="milliseconds"),
            Field("http.response.status_code", "integer", "when available"),
            Field("error.message", presence="on failure"),
        ),
    ),
    EventType(
        "codex.sse_event",
        "A server-sent event of a streamed response has arrived.",
        (
            Field("event.kind", description="type of the streamed event"),
            Field("duration_ms", "number", description="milliseconds waited for it"),
            Field("error.message", presence="on failure"),
            Field("input_token_count", "integer", "on completion"),
            Field("output_token_count", "integer", "on completion"),
            Field("cached_token_count", "integer", "when available", "on completion"),
            Field("reasoning_token_count", "integer", "when available", "on completion"),
            Field("tool_token_count", "integer", "on completion"),
        ),
    ),
    EventType(
        "codex.user_prompt",
        "The user has sent a prompt.",
        (
            Field("prompt_length", "integer", description="characters", computed=True),
            Field("prompt", description="the text", sensitive="prompt"),
        ),
    ),
    EventType(
        "codex.tool_decision",
        "A tool call was approved or denied.",
        (
            Field("tool_name"),
            Field("call_id"),
            Field("decision", choices=_DECISIONS),
            Field("source", description="who decided", choices=_DECISION_SOURCES),
        ),
    ),
    EventType(
        "codex.tool_result",
        "A tool call has ended.",
        (
            Field("tool_name"),
            Field("call_id"),
            Field("arguments", description="what it was called with", sensitive="tool payload"),
            Field("duration_ms", "number", description="milliseconds it ran"),
            Field("success", "boolean string", choices=_BOOLEAN_STRINGS),
            Field("output", description="what it returned", sensitive="tool payload"),
        ),
    ),
    EventType(
        "codex.turn_ttft",
        "The first token of a turn has arrived.",
        (Field("duration_ms", "number", description="milliseconds since the turn began"),),
    ),
    EventType(
        "codex.startup_phase",
        "A phase of the application's start has ended.",
        (
            Field("startup.phase"),
            Field("startup.status"),
            Field("duration_ms", "number", description="milliseconds the phase took"),
        ),
    ),
)

SENSITIVE_FIELDS: Mapping[str, Sensitivity] = {
    # Fields of Codex CLI events that are not in this catalog but that an application may register.
    "response": "agent response",
    "rationale": "guardian assessment",
    **{
        field.name: field.sensitive
        for event in _BUILT_IN
        for field in event.fields
        if field.sensitive is not None
    },
}
"""The fields that are sensitive in every event, whether or not the event declares them."""

_events: dict[str, EventType] = {event.name: event for event in _BUILT_IN}


def find(name: str) -> EventType | None:
    """Return the event of that name, or None."""
    return _events.get(name)


def events() -> Iterator[EventType]:
    """Iterate over all events: the built-in ones, then the registered ones in order."""
    return iter(tuple(_events.values()))  # a copy: another thread may register an event meanwhile


def register(event: EventType) -> None:
    """Add an application's own event to the catalog, so that it is exported.

    Registering an equal event again has no effect. May be called from any thread, before or after
    the handler is built.

    Raises:
        ValueError: the name is empty, a field is invalid, or the catalog has a different event of
            that name.

    """
    if not event.name:
        raise ValueError("event names must not be empty")
    for field in event.fields:
        if (fault := _declaration_fault(field)) is not None:
            raise ValueError(f"event {event.name!r}: {fault}")
    if _events.setdefault(event.name, event) != event:  # atomic, so no lock is needed
        raise ValueError(f"event {event.name!r} is already in the catalog with different fields")


def _declaration_fault(field: object) -> str | None:
    """Return what is invalid in the declaration of a field, or None."""
    # A `Field` is a tuple itself: iterating over `(Field("plan"))` yields its texts.
    if not isinstance(field, Field):
        return f"fields: expected a tuple of Field, got {type(field).__name__} in it"
    # A sensitivity that no setting has would leave the field unredacted.
    for attribute, value, known in (
        ("type", field.type, get_args(FieldType)),
        ("presence", field.presence, get_args(Presence)),
        ("sensitive", field.sensitive, (None, *get_args(Sensitivity))),
    ):
        if value not in known:
            expected = ", ".join(map(repr, known))
            return f"field {field.name!r}: {attribute} must be one of {expected}"
    return None


def problems(name: str, fields: Mapping[str, object]) -> list[str]:
    """Return the faults of an event's own fields, one line each. For an application's tests.

    `fields` is what the application passes as `extra=`. Its values are first converted as by the
    handler, so `success=True` is valid. Common fields are not checked, and fields that the catalog
    does not know are allowed. No line contains a value.
    """
    event = find(name)
    if event is None:
        return [f"{name}: unknown event"]
    attributes = {
        key: attribute_value(key, value, boolean_string=key in event.boolean_strings)
        for key, value in fields.items()
    }
    return [f"{name}: {field}: {fault}" for field, fault in field_faults(event, attributes)]


def field_faults(event: EventType, attributes: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the name and the fault of each invalid or missing field of an event."""
    for field in event.fields:
        value = attributes.get(field.name)
        if value is None:
            if not field.computed and (
                field.presence == "always"
                or (field.presence == "on completion" and attributes.get("event.kind") == COMPLETED)
            ):
                yield field.name, f"missing; expected {_ARTICLES[field.type]}"
        elif (fault := field.problem(value)) is not None:
            yield field.name, fault


def markdown(name: str | None = None) -> str:
    """Return the catalog as Markdown tables, or the table of one event.

    Raises:
        KeyError: the catalog has no event of that name.

    """
    shown = events() if name is None else (_events[name],)
    lines = ["| event | field | type | present |", "|---|---|---|---|"]
    for event in shown:
        first = f"`{event.name}`"
        for f in event.fields:
            lines.append(f"| {first} | `{f.name}` | {_markdown_type(f)} | {f.presence} |")
            first = ""
    if name is None:
        common = ["| common field | type | present |", "|---|---|---|"]
        common += [f"| `{f.name}` | {_markdown_type(f)} | {f.presence} |" for f in COMMON_FIELDS]
        lines = [*common, "", *lines]
    return "\n".join(lines) + "\n"


def meaning(field: Field) -> str:
    """Return the description of a field and its properties, or ""."""
    notes = [field.description] if field.description else []
    if field.computed:
        notes.append("computed when absent")
    if field.sensitive:
        notes.append("sensitive")
    return "; ".join(notes)


def _markdown_type(field: Field) -> str:
    kind = " / ".join(f"`{choice}`" for choice in field.choices) or field.type
    return f"{kind} ({notes})" if (notes := meaning(field)) else kind
