"""Processes that die, and disks that fail, inside one test process.

A `Machine` stands between the spool and the operating system: it counts the system calls of the
simulated process, makes one fail, or makes one the last. A dead process makes no further system
call, and the machine closes its descriptors, which frees its locks, as a kernel does.
"""

from __future__ import annotations

import errno
import inspect
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial, wraps
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.outages import OutageReporter
from codex_otel_logging.delivery.queue import EventQueue
from codex_otel_logging.delivery.sender import Sender
from codex_otel_logging.delivery.spool import disk, health, journal
from codex_otel_logging.delivery.spool.journal import SpoolSettings
from codex_otel_logging.delivery.spool.leftovers import Leftovers
from codex_otel_logging.events.event import Event, SharedAttributes
from support.queued_events import numbers, turns

RETRY = Outcome("retry", "collector is down")
REFUSED = Outcome("refused", "not these")
INVALID = Outcome("invalid", "one of these")

SHARED = SharedAttributes({"service.name": "s"}, {"app.version": "1"})


class Died(BaseException):
    """The simulated process is dead. No `except Exception` notices."""


class Fault:
    """What becomes of a system call: it fails, writes half of the data, or is the last one."""

    def __init__(self, kind: str, number: int = 0) -> None:
        self.kind = kind
        self.number = number

    def __repr__(self) -> str:
        return errno.errorcode[self.number] if self.kind == "error" else self.kind


def error(number: int) -> Fault:
    """Return a call that fails with this error."""
    return Fault("error", number)


SHORT = Fault("short")
"""Half of the data is written, and the call returns normally."""
DIES_BEFORE, DIES_HALFWAY, DIES_AFTER = map(Fault, ("dies before", "dies halfway", "dies after"))

WRITES = ("append", "overwrite")
"""The system calls that can do half of what they should."""


class Machine:
    """The system calls of one simulated process at a time, each of which may be given a fault.

    `fault` is called with the position and the name of each call; None lets it pass.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fault: Callable[[int, str], Fault | None] = lambda *_: None
        self.descriptors: set[int] = set()
        self.is_dead = False
        self.names: set[str] = set()
        """The names of all calls that the spool may make."""
        for name, function in inspect.getmembers(disk, inspect.isfunction):
            if function.__module__ == disk.__name__ and not name.startswith("_"):
                self.names.add(name)
                monkeypatch.setattr(disk, name, wraps(function)(partial(self.call, name, function)))
        # Reports are logged at once, so that the calls of a scenario are always the same.
        monkeypatch.setattr(health, "start_in_application", lambda target, _name: target())

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Make one call, unless its fault prevents it."""
        if self.is_dead:
            raise Died
        position = len(self.calls)
        self.calls.append(name)
        fault = self.fault(position, name)
        kind = fault.kind if fault else ""
        if kind == "dies before":
            self.die()
            raise Died
        if fault is not None and kind == "error":
            # A failing close has closed all the same.
            if name == "close":
                function(*args)
                self.descriptors.discard(args[0])
            raise OSError(fault.number, os.strerror(fault.number))
        if name in WRITES and kind in ("short", "dies halfway"):
            args = (args[0], args[1][: len(args[1]) // 2], *args[2:])
        result = function(*args)
        if name in ("create", "open_existing"):
            self.descriptors.add(result)
        elif name == "close":
            self.descriptors.discard(args[0])
        if kind in ("dies halfway", "dies after"):
            self.die()
            raise Died
        return result

    def die(self) -> None:
        """End the process at once, without any cleanup."""
        self.is_dead = True
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def start(self, fault: Callable[[int, str], Fault | None] = lambda *_: None) -> None:
        """End the process if it lives, and start another one, whose calls are counted from 0."""
        self.die()
        self.calls.clear()
        self.fault = fault
        self.is_dead = False


class World:
    """The events that were logged, and a collector that has seen some of them.

    The collector is an exporter: each request takes the next of the `outcomes`; without one it is
    accepted.
    """

    def __init__(self, machine: Machine, directory: Path, **batch: int) -> None:
        self.machine = machine
        self.directory = directory
        self.config = BatchConfig(**{"max_batch_size": 3, **batch})
        self.numbers = count()
        self.promised: set[int] = set()
        """The events for which `put` has returned, unless dropped or in memory only."""
        self.outcomes: deque[Outcome] = deque()
        self.seen: set[int] = set()
        """The events in requests whose outcome settles them."""
        self.delivered: list[int] = []
        """The events in accepted requests, in the order of arrival."""

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        # Counted as a call, so that the process also dies just before and after a request.
        outcome: Outcome = self.machine.call("export", self._export, events)
        return outcome

    def _export(self, events: Sequence[Event]) -> Outcome:
        outcome = self.outcomes.popleft() if self.outcomes else DELIVERED
        if outcome.verdict != "retry":
            found = numbers(events)
            if outcome.verdict != "invalid" or len(found) == 1:  # otherwise it is halved
                self.seen.update(found)
            if outcome.verdict == "delivered":
                self.delivered += found[: len(found) - outcome.rejected]
        return outcome

    def shutdown(self) -> None:
        pass

    def settings(self) -> SpoolSettings:
        return SpoolSettings(
            path=str(self.directory),
            destination="collector",
            shared=SHARED,
            connect=lambda _shared: self,
            redact=lambda _event: None,
        )

    def twice(self) -> int:
        """Return how many surplus events the collector has accepted."""
        return len(self.delivered) - len(set(self.delivered))

    def files(self) -> list[str]:
        """Return the names of the files in the spool."""
        with suppress(FileNotFoundError):
            return sorted(path.name for path in self.directory.iterdir())
        return []


class Process:
    """The delivery of one process without its worker thread: each step is made when asked for."""

    def __init__(self, world: World, *, events: Iterable[Event] = ()) -> None:
        self.world = world
        settings = world.settings()
        reporter = OutageReporter("collector")
        self.queue = EventQueue(world.config, reporter.overflow, lambda: None, events, settings)
        self.sender = Sender(
            world.config,
            self.queue,
            reporter,
            connect=lambda: world,
            check=lambda _event: None,
            spool=settings,
        )
        self.leftovers = Leftovers(
            settings,
            world.config,
            export=self.sender.export_leftovers,
            account=self.queue.account_leftovers,
        )

    @property
    def journal(self) -> journal.Journal:
        assert self.queue.journal is not None
        return self.queue.journal

    def put(self, events: int = 1) -> None:
        """Log events; each one is promised once `put` has returned and not dropped it."""
        for _ in range(events):
            number = next(self.world.numbers)
            (event,) = turns(1, duration_ms=number)
            spooled = self.queue.stats().spooled
            self.queue.put(event)
            if self.queue.stats().spooled > spooled:
                self.world.promised.add(number)

    def spooled(self) -> set[int]:
        """Return the events in memory that are also on disk, according to the journal."""
        first = self.queue.settled + 1
        events = [*self.queue.batch, *self.queue.waiting]
        unwritten = set(self.journal._unwritten)
        return {
            number
            for position, number in enumerate(numbers(events), first)
            if position not in unwritten
        }

    def export_batch(self) -> bool:
        """Export a batch; return False if there is none, or if the collector is down."""
        self.queue.refill()
        with self.queue.lock:
            if not self.queue.waiting:
                return False
            batch = self.queue.take_batch()
        self.sender.begin(batch)
        while not self.sender.is_done:
            if self.sender.send() is not None:
                self.queue.put_back()
                return False
        return True

    def export_leftovers(self) -> bool:
        """Export what other processes have left; return False if the collector is down."""
        self.leftovers.scan()
        while self.leftovers.step():
            pass
        return not self.leftovers.failure


def deliver_rest(world: World) -> Process:
    """Let a new process on a working machine export everything that is left; return it."""
    world.machine.start()
    world.outcomes.clear()
    process = Process(world)
    process.export_leftovers()
    return process
