"""The worker of a handler: its lifetime, its replacement in a fork, its flush at exit."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest

from codex_otel_logging import Stats
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery import lifecycle
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.flushing import flush_all
from codex_otel_logging.delivery.lifecycle import Pipeline
from codex_otel_logging.delivery.worker import Worker
from codex_otel_logging.events.event import Event
from support.queued_events import numbers, turns


class Blocked:
    """An exporter whose requests wait until `answer` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.requested = threading.Event()

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        self.requested.set()
        assert self.answer.wait(20)
        return DELIVERED

    def shutdown(self) -> None:
        pass


@pytest.fixture
def exporter() -> Blocked:
    return Blocked()


def pipeline_to(exporter: Blocked) -> Pipeline:
    def build(events: Sequence[Event]) -> Worker:
        return Worker(
            BatchConfig(schedule_delay_ms=0),
            connect=lambda: exporter,
            check=lambda _: None,
            on_start=lambda: None,
            destination="x",
            events=events,
        )

    return Pipeline(build)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Disables the garbage collector: only objects without references are freed."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_unused_worker_is_freed_without_garbage_collection() -> None:
    reference = weakref.ref(pipeline_to(Blocked()).worker)
    assert reference() is None


def test_worker_with_events_outlives_its_pipeline_and_is_flushed() -> None:
    exporter = Blocked()
    pipeline = pipeline_to(exporter)
    reference, worker = weakref.ref(pipeline), weakref.ref(pipeline.worker)
    for event in turns(2):
        pipeline.worker.queue.put(event)
    assert exporter.requested.wait(20)
    del pipeline
    assert reference() is None
    (left,) = [found for found in lifecycle.watched() if found is worker()]
    exporter.answer.set()
    assert flush_all([left], 20)
    assert left.queue.stats() == Stats(accepted=2, exported=2)


@pytest.mark.parametrize("keep_queue", [False, True])
def test_reset_replaces_the_worker_and_keeps_only_inherited_events(keep_queue: bool) -> None:
    pipeline = pipeline_to(Blocked())
    before = pipeline.worker
    before.start = lambda: False  # type: ignore[method-assign]
    for event in turns(3):
        before.queue.put(event)
    pipeline.reset(keep_queue=keep_queue)
    worker = pipeline.worker
    assert worker is not before
    assert numbers(worker.queue.unsent()) == ([0, 1, 2] if keep_queue else [])
    assert pipeline.stats() == Stats(accepted=len(worker.queue), queued=len(worker.queue))
    assert worker in lifecycle.watched()
