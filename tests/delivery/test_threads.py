"""Many threads and an event loop share one handler; counts stay exact."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from itertools import cycle
from types import FrameType
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Conversation, Receiver, Stats
from codex_otel_logging.delivery import lifecycle
from support.collectors import Gate
from support.fixtures import HandlerFactory
from support.parts import worker_of

LOGGER = logging.getLogger("codex_otel")


class Users:
    """Threads that log, flush, close and read stats; the last one runs an asyncio loop."""

    THREADS = 16

    def __init__(self, handler: CodexOtelHandler) -> None:
        self._handler = handler
        self._stop = threading.Event()
        self.logged: list[list[str]] = []
        self.wrong: list[object] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._use, number))
            for number in range(self.THREADS)
        ]
        self._threads.append(threading.Thread(target=self._guarded, args=(self._run_loop, 99)))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        """Return the ids of all events that were logged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)
        return [one for ids in self.logged for one in ids]

    def _guarded(self, use: Any, number: int) -> None:
        try:
            use(number)
        except BaseException as error:
            self.wrong.append(error)

    def _use(self, number: int) -> None:
        chance = random.Random(number)
        log = self._logging_as(number)
        while not self._stop.wait(chance.random() * 0.004):
            for _ in range(chance.randrange(8)):
                log()
            what = chance.random()
            if what < 0.02:
                self._handler.flush(chance.random() * 0.05)
            elif what < 0.04:
                self._handler.close()
            else:
                self._check(self._handler.stats())

    def _run_loop(self, number: int) -> None:
        log = self._logging_as(number)

        async def turn(task: int) -> None:
            with Conversation(f"task-{task}", "m").bind():
                while not self._stop.is_set():
                    log()
                    await asyncio.sleep(0.002)

        async def turns() -> None:
            await asyncio.gather(*(turn(task) for task in range(8)))

        asyncio.run(turns())

    def _logging_as(self, number: int) -> Any:
        ids: list[str] = []
        self.logged.append(ids)

        def log() -> None:
            ids.append(f"{number}-{len(ids)}")
            LOGGER.info("codex.turn_ttft", extra={"duration_ms": 1, "call_id": ids[-1]})

        return log

    def _check(self, stats: Stats) -> None:
        settled = stats.exported + stats.rejected + stats.dropped
        if stats.accepted != settled + stats.queued or min(stats.queued, settled) < 0:
            self.wrong.append(stats)


@pytest.mark.parametrize("healthy", [True, False], ids=["healthy", "failing"])
def test_counts_are_exact_with_sixteen_threads_and_an_event_loop(
    attach: HandlerFactory,
    gated: dict[str, Any],
    gate: Gate,
    receiver: Receiver,
    soak_s: float,
    healthy: bool,
) -> None:
    """An event may arrive twice if its acknowledgement was lost; dropped events are counted."""
    ((name, settings),) = gated.items()
    others = set(threading.enumerate())
    timeout_ms = 10_000 if healthy else 500
    handler = attach({"exporter": {name: {**settings, "timeout_ms": timeout_ms}}})
    users = Users(handler)
    handler.handleError = users.wrong.append  # type: ignore[method-assign, assignment]
    users.start()
    faults = cycle([gate.refuse, gate.open, gate.hang, gate.open, gate.reset, gate.open])
    until = time.monotonic() + soak_s
    while time.monotonic() < until:
        if not healthy:
            next(faults)()
        threading.Event().wait(0.3)
    logged = users.stop()
    if not healthy:
        gate.open()
    assert handler.flush(60)
    assert users.wrong == []
    arrived = Counter(event.attributes["call_id"] for event in receiver.events)
    assert set(arrived) <= set(logged)
    exported, dropped = len(arrived), len(logged) - len(arrived)
    assert handler.stats() == Stats(len(logged), exported, dropped=dropped)
    assert dropped == 0 or soak_s > 3  # the queue may be full after a while
    if healthy:
        assert set(arrived.values()) == {1}
    LOGGER.removeHandler(handler)
    handler.close()
    for thread in set(threading.enumerate()) - others:
        if thread.name == "codex_otel_logging":
            thread.join(10)
            assert not thread.is_alive()


def test_workers_can_be_listed_while_handlers_are_built() -> None:
    """Another thread may build a handler between any two steps of the listing."""
    exporter = {"otlp-http": {"endpoint": "http://127.0.0.1:9"}}
    handlers = [CodexOtelHandler({"exporter": exporter})]

    def build(_frame: FrameType, _event: str, _argument: object) -> Any:
        if len(handlers) < 20:
            handlers.append(CodexOtelHandler({"exporter": exporter}))
        return build

    before = sys.gettrace()
    sys.settrace(build)
    try:
        found = lifecycle.watched()
    finally:
        sys.settrace(before)
    assert worker_of(handlers[0]) in found
    assert len(handlers) > 1


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="no way to let another thread run")
def test_ignored_records_are_counted_exactly_by_many_threads() -> None:
    """Threads switch between any two bytecode instructions, as without a GIL."""
    handler = CodexOtelHandler({"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9"}}})
    record = logging.makeLogRecord({"name": "app", "msg": "not an event"})
    turns = threading.Barrier(16)

    def take_turns(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename.endswith(("handler.py", "queue.py")):
            frame.f_trace_opcodes = True
            if event == "opcode":
                os.sched_yield()
            return take_turns
        return None

    def emit() -> None:
        turns.wait(20)
        sys.settrace(take_turns)
        for _ in range(20):
            handler.emit(record)
        sys.settrace(None)

    handler.emit(record)  # the first one is reported
    threads = [threading.Thread(target=emit) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert handler.stats() == Stats(ignored=1 + 16 * 20)
