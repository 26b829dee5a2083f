"""The interface of `listen`'s views, and texts that the views share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ...receiver import ReceivedEvent, RefusedRequest
from .refusals import Refusals
from .summaries import ConversationSummary

HOW_TO_STOP = "press Ctrl-C to stop and print a summary"


class View(Protocol):
    """Shows events on standard output. Used by the main thread only."""

    def begin(self, addresses: Sequence[str]) -> None:
        """Show the endpoints and how to configure a sender."""

    def conversation_begins(self, summary: ConversationSummary, event: ReceivedEvent) -> None:
        """Announce a conversation, before its first event is shown."""

    def event(self, event: ReceivedEvent, summary: ConversationSummary | None) -> None:
        """Show an event. `summary` is None for a log record that is not an event."""

    def status(self, text: str) -> None:
        """Replace the status line; an empty text removes it."""

    def end(self, total: str) -> None:
        """Show the total number of events, before the summaries."""

    def conversation_ends(self, summary: ConversationSummary, *, forgotten: bool = False) -> None:
        """Show a summary: at the end, or when it is `forgotten` in favour of newer ones."""

    def refused(self, refused: RefusedRequest) -> None:
        """Show the first request refused for a reason."""

    def refusals(self, refusals: Refusals) -> None:
        """Show the number of refused requests for each reason."""

    def warn(self, text: str) -> None:
        """Show a warning."""


def how_to_send(addresses: Sequence[str]) -> Iterator[str]:
    """Yield the lines that name the endpoints and show the settings for a sender."""
    yield f"Listening for events; {HOW_TO_STOP}."
    yield f"  OTLP/HTTP  {addresses[0]}"
    if len(addresses) > 1:
        yield f"  OTLP/gRPC  {addresses[1]}"
    else:
        yield "  OTLP/gRPC  needs an extra package: pip install 'codex_otel_logging[grpc]'"
    yield ""
    yield "In the Codex CLI's ~/.codex/config.toml, or in the file that your handler reads:"
    yield ""
    yield "[otel.exporter.otlp-http]"
    yield f'endpoint = "{addresses[0]}"'
    yield 'protocol = "binary"'
