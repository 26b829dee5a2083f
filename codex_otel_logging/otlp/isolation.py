"""Isolates exports from the application's tracing and from its random numbers.

Tracing agents (OpenTelemetry's instrumentations, Sentry, others) patch the libraries that the
exporters use. Without isolation, each request would become a span of the application, and would
carry its trace context to the collector. Three measures work together, because no single one stops
every agent: `isolated` runs an export in an empty context under OpenTelemetry's suppression key,
`original` returns a function of gRPC without an agent's wrappers, and `http_headers` drops headers
that an agent adds.

The official exporters draw random numbers for every export from the global generator. Applications
seed that generator for reproducible runs; `draw_own_random_numbers` gives the exporters their own.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable
from contextvars import Context
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from opentelemetry import context

_P = ParamSpec("_P")
_R = TypeVar("_R")

# The SDK's own processors set this key around each export. It has no public name. The fallback is
# the key of earlier releases, which instrumentations still honor.
_SUPPRESSION_KEY = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


def isolated(export: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run `export` in an empty context in which OpenTelemetry's instrumentations do nothing."""

    @wraps(export)
    def in_empty_context(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        def suppressed() -> _R:
            # The empty context is discarded, so detaching looks unnecessary. But
            # OTEL_PYTHON_CONTEXT may select an implementation that does not use `contextvars`.
            token = context.attach(context.set_value(_SUPPRESSION_KEY, True))
            try:
                return export(*args, **kwargs)
            finally:
                context.detach(token)

        # Empty, not a copy: a copy would hold the span of the request that started the worker.
        return Context().run(suppressed)

    return in_empty_context


def original(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `function` without the wrappers of tracing agents.

    Follows `__wrapped__`, which agents set with `functools.wraps` or `wrapt`.
    """
    return cast("Callable[_P, _R]", inspect.unwrap(function))


_GENERATOR = random.Random()


def draw_own_random_numbers() -> None:
    """Make the imported official exporters use a random generator of their own."""
    # They call `random.uniform` through their global name `random`; a `Random` has that method too.
    for name, module in sys.modules.copy().items():
        if name.startswith("opentelemetry.exporter.") and vars(module).get("random") is random:
            vars(module)["random"] = _GENERATOR
