"""The benchmarked application: logs a `codex.tool_result` of a recorded session repeatedly.

This package takes the fields that events share from the bound `Conversation`. Peers have nothing
like it, so they get the same fields in `extra=`, as their users would have to write it.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from importlib import import_module

ARGUMENTS = '{"command": ["bash", "-lc", "ls /definitely/not/here"]}'
OUTPUT = (
    '{"output":"ls: cannot access \'/definitely/not/here\': No such file or directory\\n",'
    '"metadata":{"exit_code":2,"duration_seconds":0.2}}'
)
CALL_ID = "call_BZLCxgXkk2SsS1bYbqDBLLmA"  # occurs once in each event; `sink` counts it

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


def temporary_directory() -> str:
    """Create a directory that is removed at exit."""
    path = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class Subject:
    """A logging setup to measure; building it configures logging. `log` is thread-safe."""

    title = ""
    packages: tuple[str, ...] = ()
    """The packages that must be installed."""
    transport: str | None = None
    """`http`, `grpc`, or None if it exports nothing."""

    def __init__(self, endpoint: str) -> None:
        self.logger = logging.getLogger("codex_otel.tools")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.configure(endpoint)

    def configure(self, endpoint: str) -> None:
        """Attach the handler to measure to `logger`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until the collector has answered for all events logged so far."""

    def log(self, count: int, output: str = OUTPUT) -> None:
        """Log the event with all its fields `count` times."""
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
    """A subject that takes the shared fields from `Conversation.bind`."""

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
