"""A `logging.Handler` that exports a coding agent's events over OTLP, as the Codex CLI does.

An application logs events with `logger.info(name, extra={...})` on loggers under `codex_otel`;
`configure()` or `logging.config` attaches the handler, which exports in a background thread.
PYTEST_DONT_REWRITE prevents a warning in programs that import this package and then run pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import catalog
    from .config.otel_config import OtelConfig
    from .config.tables import ConfigError
    from .conversation import Conversation
    from .delivery.queue import Stats
    from .delivery.sigterm import flush_on_sigterm
    from .handler import CodexOtelHandler, configure, flush, from_table, from_toml
    from .receiver import Receiver

    __version__: str

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
    "ConfigError": "config.tables",
    "Conversation": "conversation",
    "OtelConfig": "config.otel_config",
    "Receiver": "receiver",
    "Stats": "delivery.queue",
    "catalog": "catalog",
    "configure": "handler",
    "flush": "handler",
    "flush_on_sigterm": "delivery.sigterm",
    "from_table": "handler",
    "from_toml": "handler",
}
"""The module of each public name.

Names are imported on first use, because pytest imports this package in every session of every
project that has it installed, for the fixture.
"""


if not TYPE_CHECKING:  # type checkers would accept any name from a module with `__getattr__`

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = _installed_version()
        elif name in _MODULES:
            module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
            value = module if name == "catalog" else getattr(module, name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def _installed_version() -> str:
    """Return the version of the installed distribution, or `0+unknown` if there is none.

    A checkout that is not installed, or a frozen application without metadata, has no version.
    `0+unknown` is a valid one (PEP 440) and lower than every release.
    """
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
