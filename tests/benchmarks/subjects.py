"""The subjects of the benchmarks: this package, the floor, and the peers.

A subject imports its own packages when it is built, because that time is measured too.
"""

from __future__ import annotations

import logging
from importlib import import_module

from application import Subject, WithConversation, temporary_directory
from peers import JsonFile, Logfire, Nothing, Official, OfficialGrpc, Queued, Sentry, Structlog


class Floor(WithConversation):
    """The least that logging an event can cost: everything but the handler's work."""

    title = "a handler whose `emit` returns"

    def configure(self, endpoint: str) -> None:
        self.logger.addHandler(Nothing())


class Null(WithConversation):
    title = "`logging.NullHandler`"

    def configure(self, endpoint: str) -> None:
        self.logger.addHandler(logging.NullHandler())


class Ours(WithConversation):
    title = "ours, otlp-http"
    packages: tuple[str, ...] = ("opentelemetry-exporter-otlp-proto-http",)
    transport: str | None = "http"

    def configure(self, endpoint: str) -> None:
        ours = import_module("codex_otel_logging")
        exporter = {f"otlp-{self.transport}": {"endpoint": endpoint}} if self.transport else "none"
        settings = {"exporter": exporter, **self.more_settings()}
        self._handler = ours.CodexOtelHandler(settings, app_version="0.44.0")
        self.logger.addHandler(self._handler)

    def more_settings(self) -> dict[str, object]:
        """Return further settings."""
        return {}

    def flush(self) -> None:
        if not self._handler.flush(120):
            raise TimeoutError("events were not delivered in time")


class OursGrpc(Ours):
    title = "ours, otlp-grpc"
    packages: tuple[str, ...] = ("opentelemetry-exporter-otlp-proto-grpc",)
    transport = "grpc"


class OursSpool(Ours):
    title = "ours, otlp-http, with a spool"

    def more_settings(self) -> dict[str, object]:
        return {"spool": {"path": temporary_directory()}}


class OursNone(Ours):
    title = "ours, exporter none"
    packages: tuple[str, ...] = ()
    transport = None


SUBJECTS: dict[str, type[Subject]] = {
    "floor": Floor,
    "null": Null,
    "none": OursNone,
    "ours": Ours,
    "ours-grpc": OursGrpc,
    "ours-spool": OursSpool,
    "official": Official,
    "official-grpc": OfficialGrpc,
    "structlog": Structlog,
    "logfire": Logfire,
    "sentry": Sentry,
    "queue": Queued,
    "file": JsonFile,
}
