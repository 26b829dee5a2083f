"""The application: it logs a `codex.tool_result` of a recorded session, again and again.

Ours takes what the events of a conversation share from the bound `Conversation`. Peers have no such
thing, so they get the same fields in `extra=`, as their users would have to write it.
"""

from __future__ import annotations

import logging
from importlib import import_module

ARGUMENTS = '{"command": ["bash", "-lc", "ls /definitely/not/here"]}'
OUTPUT = (
    '{"output":"ls: cannot access \'/definitely/not/here\': No such file or directory\\n",'
    '"metadata":{"exit_code":2,"duration_seconds":0.2}}'
)
CALL_ID = "call_BZLCxgXkk2SsS1bYbqDBLLmA"  # found once in each event, and counted by `sink`

CONVERSATION = {
    "id": "01a209b9-96b0-7250-b5e0-28ffaf47cc56",
    "model": "gpt-5-codex",
    "auth_mode": "ApiKey",
    "account_id": "acct_20394",
    "app_version": "0.44.0",
    "terminal_type": "xterm",
}
COMMON_FIELDS = {
    "event.name": "codex.tool_result",
    "event.timestamp": "2026-01-31T12:34:56.789Z",
    "conversation.id": CONVERSATION["id"],
    "app.version": CONVERSATION["app_version"],
    "auth_mode": CONVERSATION["auth_mode"],
    "user.account_id": CONVERSATION["account_id"],
    "terminal.type": CONVERSATION["terminal_type"],
    "model": CONVERSATION["model"],
    "slug": CONVERSATION["model"],
}


class Subject:
    """One way to log; building it configures logging. `log` may be called from any thread."""

    title = ""
    packages: tuple[str, ...] = ()
    transport: str | None = None
    """How its events reach a collector; None when they reach none."""

    def __init__(self, endpoint: str) -> None:
        self.logger = logging.getLogger("codex_otel.tools")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.configure(endpoint)

    def configure(self, endpoint: str) -> None:
        """Attach what is to be measured."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until the collector has answered for what was logged."""

    def log(self, count: int, output: str = OUTPUT) -> None:
        """Log the event, with all its fields, `count` times."""
        common = COMMON_FIELDS
        for _ in range(count):
            self.logger.info(
                "codex.tool_result",
                extra={
                    **common,
                    "tool_name": "shell",
                    "call_id": CALL_ID,
                    "arguments": ARGUMENTS,
                    "duration_ms": 153,
                    "success": "false",
                    "output": output,
                },
            )


class WithConversation(Subject):
    """A subject that is told by `Conversation.bind` what the events share."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        ours = import_module("codex_otel_logging")
        self._binding = ours.Conversation(**CONVERSATION).bind()
        self._binding.__enter__()

    def log(self, count: int, output: str = OUTPUT) -> None:
        for _ in range(count):
            self.logger.info(
                "codex.tool_result",
                extra={
                    "tool_name": "shell",
                    "call_id": CALL_ID,
                    "arguments": ARGUMENTS,
                    "duration_ms": 153,
                    "success": "false",
                    "output": output,
                },
            )
