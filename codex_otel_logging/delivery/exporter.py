"""The one interface through which events are exported, and what became of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from ..events.event import Event

Verdict = Literal["delivered", "retry", "refused", "invalid", "too large", "not encodable"]


class Outcome(NamedTuple):
    """What became of one request.

    `verdict` says whether it was delivered, may be delivered later (`retry`), never will be
    (`refused`), or may be if it holds less (`invalid`, `too large`, `not encodable`). `rejected`
    counts the events a collector left out of a delivered one. `retry_after_s` is how long it asked
    to be left alone. `reason` says what happened in words that may be logged. `status` is what a
    collector answered: HTTP's number, gRPC's name, or None if nothing. `web_page` is True if a web
    page came with a success status.
    """

    verdict: Verdict
    reason: str = ""
    rejected: int = 0
    retry_after_s: float | None = None
    status: int | str | None = None
    web_page: bool = False


DELIVERED = Outcome("delivered")


class Exporter(Protocol):
    """Sends events to one collector; used by one thread at a time."""

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Send the events in one request.

        Blocks for about the timeout of the settings at most, or for `timeout_s` if that is less.

        Raises:
            OSError: the connection is lost for good; another exporter is needed.

        """

    def shutdown(self) -> None:
        """Close the connection; does not block."""
