"""Access to private parts of a handler, for tests that cannot use the public interface."""

from __future__ import annotations

from codex_otel_logging import CodexOtelHandler
from codex_otel_logging.delivery.lifecycle import Pipeline
from codex_otel_logging.delivery.worker import State, Worker
from support.spools import until


def pipeline_of(handler: CodexOtelHandler) -> Pipeline:
    """Return the pipeline of a handler that has an exporter."""
    assert handler._pipeline is not None
    return handler._pipeline


def worker_of(handler: CodexOtelHandler) -> Worker:
    """Return the worker of a handler that has an exporter."""
    return pipeline_of(handler).worker


def wait_until_backing_off(handler: CodexOtelHandler) -> None:
    """Wait until an attempt of a handler has failed, and the next one is not due yet."""
    worker = worker_of(handler)
    assert until(lambda: worker.state is State.BACKING_OFF), worker.state
