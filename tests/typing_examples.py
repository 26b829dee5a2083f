"""An application's code for mypy, which must accept or reject each line. It is never run.

A line that mypy must reject has a `type: ignore` comment, and mypy rejects unused ones:
https://mypy.readthedocs.io/en/stable/config_file.html#confval-warn_unused_ignores. Assigning a
value of another type to `number` shows that the value's type is known and is not `Any`.
"""

from __future__ import annotations

import logging
from datetime import timedelta

import codex_otel_logging
from codex_otel_logging import (
    CodexOtelHandler,
    ConfigError,
    Conversation,
    OtelConfig,
    Receiver,
    Stats,
    catalog,
    flush_on_sigterm,
    from_table,
    from_toml,
)
from codex_otel_logging.testing import CapturedEvent, CapturedEvents, capture_events
from codex_otel_logging.typing import (
    ApiRequest,
    ConversationStarts,
    Decision,
    SseEvent,
    StartupPhase,
    ToolDecision,
    ToolResult,
    TurnTtft,
    UserPrompt,
)

LOGGER = logging.getLogger("codex_otel")


def fields_that_are_right(decision: Decision, ray: str | None) -> None:
    request: ApiRequest = {
        "attempt": 0,
        "duration_ms": timedelta(seconds=1),
        "http.response.status_code": 200,
        "cf_ray": ray,
        "conversation.id": "conversation-1",
    }
    LOGGER.info("codex.api_request", extra=request)
    Conversation("id", "model").logger().info("codex.api_request", extra=request)
    catalog.problems("codex.api_request", request)
    event: SseEvent = {"event.kind": "response.completed", "duration_ms": 1.5}
    phase: StartupPhase = {"startup.phase": "a", "startup.status": "b", "duration_ms": 1}
    LOGGER.info("codex.sse_event", extra=event)
    LOGGER.info("codex.startup_phase", extra=phase)
    LOGGER.info("codex.turn_ttft", extra=TurnTtft(duration_ms=352))
    LOGGER.info("codex.user_prompt", extra=UserPrompt(prompt="Rename foo"))
    LOGGER.info(
        "codex.conversation_starts",
        extra=ConversationStarts(
            provider_name="p", approval_policy="a", sandbox_policy="s", mcp_servers=""
        ),
    )
    LOGGER.info(
        "codex.tool_decision",
        extra=ToolDecision(tool_name="shell", call_id="1", decision=decision, source="user"),
    )
    succeeded = decision != "denied"
    ToolResult(
        tool_name="t", call_id="1", arguments="", duration_ms=1, success=succeeded, output=""
    )
    ToolResult(tool_name="t", call_id="1", arguments="", duration_ms=1, success="true", output="")


def fields_that_are_wrong(decision: str) -> None:
    ToolResult(tool_name="t", call_id="1", arguments="", duration_ms=1, output="")  # type: ignore[typeddict-item]
    ToolResult(tool_name="t", call_id="1", arguments="", duration_ms=1, success="yes", output="")  # type: ignore[typeddict-item]
    ToolDecision(tool_name="t", call_id="1", decision="yes", source="user")  # type: ignore[typeddict-item]
    ToolDecision(tool_name="t", call_id="1", decision=decision, source="user")  # type: ignore[typeddict-item]
    ToolDecision(tool_name="t", call_id="1", decision="denied", source="nobody")  # type: ignore[typeddict-item]
    TurnTtft(duration_ms="352")  # type: ignore[typeddict-item]
    TurnTtft(duration_s=352)  # type: ignore[typeddict-item]
    UserPrompt(prompt=None)  # type: ignore[typeddict-item]
    UserPrompt(prompt="p", prompt_length=timedelta())  # type: ignore[typeddict-item]
    request: ApiRequest = {"attempt": 0, "duration_ms": 1, "http.status_code": 200}  # type: ignore[typeddict-unknown-key]
    event: SseEvent = {"duration_ms": 1}  # type: ignore[typeddict-item]
    request["http.response.status_code"] = "200"  # type: ignore[typeddict-item]
    event["event.kind"] = None  # type: ignore[typeddict-item]


class SandboxedResult(ToolResult):
    sandbox: str


def fields_of_ones_own(result: ToolResult) -> None:
    own: SandboxedResult = {**result, "sandbox": "seatbelt"}
    LOGGER.info("codex.tool_result", extra=own)
    SandboxedResult(**result)  # type: ignore[typeddict-item]


def the_handler(level: object) -> None:
    number: int
    CodexOtelHandler("config.toml", app_version="1", missing_ok=True, strict=True, level="INFO")
    CodexOtelHandler({"exporter": "none"}, level=logging.INFO)
    CodexOtelHandler(OtelConfig())
    CodexOtelHandler(5)  # type: ignore[arg-type]
    CodexOtelHandler(level=level)  # type: ignore[arg-type]
    from_toml("config.toml", app_version="1", missing_ok=True, strict=True, level="INFO")
    from_table({}, app_version=None, level=logging.INFO)
    from_toml("config.toml", strct=True)  # type: ignore[call-arg]
    from_toml("config.toml", strict="yes")  # type: ignore[arg-type]
    from_table({}, missing=True)  # type: ignore[call-arg]
    from_table("config.toml")  # type: ignore[arg-type]
    number = from_toml("config.toml")  # type: ignore[assignment]
    number = from_table({})  # type: ignore[assignment]
    number = from_toml("config.toml").flush(1)
    number = from_toml("config.toml").stats()  # type: ignore[assignment]
    number = from_toml("config.toml").stats().exported
    number = Stats().exportd  # type: ignore[attr-defined]
    flush_on_sigterm(15)  # type: ignore[call-arg]
    number = OtelConfig().batch  # type: ignore[assignment]
    logging.getLogger().addHandler(from_table({}))
    raise ConfigError(str(number))


def conversations() -> None:
    number: int
    conversation = Conversation(id="id", model="model", auth_mode="ApiKey", app_version="1")
    conversation.replace(model="other", slug=None)
    conversation.replace(modle="other")  # type: ignore[call-arg]
    conversation.replace(model=5)  # type: ignore[arg-type]
    conversation.model = "other"  # type: ignore[misc]
    number = conversation.slug  # type: ignore[assignment]
    number = conversation.replace()  # type: ignore[assignment]
    Conversation("id")  # type: ignore[call-arg]
    Conversation("id", "model", "slug", "auth mode")  # type: ignore[call-arg]
    with conversation.bind() as bound:
        number = bound  # type: ignore[assignment]
    number = conversation.logger()  # type: ignore[assignment]
    conversation.logger().info("codex.turn_ttft", extra=5)  # type: ignore[arg-type]
    print(number)


def the_catalog_and_other_modules() -> None:
    number: int
    number = catalog.find("codex.turn_ttft")  # type: ignore[assignment]
    number = codex_otel_logging.catalog.problems("codex.turn_ttft", {})  # type: ignore[assignment]
    number = catalog.fnd("codex.turn_ttft")  # type: ignore[attr-defined]
    catalog.register(catalog.EventType("app.event", fields=(catalog.Field("steps", "integer"),)))
    catalog.Field("steps", "int")  # type: ignore[arg-type]
    with Receiver() as receiver:
        number = receiver.wait_for(1)[0].name  # type: ignore[assignment]
    with capture_events() as events:
        captured: CapturedEvents = events
        event: CapturedEvent = captured[0]
        number = event.level
        number = event.name  # type: ignore[assignment]
        number = events.named("codex.turn_ttft")  # type: ignore[assignment]
    number = codex_otel_logging.Conversatoin  # type: ignore[attr-defined]
    print(number)
