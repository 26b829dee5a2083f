"""The fields of each event as a `TypedDict`, so that a type checker can check `extra=`.

    logger.info("codex.turn_ttft", extra=TurnTtft(duration_ms=352))

At run time these are plain dicts, and nothing is checked. Fields that are always present are
required, except for the common fields, which the conversation and the handler supply, and
`prompt_length`, which is computed. An optional field may also be None, which omits it. To add your
own fields, derive a class. This module imports nothing else from the package.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypedDict

Decision = Literal[
    "approved",
    "approved_for_session",
    "approved_with_amendment",
    "approved_mcp_policy_amendment",
    "approved_with_network_policy_allow",
    "denied",
    "denied_with_network_policy_deny",
    "timed_out",
    "abort",
]
"""The decision on a tool call that needed approval."""

DecisionSource = Literal["config", "user", "Config", "User", "AutomatedReviewer"]
"""The source of a decision on a tool call."""

CommonFields = TypedDict(
    "CommonFields",
    {
        "event.name": str | None,
        "event.timestamp": str | None,
        "conversation.id": str | None,
        "app.version": str | None,
        "auth_mode": str | None,
        "user.account_id": str | None,
        "terminal.type": str | None,
        "model": str | None,
        "slug": str | None,
    },
    total=False,
)


class _ConversationStartsOptional(CommonFields, total=False):
    reasoning_effort: str | None
    reasoning_summary: str | None
    context_window: int | None
    max_output_tokens: int | None
    auto_compact_token_limit: int | None
    active_profile: str | None


class ConversationStarts(_ConversationStartsOptional):
    """`codex.conversation_starts`: A conversation begins, with the settings it runs under."""

    provider_name: str
    approval_policy: str
    sandbox_policy: str
    mcp_servers: str


_ApiRequestOptional = TypedDict(
    "_ApiRequestOptional",
    {
        "cf_ray": str | None,
        "http.response.status_code": int | None,
        "error.message": str | None,
    },
    total=False,
)


class ApiRequest(_ApiRequestOptional, CommonFields):
    """`codex.api_request`: One attempt of a request to the model's API has ended."""

    attempt: int
    duration_ms: float | timedelta


_SseEventOptional = TypedDict(
    "_SseEventOptional",
    {
        "error.message": str | None,
        "input_token_count": int | None,
        "output_token_count": int | None,
        "cached_token_count": int | None,
        "reasoning_token_count": int | None,
        "tool_token_count": int | None,
    },
    total=False,
)
_SseEventRequired = TypedDict("_SseEventRequired", {"event.kind": str})


class SseEvent(_SseEventOptional, _SseEventRequired, CommonFields):
    """`codex.sse_event`: A server-sent event of a streamed response has arrived.

    A completed response must also have token counts, which a type cannot express.
    """

    duration_ms: float | timedelta


class _UserPromptOptional(CommonFields, total=False):
    prompt_length: int | None


class UserPrompt(_UserPromptOptional):
    """`codex.user_prompt`: The user has sent a prompt."""

    prompt: str


class ToolDecision(CommonFields):
    """`codex.tool_decision`: A tool call was approved or denied."""

    tool_name: str
    call_id: str
    decision: Decision
    source: DecisionSource


class ToolResult(CommonFields):
    """`codex.tool_result`: A tool call has ended."""

    tool_name: str
    call_id: str
    arguments: str
    duration_ms: float | timedelta
    success: bool | Literal["true", "false"]
    output: str


class TurnTtft(CommonFields):
    """`codex.turn_ttft`: The first token of a turn has arrived."""

    duration_ms: float | timedelta


_StartupPhaseRequired = TypedDict(
    "_StartupPhaseRequired", {"startup.phase": str, "startup.status": str}
)


class StartupPhase(_StartupPhaseRequired, CommonFields):
    """`codex.startup_phase`: A phase of the application's start has ended."""

    duration_ms: float | timedelta
