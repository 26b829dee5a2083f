"""Access to private parts of a handler, for tests that cannot use the public interface."""

from __future__ import annotations

from codex_otel_logging import CodexOtelHandler
from codex_otel_logging.delivery.lifecycle import Pipeline
from codex_otel_logging.delivery.worker import Worker


def pipeline_of(handler: CodexOtelHandler) -> Pipeline:
    """Return the pipeline of a handler that has an exporter."""
    assert handler._pipeline is not None
    return handler._pipeline


def worker_of(handler: CodexOtelHandler) -> Worker:
    """Return the worker of a handler that has an exporter."""
    return pipeline_of(handler).worker
