"""A `logging.Handler` that sends the events of a coding agent over OTLP, as the Codex CLI does.

An application logs its events with plain `logger.info(name, extra={...})` on loggers under
`codex_otel`; README.md shows how to attach the handler. The way of an event through the modules:
`conversation` and `records` (with `redaction` and `values`) on the application's thread, then
`batching`, `exporters` and the `otlp_*` modules on the worker's; `handler` puts them together.
Beside it, `config` reads the settings (with `tables` and `endpoints`, into `settings`), `catalog`
holds the events, `checks`, `troubles` and `reports` tell people what is wrong, `stats` counts, and
`lifecycle`, `forks` and `sigterm` know the ends of a process. An application's tests have
`capture`, which `pytest_plugin` makes a fixture, its type checker has `fields`. `receiver` is a
collector for tests and for `commands`, which `__main__` runs.

The public names are imported when they are first used: pytest imports this package in every session
of every project that has it, for the fixture. PYTEST_DONT_REWRITE keeps pytest from warning a
program that imports the package first and runs pytest then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import catalog
    from .config import ConfigError, OtelConfig
    from .conversation import Conversation
    from .handler import CodexOtelHandler, configure, flush, from_table, from_toml
    from .receiver import Receiver
    from .sigterm import flush_on_sigterm
    from .stats import Stats

__all__ = [
    "CodexOtelHandler",
    "ConfigError",
    "Conversation",
    "OtelConfig",
    "Receiver",
    "Stats",
    "catalog",
    "configure",
    "flush",
    "flush_on_sigterm",
    "from_table",
    "from_toml",
]

_MODULES = {
    "CodexOtelHandler": "handler",
    "ConfigError": "config",
    "Conversation": "conversation",
    "OtelConfig": "config",
    "Receiver": "receiver",
    "Stats": "stats",
    "catalog": "catalog",
    "configure": "handler",
    "flush": "handler",
    "flush_on_sigterm": "sigterm",
    "from_table": "handler",
    "from_toml": "handler",
}
"""In which module each public name is."""


if not TYPE_CHECKING:  # else a type checker would believe in any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        value = module if name == "catalog" else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
