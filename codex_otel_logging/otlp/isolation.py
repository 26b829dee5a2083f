"""Keeps exports and the application apart: their tracing, and their random numbers.

Tracing agents (OpenTelemetry's instrumentations, Sentry, others) patch the libraries that the
exporters use: each request would become a span of the application, and would carry its trace
context to the collector. Three measures work together, because no single one stops every agent:
`isolated` runs an export in an empty context under OpenTelemetry's suppression key, `original`
returns a function of gRPC as it was before an agent wrapped it, and `http_headers` lets an
HTTP request carry its own headers only.

The official exporters draw random numbers for each export, used or not, from the generator that
applications seed so that they do the same again; `draw_own_random_numbers` gives them another.
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

# The SDK's own processors set this private key around each export; there is no public name. The
# plain text is the key of earlier releases, which instrumentations still honor.
_SUPPRESSION_KEY = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


def isolated(export: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run `export` in an empty context in which OpenTelemetry's instrumentations do nothing."""

    @wraps(export)
    def in_empty_context(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        def suppressed() -> _R:
            # Detached again because OTEL_PYTHON_CONTEXT may select a context that is not Python's.
            token = context.attach(context.set_value(_SUPPRESSION_KEY, True))
            try:
                return export(*args, **kwargs)
            finally:
                context.detach(token)

        return Context().run(suppressed)

    return in_empty_context


def original(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `function` without the wrappers that agents have put around it."""
    return cast("Callable[_P, _R]", inspect.unwrap(function))


_GENERATOR = random.Random()


def draw_own_random_numbers() -> None:
    """Let the official exporters that are imported leave the state of `random` alone."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("opentelemetry.exporter.") and vars(module).get("random") is random:
            vars(module)["random"] = _GENERATOR
