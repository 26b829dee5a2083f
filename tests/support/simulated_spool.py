"""A queue with a spool, exported by a simulated worker with a simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery import outages, sender
from codex_otel_logging.delivery.exporter import DELIVERED, Exporter, Outcome
from codex_otel_logging.delivery.outages import OutageReporter
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.sender import Sender
from codex_otel_logging.delivery.spool import health
from codex_otel_logging.delivery.spool.journal import SpoolSettings
from codex_otel_logging.delivery.spool.leftovers import Leftovers
from codex_otel_logging.events.event import Event
from support.exporters import SHARED
from support.queued_events import numbers, turns

RESCAN_S = 60.0

Answer = Callable[[list[int]], Outcome]
"""The answer to a request with these numbers; none for an empty request."""


class Clock:
    """A monotonic clock that only `advance_to` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (sender, outages, health):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def advance_to(self, moment: float) -> None:
        self.now = max(self.now, moment)


class Simulated:
    """Exports what is put into its queue, as a worker does, in simulated time.

    `answer` may be replaced; it answers each request. `requests` holds the time and the numbers of
    each, `arrived` the numbers of the events that were accepted.
    """

    def __init__(
        self,
        directory: Path | None,
        clock: Clock,
        answer: Answer = lambda _: DELIVERED,
        *,
        connect: Callable[[], Exporter] | None = None,
        keep_for_s: float = 0.0,
        max_bytes: int = 512 << 20,
        **batch: Any,
    ) -> None:
        self.answer = answer
        self.requests: list[tuple[float, list[int]]] = []
        self.arrived: list[int] = []
        self.spool = None
        if directory is not None:
            self.spool = SpoolSettings(
                str(directory),
                "collector",
                SHARED,
                connect=lambda _: self,
                redact=lambda _: None,
                max_bytes=max_bytes,
                keep_for_s=keep_for_s,
            )
        config = BatchConfig(**batch)
        reporter = OutageReporter("collector")
        self.queue = EventQueue(config, reporter.overflow, lambda: None, spool=self.spool)
        self.sender = Sender(
            config,
            self.queue,
            reporter,
            connect=connect or (lambda: self),
            check=lambda _: None,
            spool=self.spool,
        )
        self._leftovers = None
        if self.spool is not None:
            self._leftovers = Leftovers(
                self.spool,
                config,
                export=self.sender.export_leftovers,
                account=self.queue.account_leftovers,
            )
        self._clock = clock
        self._rescan_at = 0.0

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Answer a request, as the exporter of the sender."""
        found = numbers(events)
        self.requests.append((self._clock.now, found))
        outcome = self.answer(found)
        if outcome.verdict == "delivered":
            self.arrived += found
        return outcome

    def shutdown(self) -> None:
        pass

    def put(self, events: int | Iterable[Event]) -> None:
        for event in turns(events) if isinstance(events, int) else events:
            self.queue.put(event)

    def run(self, duration_s: float = 3600.0) -> None:
        """Export for a while, or until nothing is left, batch after batch and leftovers between."""
        until = self._clock.now + duration_s
        while self._clock.now < until:
            self.queue.refill()
            with self.queue.lock:
                batch = self.queue.take_batch()
            if batch and not self._send(batch, until):
                return
            if self.sender.has_succeeded and self._clock.now >= self._rescan_at:
                self.export_leftovers(is_proven=bool(batch))
                self._rescan_at = self._clock.now + RESCAN_S
            if not self.queue:
                if not self.queue.left_on_disk or not self.sender.has_succeeded:
                    return
                self._clock.advance_to(min(self._rescan_at, until))

    def _send(self, batch: Sequence[Event], until: float) -> bool:
        self.sender.begin(batch)
        while not self.sender.is_done:
            retry = self.sender.send()
            if retry is None:
                continue
            if retry.at >= until:
                self._clock.advance_to(until)
                self.queue.put_back()
                return False
            self._clock.advance_to(retry.at)
        return True

    def export_leftovers(self, *, is_proven: bool = False) -> str:
        """Export what can be adopted; return why that failed, or an empty string."""
        if self._leftovers is None:
            return ""
        self._leftovers.scan()
        while self._leftovers.step(is_proven=is_proven):
            pass
        return self._leftovers.failure
