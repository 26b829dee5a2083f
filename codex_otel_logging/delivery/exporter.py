"""The `Exporter` protocol and the `Outcome` of one export request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from ..events.event import Event

Verdict = Literal["delivered", "retry", "refused", "invalid", "too large", "not encodable"]
"""What an outcome means for the events of the request.

`delivered`: accepted, except for those counted in `rejected`. `retry`: may be accepted later.
`refused`: will never be accepted. `invalid`, `too large`, `not encodable`: a smaller request may
succeed, because only some of the events are at fault.
"""


class Outcome(NamedTuple):
    """The outcome of one export request.

    `rejected` counts the events that the collector rejected although it accepted the request (OTLP
    partial success). `retry_after_s` is the delay that the collector asked for, in seconds.
    `reason` is a description that is safe to log. `status` is the collector's status: a number for
    HTTP, a name for gRPC, None if there was no answer. `web_page` is True if a success status came
    with a web page.
    """

    verdict: Verdict
    reason: str = ""
    rejected: int = 0
    retry_after_s: float | None = None
    status: int | str | None = None
    web_page: bool = False


REFUSAL_INTERVAL_S = 30.0
"""Minimum time before events on disk are retried after a refusal, in seconds."""

DELIVERED = Outcome("delivered")


class Exporter(Protocol):
    """Exports events to one collector. Used by one thread at a time."""

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Export the events in one request.

        Blocks for at most about the configured timeout, or `timeout_s` if that is shorter.

        Raises:
            OSError: the connection cannot be used again; the caller must build a new exporter.

        """

    def shutdown(self) -> None:
        """Close the connection. Does not block."""
