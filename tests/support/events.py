"""Numbered events: how tests log them, and which of them arrived."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from codex_otel_logging.receiver import ReceivedEvent

LOGGER = logging.getLogger("codex_otel")


def log(count: int = 1, *, first: int = 0, **fields: Any) -> None:
    """Log `count` events, with a number in `duration_ms` that counts on from `first`."""
    for number in range(first, first + count):
        extra = {"duration_ms": number, "conversation.id": "c", **fields}
        LOGGER.info("codex.turn_ttft", extra=extra)


def numbers(events: Iterable[ReceivedEvent]) -> list[Any]:
    """Return the number of each event."""
    return [event.attributes["duration_ms"] for event in events]
