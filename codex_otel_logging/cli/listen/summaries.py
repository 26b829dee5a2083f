"""Aggregates the events of each conversation: turns, tokens, tools, failures.

Everything is bounded, so that `listen` can run for days.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...events.event import timestamp_text
from .event_facts import failure_of, has_succeeded, is_denied, number, time_of

if TYPE_CHECKING:
    from ...receiver import ReceivedEvent

MAX_CONVERSATIONS = 200
"""Maximum number of conversations. The one without events for the longest time is dropped."""

MAX_TOOLS = 50
"""Maximum number of tools per conversation. Further tools are counted together."""

MAX_DURATIONS = 100
"""Number of latest calls of a tool from which the median is computed."""

MAX_FAILURES = 10
"""Maximum number of distinct failures per conversation. Further failures are only counted."""

MAX_MODELS = 5
MAX_TEXT = 300
"""Maximum number of characters kept of a text."""

OTHER_TOOLS = "(other tools)"
TOKENS = ("input", "output", "cached", "reasoning", "tool")


class ToolSummary:
    """Totals of the calls of one tool. Times are in milliseconds."""

    # Up to 200 conversations with 50 tools each.
    __slots__ = ("_durations", "calls", "succeeded", "total_ms")

    def __init__(self) -> None:
        self.calls = 0
        self.succeeded = 0
        self.total_ms = 0.0
        self._durations: deque[float] = deque(maxlen=MAX_DURATIONS)

    def add(self, event: ReceivedEvent) -> None:
        """Count a call."""
        self.calls += 1
        self.succeeded += has_succeeded(event) is True
        duration = number(event.attributes.get("duration_ms"))
        if duration is not None:
            self.total_ms += duration
            self._durations.append(duration)

    @property
    def median_ms(self) -> float | None:
        """The median duration of the latest calls, or None if no call reported one."""
        ordered = sorted(self._durations)
        if not ordered:
            return None
        # `~middle` counts from the end: it is the other middle element if their number is even.
        middle = len(ordered) // 2
        return (ordered[middle] + ordered[~middle]) / 2


class ConversationSummary:
    """Totals of the events of one conversation.

    `number` numbers the conversations from 1; 0 is for events without a conversation. Times are in
    nanoseconds since the epoch. `failures` maps (event name, message) to a count.
    """

    def __init__(self, id: str, number: int) -> None:  # noqa: A002
        self.id = id
        self.number = number
        self.models: list[str] = []
        self.app_version = ""
        self.first_ns = 0
        self.last_ns = 0
        self.events = 0
        self.turns = 0
        self.api_requests = 0
        self.api_failures = 0
        self.tokens = dict.fromkeys(TOKENS, 0)
        self.decisions = 0
        self.denied = 0
        self.tools: dict[str, ToolSummary] = {}
        self.failures: dict[tuple[str, str], int] = {}
        self.other_failures = 0

    @property
    def label(self) -> str:
        """A short name such as `#1`, or `-` for events without a conversation."""
        return f"#{self.number}" if self.number else "-"

    def add(self, event: ReceivedEvent) -> None:
        """Add an event to the totals."""
        attributes = event.attributes
        moment = time_of(event)
        self.first_ns = min(self.first_ns, moment) if self.events else moment
        self.last_ns = max(self.last_ns, moment)
        self.events += 1
        model = str(attributes.get("model", ""))[:MAX_TEXT]
        if model and model not in self.models and len(self.models) < MAX_MODELS:
            self.models.append(model)
        # The Codex CLI sends the version as an attribute of each event and of the resource.
        if not self.app_version:
            version = attributes.get("app.version") or event.resource.get("service.version") or ""
            self.app_version = str(version)[:MAX_TEXT]
        failure = failure_of(event)
        if failure is not None:
            self._add_failure(event.name[:MAX_TEXT], failure[:MAX_TEXT])
        if event.name == "codex.user_prompt":
            self.turns += 1
        elif event.name == "codex.api_request":
            self.api_requests += 1
            self.api_failures += failure is not None
        elif event.name == "codex.sse_event":
            # Only `response.completed` has counts. The Codex CLI sends it twice, once without.
            for kind in TOKENS:
                self.tokens[kind] += int(number(attributes.get(f"{kind}_token_count")) or 0)
        elif event.name == "codex.tool_decision":
            self.decisions += 1
            self.denied += is_denied(event)
        elif event.name == "codex.tool_result":
            self._tool(str(attributes.get("tool_name", ""))[:MAX_TEXT]).add(event)

    def _tool(self, name: str) -> ToolSummary:
        if name not in self.tools and len(self.tools) >= MAX_TOOLS:
            name = OTHER_TOOLS
        return self.tools.setdefault(name, ToolSummary())

    def _add_failure(self, name: str, message: str) -> None:
        kind = (name, message)
        if kind in self.failures or len(self.failures) < MAX_FAILURES:
            self.failures[kind] = self.failures.get(kind, 0) + 1
        else:
            self.other_failures += 1

    def as_json(self) -> dict[str, Any]:
        """Return the totals as a JSON object. Its keys are documented in `json_view`."""
        return {
            "type": "conversation",
            "id": self.id or None,
            "label": self.label,
            "models": self.models,
            "app_version": self.app_version or None,
            "first": timestamp_text(self.first_ns),
            "last": timestamp_text(self.last_ns),
            "duration_ms": (self.last_ns - self.first_ns) // 1_000_000,
            "events": self.events,
            "turns": self.turns,
            "api_requests": self.api_requests,
            "api_failures": self.api_failures,
            "tokens": self.tokens,
            "decisions": self.decisions,
            "denied": self.denied,
            "tools": [
                {
                    "name": name,
                    "calls": tool.calls,
                    "succeeded": tool.succeeded,
                    "total_ms": tool.total_ms,
                    "median_ms": tool.median_ms,
                }
                for name, tool in self.tools.items()
            ],
            "failures": [
                {"event": name, "message": message, "count": count}
                for (name, message), count in self.failures.items()
            ],
            "other_failures": self.other_failures,
        }


class Summaries:
    """The summaries of at most `MAX_CONVERSATIONS` conversations."""

    def __init__(self) -> None:
        self._known: dict[str, ConversationSummary] = {}  # in the order of their latest event
        self.conversations = 0

    def summary_for(self, event: ReceivedEvent) -> tuple[ConversationSummary, bool]:
        """Return the summary of an event's conversation, and whether it is new."""
        key = str(event.attributes.get("conversation.id") or "")[:MAX_TEXT]
        # Removed and added again, the entry moves to the end of the dictionary.
        known = self._known.pop(key, None)
        if known is None:
            self.conversations += bool(key)
            summary = ConversationSummary(key, self.conversations if key else 0)
        else:
            summary = known
        self._known[key] = summary
        return summary, known is None

    def forget(self) -> Iterator[ConversationSummary]:
        """Remove and yield the least recently active summaries beyond the maximum."""
        while len(self._known) > MAX_CONVERSATIONS:
            yield self._known.pop(next(iter(self._known)))

    def __iter__(self) -> Iterator[ConversationSummary]:
        """Iterate over the summaries in the order of their first event."""
        return iter(sorted(self._known.values(), key=lambda summary: summary.number))
