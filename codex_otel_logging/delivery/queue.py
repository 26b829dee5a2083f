"""The bounded queue of events, and the account of what became of each one.

`waiting` holds the accepted events in order, `batch` those that have been taken for export;
together they are what is queued. Every other accepted event is settled: counted exactly once, as
exported, rejected or dropped. All of this changes under `lock` only. The lock is held for a few
instructions, never while encoding, exporting, logging or waiting, and the thread that holds it may
take it again (in a signal handler or a finalizer).

Signal handlers, which may raise, run between the instructions of the main thread: after a call, or
at the start of a function, but never between two assignments. So what belongs together is assigned
without a call in between, and at most one call, to a function in C, ends such a sequence.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, islice, repeat
from typing import TYPE_CHECKING, NamedTuple

from ..config.settings import BatchConfig
from ..events.event import Event
from ..native import RLock
from .wakeup import Wakeup

if TYPE_CHECKING:
    from .outages import Overflow

_COMMON_SIZE = 600
"""Estimated encoded size, in bytes, of the attributes that every event repeats."""


class Stats(NamedTuple):
    """What became of a handler's events, counted since it was built (in a fork: since the fork).

    `accepted == exported + rejected + dropped + queued` at every moment. `rejected` events were
    refused by the collector, `dropped` ones found the queue full, could not be sent for too long or
    could not be encoded. `ignored` records were no events.
    """

    accepted: int = 0
    exported: int = 0
    rejected: int = 0
    dropped: int = 0
    queued: int = 0
    ignored: int = 0


Stats.__module__ = "codex_otel_logging"


class EventQueue:
    """Accepts events from any thread, up to a bound, and accounts for each of them once.

    Starts no thread and waits for none. An event's sequence number is its position among the events
    that were queued, from 1; it is determined under the lock. Events are taken and settled in that
    order, so none stores its number: `settled` is the number of the last settled event, and the
    batch begins with the next one.

    Args:
        config: the settings under `batch`.
        overflow: reports the events that a full queue drops.
        on_ready: called by `put`, without the lock, when `wake_threshold` events wait, and with
            each event once `at_exit` is set.
        events: what the queue holds at first.

    """

    def __init__(
        self,
        config: BatchConfig,
        overflow: Overflow,
        on_ready: Callable[[], None],
        events: Iterable[Event] = (),
    ) -> None:
        self.lock = RLock()
        self.wake_threshold = 1
        """The number of waiting events at which `put` calls `on_ready`, once; set by the worker."""
        self.at_exit = False
        """Whether the exit hook has run."""
        self._max_size = config.max_queue_size
        self._max_bytes = config.max_queue_bytes
        self._max_batch_size = config.max_batch_size
        self._max_request_bytes = config.max_request_bytes
        self._overflow = overflow
        self._on_ready = on_ready
        self.waiting = deque(events)
        """The accepted events that no batch has taken, in order; changed by the queue only."""
        self.batch: Sequence[Event] = ()
        """The events of the batch that are not settled; changed by the queue only."""
        self.queued_bytes = sum(event.size for event in self.waiting)
        """The estimated memory of both, in bytes."""
        self._exported = self._rejected = self._dropped = self._overflowed = self._ignored = 0
        self._settled = 0
        self._waiters: list[Wakeup] = []

    def __len__(self) -> int:
        """Return how many events wait to be taken; those of the batch are not among them."""
        return len(self.waiting)

    def put(self, event: Event) -> None:
        """Queue an event, or drop it and count it when the queue is full; takes no other lock.

        During interpreter finalization the event is only counted as dropped.
        """
        if self.at_exit and sys.is_finalizing():
            # Other threads have stopped where they were, perhaps with the lock. None runs again.
            self._overflowed += 1
            return
        try:
            with self.lock:
                waiting = self.waiting
                length = len(waiting) + 1
                size = self.queued_bytes + event.size
                if size > self._max_bytes or length + len(self.batch) > self._max_size:
                    self._overflowed += 1
                    if self._overflow.begun:
                        return
                    self._overflow.begun = True
                    ready = None  # reports the overflow, but not while the lock is held
                else:
                    self.queued_bytes = size
                    waiting.append(event)
                    ready = length >= self.wake_threshold or self.at_exit
                    if ready:
                        self.wake_threshold = sys.maxsize
            if ready:
                self._on_ready()
            elif ready is None:
                self._overflow.report_begin()
        except BaseException:
            self.wake_threshold = 1  # interrupted, as by Ctrl-C; the next event wakes the worker
            raise

    def ignore(self) -> None:
        """Count a record that is not an event."""
        with self.lock:
            self._ignored += 1

    def stats(self) -> Stats:
        """Return the counts of this moment, consistent with each other."""
        with self.lock:
            queued = len(self.waiting) + len(self.batch)
            dropped = self._dropped + self._overflowed
            accepted = self._exported + self._rejected + dropped + queued
            return Stats(accepted, self._exported, self._rejected, dropped, queued, self._ignored)

    def unsent(self) -> list[Event]:
        """Return the events that wait. Takes no lock: in a child process it may be held forever."""
        return list(self.waiting)

    @property
    def taken(self) -> int:
        """The number of events in the batch that are not settled yet."""
        return len(self.batch)

    @property
    def settled(self) -> int:
        """The sequence number of the last settled event; 0 if there is none."""
        return self._settled

    @property
    def exported(self) -> int:
        """The number of events that were exported."""
        return self._exported

    @property
    def overflowed(self) -> int:
        """The number of events that were dropped because the queue was full."""
        return self._overflowed

    @property
    def has_waiters(self) -> bool:
        """Whether somebody waits for events to be settled."""
        return bool(self._waiters)

    def oldest_age_s(self) -> float:
        """Return for how long the first waiting event has been queued. Needs the lock.

        0 where the clock has been set back since.
        """
        return max(time.time_ns() - self.waiting[0].observed_ns, 0) / 1e9

    def take_batch(self) -> Sequence[Event]:
        """Move the next events, within the limits of a batch, to the batch. Needs the lock."""
        if self.batch:  # a signal handler that raised has cut `put_back` short
            self.put_back()
        waiting = self.waiting
        count = size = 0
        while count < min(len(waiting), self._max_batch_size):
            size += waiting[count].size + _COMMON_SIZE
            if count and size > self._max_request_bytes:
                break
            count += 1
        # A request may be up to twice as large as the events in memory, if their text is not ASCII.
        if 2 * size > self._max_request_bytes:
            sizes = (event.request_size + _COMMON_SIZE for event in islice(waiting, count))
            fitting = sum(total <= self._max_request_bytes for total in accumulate(sizes))
            count = max(fitting, 1)
        batch: list[Event] = []
        popped = map(deque.popleft, repeat(waiting, count))
        self.wake_threshold = sys.maxsize
        self.batch = batch
        batch.extend(popped)  # one call: an event is never in neither of the two, nor in both
        return batch

    def put_back(self) -> None:
        """Return the unsettled events of the batch to the head of the queue."""
        with self.lock:
            events = reversed(self.batch)
            self.batch = ()
            self.waiting.extendleft(events)

    def account(
        self, through: int, *, exported: int = 0, rejected: int = 0, dropped: int = 0
    ) -> None:
        """Settle the events of the batch up to and including the sequence number `through`.

        Then notifies the waiters. The three counts add up to the number of these events.
        """
        count = through - self._settled
        size = sum(event.size for event in self.batch[:count])
        with self.lock:
            self.batch = self.batch[count:]
            self.queued_bytes -= size
            self._exported += exported
            self._rejected += rejected
            self._dropped += dropped
            self._settled = through
        self.notify_waiters()

    def add_waiter(self, waiter: Wakeup) -> int:
        """Set `waiter` at each settlement; return the number of the last event queued so far."""
        with self.lock:
            self._waiters.append(waiter)
            return self._settled + len(self.batch) + len(self.waiting)

    def remove_waiter(self, waiter: Wakeup) -> None:
        """Stop setting `waiter`."""
        with self.lock:
            self._waiters.remove(waiter)

    def notify_waiters(self) -> None:
        """Set the waiters, each of which then looks at what has changed."""
        with self.lock:
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.set()
