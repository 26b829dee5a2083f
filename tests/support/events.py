"""Logs numbered events, and reads the numbers of received ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from codex_otel_logging.receiver import ReceivedEvent

LOGGER = logging.getLogger("codex_otel")


def log(count: int = 1, *, first: int = 0, **fields: Any) -> None:
    """Log `count` events, numbered from `first` in `duration_ms`."""
    for number in range(first, first + count):
        extra = {"duration_ms": number, "conversation.id": "c", **fields}
        LOGGER.info("codex.turn_ttft", extra=extra)


def numbers(events: Iterable[ReceivedEvent]) -> list[Any]:
    """Return the number of each event."""
    return [event.attributes["duration_ms"] for event in events]
