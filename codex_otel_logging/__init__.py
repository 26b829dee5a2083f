"""A `logging.Handler` that sends the events of a coding agent over OTLP, as the Codex CLI does.

An application logs its events with plain `logger.info(name, extra={...})` on loggers under
`codex_otel`; README.md shows how to attach the handler. The way of an event through the modules:
`conversation` and `records` (with `redaction` and `values`) on the application's thread, then
`batching`, `exporters` and the `otlp_*` modules on the worker's; `handler` puts them together.
Beside it, `config` reads the settings (with `tables` and `endpoints`, into `settings`), `catalog`
holds the events, `checks`, `troubles` and `reports` tell people what is wrong, `stats` counts,
`lifecycle`, `forks` and `sigterm` know the ends of a process, and `receiver` is a collector for
tests, the `demo`, and `listen`, which sums up in `summaries`. `check` shows the settings
(`effective`; as a JSON Schema: `schema`) and tries them out: `diagnosis`, along a `route`, with
`probes` and `advice`. Commands print through `console`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import catalog
from .config import ConfigError, OtelConfig
from .conversation import Conversation
from .handler import CodexOtelHandler, from_table, from_toml
from .stats import Stats

if TYPE_CHECKING:
    from .receiver import Receiver
    from .sigterm import flush_on_sigterm

__all__ = [
    "CodexOtelHandler",
    "ConfigError",
    "Conversation",
    "OtelConfig",
    "Receiver",
    "Stats",
    "catalog",
    "flush_on_sigterm",
    "from_table",
    "from_toml",
]

_LATE = {"Receiver": "receiver", "flush_on_sigterm": "sigterm"}
"""What is imported when it is asked for, as not every application needs it, and from where."""


def __getattr__(name: str) -> Any:
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
