"""The bounded event queue, and the counts of what happened to each event.

`waiting` holds the accepted events in order, and `batch` those taken for export. Together they are
the queued events. Every other accepted event is settled: counted exactly once as exported, rejected
or dropped. All of this changes only under `lock`.

The lock is held for a few instructions, never while encoding, exporting, logging or waiting. It is
reentrant, because a signal handler or a finalizer may log an event on the thread that holds it.

With a spool, `put` also writes each event to disk, after it has released the lock. While memory is
full, further events are cold: they are on disk only, and `refill` reads them back. They follow the
events of `waiting`, so an event's position still is its number. `docs/design.md` lists the places.

Signal handlers may raise, as Ctrl-C does. CPython runs them on the main thread after a call or at
the start of a function, never between two assignments. Therefore values that must stay consistent
are assigned without a call in between; such a sequence ends with at most one call, to a function
implemented in C.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, repeat, takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..config.settings import BatchConfig
from ..events.event import Event
from ..native import RLock
from .parts import Settlement
from .wakeup import Wakeup

if TYPE_CHECKING:
    from .outages import Overflow
    from .spool.journal import Journal, SpoolSettings

WARM_BYTES = 8 << 20
"""Maximum memory, in bytes, of the events that are also on disk."""

_Place = Literal["memory", "disk", "nowhere"]
_MEMORY: _Place = "memory"
_DISK: _Place = "disk"
_NOWHERE: _Place = "nowhere"
"""Where `put` keeps an event: in memory, and on disk if it can be written; on disk only; or not."""

_COMMON_SIZE = 600
"""Estimated encoded size, in bytes, of the attributes that every event repeats."""


class Stats(NamedTuple):
    """The counts of a handler's events since it was built; in a forked child, since the fork.

    `accepted == exported + rejected + dropped + queued` at every moment.

    `accepted` counts the events that were logged. `exported` events were accepted by the collector,
    `rejected` ones were not. `dropped` events found the queue full, could not be exported within
    `retry_for_ms`, or could not be encoded. `queued` events wait for export. `ignored` counts log
    records that are not events.

    With a spool, `spooled` of the `queued` events are on disk. Events that were left there for
    other handlers or processes stay among both, even after these have exported or discarded them.
    `dropped` also counts events that expired on disk (`keep_for_ms`) or could not be read back. The
    last two counts are of events that other processes left: this one exported the `recovered` ones;
    the `discarded` ones were rejected by the collector, had expired, or were damaged. Neither
    counts as `accepted`.
    """

    accepted: int = 0
    exported: int = 0
    rejected: int = 0
    dropped: int = 0
    queued: int = 0
    ignored: int = 0
    spooled: int = 0
    recovered: int = 0
    discarded: int = 0


Stats.__module__ = "codex_otel_logging"


class EventQueue:
    """Accepts events from any thread, up to a limit, and accounts for each of them once.

    Starts no thread and waits for none. The sequence number of an event is its position among all
    queued events, from 1; it is determined under the lock. Events are taken and settled in this
    order, so no event stores its number: `settled` is the number of the last settled event, and the
    batch begins with the next one.

    Args:
        config: the settings under `batch`.
        overflow: reports the events that a full queue drops.
        on_ready: called by `put`, without the lock, once `wake_threshold` events wait; after
            `at_exit` is set, for every event.
        events: the initial contents.
        spool: where the queue writes events to disk; None means nowhere.

    """

    def __init__(
        self,
        config: BatchConfig,
        overflow: Overflow,
        on_ready: Callable[[], None],
        events: Iterable[Event] = (),
        spool: SpoolSettings | None = None,
    ) -> None:
        self.lock = RLock()
        self.wake_threshold = 1
        """The number of waiting events at which `put` calls `on_ready`, once; set by the worker."""
        self.at_exit = False
        """Whether the exit hook has started; then every event may be the last one."""
        self._max_size = config.max_queue_size
        self._max_bytes = config.max_queue_bytes
        self._max_batch_size = config.max_batch_size
        self._max_request_bytes = config.max_request_bytes
        self._overflow = overflow
        self._on_ready = on_ready
        self.waiting = deque(events)
        """The accepted events not yet taken for export, in order. Changed only by the queue."""
        self.batch: Sequence[Event] = ()
        """The events taken for export and not yet settled. Changed only by the queue."""
        self.queued_bytes = sum(event.size for event in self.waiting)
        """The estimated memory of `waiting` and `batch`, in bytes."""
        self._exported = self._rejected = self._dropped = self._overflowed = self._ignored = 0
        self._settled = 0
        self._last = len(self.waiting)
        self._cold = 0
        """The number of cold events."""
        self._warm_bytes = self._max_bytes if spool is None else min(self._max_bytes, WARM_BYTES)
        """The memory, in bytes, beyond which events are cold; without a spool, are dropped."""
        self._left_on_disk = 0
        self._recovered = self._discarded = 0
        self._waiters: list[Wakeup] = []
        self.journal: Journal | None = None
        """Writes accepted events to disk, if there is a spool."""
        if spool is not None:
            from .spool.journal import Journal

            self.journal = Journal(spool, self.lock)
            for number, event in enumerate(self.waiting, 1):
                self.journal.write(number, self.journal.admit(number), event)

    def __len__(self) -> int:
        """Return the number of events not yet taken for export, cold ones included."""
        return len(self.waiting) + self._cold

    def put(self, event: Event) -> None:
        """Queue an event; if the queue is full, drop and count it.

        Takes only the queue's lock. With a spool, then writes the event to disk, which may block.
        """
        # This is the fast path of every logging call, and one function: each call would cost more
        # than the lines that it saves.
        if self.at_exit and sys.is_finalizing():
            self._put_last(event)
            return
        journal = self.journal
        number = 0  # stays 0 if the event is dropped
        place = _MEMORY
        notify: Callable[[], None] | None = None  # called below, without the lock
        try:
            with self.lock:
                waiting = self.waiting
                length = len(waiting) + 1
                size = self.queued_bytes + event.size
                queued = length + len(self.batch)
                # At each of these calls, a signal handler may log an event of its own. These two
                # counts may then miss it, which matters only for the limits.
                if size > self._warm_bytes or queued > self._max_size or self._cold:
                    place = _NOWHERE if journal is None else self._place(journal, size, queued)
                if place is _NOWHERE:
                    self._overflowed += 1
                    if self._overflow.begun:
                        return
                    self._overflow.begun = True
                    notify = self._overflow.report_begin
                else:
                    if self._cold:  # perhaps only since the signal handler
                        place = _DISK
                    number = self._last = self._last + 1
                    if place is _MEMORY:
                        self.queued_bytes += event.size
                        waiting.append(event)
                    else:
                        self._cold += 1
                    if journal is not None:
                        segment = journal.admit(number)
                        if segment is None and place is _DISK:
                            journal.park(number, event)
                    if length + self._cold >= self.wake_threshold or self.at_exit:
                        # One call wakes the worker. Until it sets a threshold again, further
                        # events cost no wake-up.
                        self.wake_threshold = sys.maxsize
                        notify = self._on_ready
            if journal is not None and number:
                journal.write(number, segment, event, is_cold=place is _DISK)
            if notify is not None:
                notify()
        except BaseException:
            # Interrupted, as by Ctrl-C, perhaps before `on_ready` woke the worker. Then the next
            # event must wake it, because no later one would.
            self.wake_threshold = 1
            if journal is not None and number:
                # Under one lock: to the worker, a cold event that is neither written nor parked is
                # one whose file was removed.
                with self.lock:
                    if not journal.abandon(number) and place is _DISK:
                        journal.park(number, event)
            raise

    def _put_last(self, event: Event) -> None:
        """Write an event to disk during interpreter finalization; without a spool, count it only.

        Daemon threads have stopped for good, one of them perhaps while it held the lock. No other
        thread runs any more, so no lock is needed.
        """
        if self.journal is None:
            self._overflowed += 1
        else:
            self._last += 1
            self.waiting.append(event)
            self.journal.write_last(event)

    def _place(self, journal: Journal, size: int, count: int) -> _Place:
        """Return where to keep an event that must not go to memory as usual. Needs the lock.

        `size` and `count` are what memory would hold with it, without parked events. If the disk
        fails, these and the parked ones together have the limits that a queue without a spool has.
        """
        if journal.is_working:
            return _DISK
        if size + journal.parked_bytes > self._max_bytes or count + journal.parked > self._max_size:
            return _NOWHERE
        # Not to memory while there are cold events: it would be exported before them.
        return _DISK if self._cold else _MEMORY

    def refill(self) -> None:
        """Read cold events back into memory. Called by the worker; blocks for the disk."""
        journal = self.journal
        while self._cold and self.queued_bytes <= self._warm_bytes // 2:
            assert journal is not None
            # Without the lock: while there are cold events, only the worker adds to `waiting`.
            in_memory = len(self.batch) + len(self.waiting)
            if in_memory > self._max_size // 2:
                return
            first = self._settled + in_memory + 1
            events = journal.read_back(first, self._warm_bytes // 2, self._max_size - in_memory)
            if events is not None:
                size = sum(event.size for event in events)
                with self.lock:
                    cold = self._cold - len(events)
                    self.queued_bytes += size
                    self._cold = cold
                    self.waiting.extend(events)
                journal.forget_read(first + len(events))
                return
            with self.lock:
                if self.batch or self.waiting:
                    return  # events are settled in order: first those before it
                # The record is damaged, or its file was removed and could not be read.
                self._cold -= 1
                self._dropped += 1
                self._settled = journal.settled = first
            journal.settle(first)
            journal.report_unreadable()
            self.notify_waiters()

    def ignore(self) -> None:
        """Count a record that is not an event."""
        with self.lock:
            self._ignored += 1

    def stats(self) -> Stats:
        """Return the current counts, consistent with each other."""
        with self.lock:
            queued = len(self) + len(self.batch) + self._left_on_disk
            dropped = self._dropped + self._overflowed
            return Stats(
                accepted=self._exported + self._rejected + dropped + queued,
                exported=self._exported,
                rejected=self._rejected,
                dropped=dropped,
                queued=queued,
                ignored=self._ignored,
                spooled=queued - self.journal.count_unwritten() if self.journal else 0,
                recovered=self._recovered,
                discarded=self._discarded,
            )

    def unsent(self) -> list[Event]:
        """Return the waiting events, for a forked child that inherits them.

        Takes no lock: in the child it may be locked forever.
        """
        events = list(self.waiting)
        if self.journal is not None and self._cold:
            first = self._settled + len(self.batch) + len(events) + 1
            events += self.journal.read_inherited(first)
        return events

    @property
    def taken(self) -> int:
        """The number of events in the batch that are not settled yet."""
        return len(self.batch)

    @property
    def settled(self) -> int:
        """The sequence number of the last settled event; 0 if there is none."""
        return self._settled

    @property
    def last(self) -> int:
        """The sequence number of the last queued event; 0 if there was none."""
        return self._last

    @property
    def exported(self) -> int:
        """The number of this queue's events that were exported."""
        return self._exported

    @property
    def overflowed(self) -> int:
        """The number of events that were dropped because the queue was full."""
        return self._overflowed

    def oldest_age_s(self) -> float:
        """Return how long the first waiting event has been queued, in seconds. Needs the lock.

        Returns 0 if the clock was set back meanwhile.
        """
        return max(time.time_ns() - self.waiting[0].observed_ns, 0) / 1e9

    def take_batch(self) -> Sequence[Event]:
        """Move the next events to the batch, within its limits, and return it. Needs the lock."""
        if self.batch:  # left behind when a signal handler raised during `put_back`
            self.put_back()
        waiting = self.waiting
        count = min(len(waiting), self._max_batch_size)
        # By position: a signal handler or a finalizer may log, and a deque that grows meanwhile
        # cannot be iterated over.
        size = sum(waiting[place].size for place in range(count)) + count * _COMMON_SIZE
        # Text that is not ASCII may take up to twice as much in UTF-8 as in memory. That bound is
        # slower to compute, so it is used only if doubling `size` would exceed the limit.
        if 2 * size > self._max_request_bytes:
            sizes = (waiting[place].request_size + _COMMON_SIZE for place in range(count))
            fits = self._max_request_bytes.__ge__
            count = max(sum(1 for _ in takewhile(fits, accumulate(sizes))), 1)
        batch: list[Event] = []
        popped = map(deque.popleft, repeat(waiting, count))
        self.wake_threshold = sys.maxsize
        self.batch = batch
        # One call in C moves all events, so a signal handler that raises never finds an event in
        # both places, or in neither.
        batch.extend(popped)
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
        """Settle the events of the batch up to and including sequence number `through`.

        The three counts must add up to the number of these events. Notifies the waiters.
        """
        count = through - self._settled
        size = sum(event.size for event in self.batch[:count])
        journal = self.journal
        with self.lock:
            self.batch = self.batch[count:]
            self.queued_bytes -= size
            self._exported += exported
            self._rejected += rejected
            self._dropped += dropped
            self._settled = through
            if journal is not None:
                # Not only in `settle`: `stats` may be called in between, and compares the two.
                journal.settled = through
        if journal is not None:
            journal.settle(through)
        self.notify_waiters()

    def account_leftovers(self, owner: str, settlement: Settlement) -> None:
        """Count leftovers: of another process or, if the journal has this `owner`, of this queue.

        Events that had expired or were damaged count as dropped.
        """
        own = Settlement()
        with self.lock:
            if self.journal is not None and owner == self.journal.owner:
                # At most as many as were left: a segment that could not be removed is exported
                # twice. The others count as recovered.
                left = self._left_on_disk
                exported = min(settlement.exported, left)
                rejected = min(settlement.rejected, left - exported)
                own = Settlement(
                    exported, rejected, min(settlement.dropped, left - exported - rejected)
                )
            self._left_on_disk -= own.events
            self._exported += own.exported
            self._rejected += own.rejected
            self._dropped += own.dropped
            self._recovered += settlement.exported - own.exported
            self._discarded += settlement.rejected + settlement.dropped
            self._discarded -= own.rejected + own.dropped

    def is_on_disk(self) -> bool:
        """Return whether all unsettled events are on disk."""
        if self.journal is None:
            return False
        with self.lock:
            return self.journal.is_written()

    def is_kept(self, count: int) -> bool:
        """Return whether the next `count` unsettled events stay on disk until they are settled."""
        if self.journal is None:
            return False
        with self.lock:
            return self.journal.is_kept(self._settled + count)

    def restore(self) -> None:
        """Write events to disk that could not be written before. Called by the worker; blocks."""
        if self.journal is not None:
            self.journal.restore(lambda: [*self.batch, *self.waiting])

    def sync(self) -> None:
        """Wait until written events have reached the storage device. Called by the worker."""
        if self.journal is not None:
            self.journal.sync()

    def set_aside(self) -> bool:
        """Set the batch aside: leave it on disk in a segment of its own, behind all other events.

        Returns False if it cannot be written. Called by the worker; blocks for the disk.
        """
        batch = self.batch
        if self.journal is None or not self.journal.set_aside(self._settled + 1, batch):
            return False
        through = self._settled + len(batch)
        with self.lock:
            self.queued_bytes -= sum(event.size for event in batch)
            self._left_on_disk += len(batch)
            self._settled = self.journal.settled = through
            self.batch = ()
        self.journal.settle(through)
        self.notify_waiters()
        return True

    def leave_on_disk(self) -> bool:
        """Leave the queued events to other processes; return False if they are not all on disk.

        They still count as `queued` here, and as `recovered` where they are exported.
        """
        with self.lock:
            if self.journal is None or not self.is_on_disk():
                return False
            left = len(self) + len(self.batch)
            self._cold = 0
            self._left_on_disk += left
            self._settled += left
            self.batch = ()
            self.waiting.clear()
            self.queued_bytes = 0
            self.journal.release()
        self.notify_waiters()
        return True

    @property
    def left_on_disk(self) -> int:
        """The number of events that were left to other processes, or set aside."""
        return self._left_on_disk

    def count_left(self) -> int:
        """Return how many of the events left are still on disk, as far as is known.

        The others were exported or discarded by another handler or process. Blocks for the disk.
        """
        if self.journal is None or not self._left_on_disk:
            return 0
        return min(self.journal.count_released(), self._left_on_disk)

    def add_waiter(self, waiter: Wakeup) -> int:
        """Set `waiter` whenever events are settled; return the last sequence number queued."""
        with self.lock:
            self._waiters.append(waiter)
            return self.last

    def remove_waiter(self, waiter: Wakeup) -> None:
        """Stop setting `waiter`, if it was added."""
        with self.lock, suppress(ValueError):  # Ctrl-C may have come before it was added
            self._waiters.remove(waiter)

    def notify_waiters(self) -> None:
        """Set all waiters; each of them then checks what has changed."""
        with self.lock:
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.set()
