"""How `listen` shows what arrives, and the words that its views share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ...receiver import ReceivedEvent, RefusedRequest
from .refusals import Refusals
from .summaries import ConversationSummary

HOW_TO_END = "Ctrl-C ends and sums up"


class View(Protocol):
    """Shows what arrives, on standard output. Used by the main thread alone."""

    def begin(self, addresses: Sequence[str]) -> None:
        """Say where it listens."""

    def conversation_begins(self, summary: ConversationSummary, event: ReceivedEvent) -> None:
        """Announce a conversation with its first event."""

    def event(self, event: ReceivedEvent, summary: ConversationSummary | None) -> None:
        """Show an event, or with no summary a record that is none."""

    def status(self, text: str) -> None:
        """Show how it stands, until the next call."""

    def end(self, total: str) -> None:
        """Say that the summaries begin."""

    def conversation_ends(self, summary: ConversationSummary, *, forgotten: bool = False) -> None:
        """Show what a conversation added up to."""

    def refused(self, refused: RefusedRequest) -> None:
        """Show the first request that was refused for a reason."""

    def refusals(self, refusals: Refusals) -> None:
        """Show how many requests were refused in all, and why."""

    def warn(self, text: str) -> None:
        """Say what should not have happened."""


def how_to_send(addresses: Sequence[str]) -> Iterator[str]:
    """Yield the lines that say where to send events, and which settings do so."""
    yield f"Listening for events; {HOW_TO_END}."
    yield f"  OTLP/HTTP  {addresses[0]}"
    if len(addresses) > 1:
        yield f"  OTLP/gRPC  {addresses[1]}"
    else:
        yield "  OTLP/gRPC  needs an extra package: pip install 'codex_otel_logging[grpc]'"
    yield ""
    yield "In the Codex CLI's ~/.codex/config.toml, or in the file your handler reads:"
    yield ""
    yield "[otel.exporter.otlp-http]"
    yield f'endpoint = "{addresses[0]}"'
    yield 'protocol = "binary"'


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """Return the verb that goes with a number of things."""
    return "is" if number == 1 else "are"
