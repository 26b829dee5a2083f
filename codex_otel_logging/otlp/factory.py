"""Builds the exporter that the settings name, if it is installed.

`missing_package` imports nothing, so a handler calls it while it is built. `connect` imports
OpenTelemetry, which takes long, and is therefore called on the worker thread.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from typing import NamedTuple, cast

from ..config.settings import ExporterConfig
from ..delivery.exporter import Exporter
from ..events.event import SharedAttributes
from . import greenlets
from .fork_gate import hold_forks


class _Implementation(NamedTuple):
    """Where an exporter comes from: our module, the official package, the extra that installs it.

    Both are imported by name, which nothing that reads the source for imports can see.
    """

    module: str
    package: str
    extra: str

    def imports(self) -> tuple[str, str]:
        """Return the modules that `connect` imports, in their order."""
        return f"{self.package}._log_exporter", self.module

    def remedy(self, option: str = "") -> str:
        """Return what to do about a package that is missing or, with pip's `option`, broken."""
        requirement = f"'codex_otel_logging[{self.extra}]'"
        if getattr(sys, "frozen", False):
            return (
                f"build the frozen application with {requirement} installed; it must contain "
                f"{' and '.join(self.imports())}"
            )
        return f"pip install {option}{requirement}"


_HTTP, _GRPC = f"{__package__}.http_exporter", f"{__package__}.grpc_exporter"
_OFFICIAL = "opentelemetry.exporter.otlp"
_IMPLEMENTATIONS = {
    ("otlp-http", "binary"): _Implementation(_HTTP, f"{_OFFICIAL}.proto.http", "http"),
    ("otlp-http", "json"): _Implementation(_HTTP, f"{_OFFICIAL}.json.http", "json"),
    ("otlp-grpc", "binary"): _Implementation(_GRPC, f"{_OFFICIAL}.proto.grpc", "grpc"),
}
"""For each exporter and protocol, its implementation."""


def missing_package(config: ExporterConfig) -> str | None:
    """Return what to tell a user whose exporter is not installed, or None when it is."""
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    if is_installed(implementation.package):
        return None
    return (
        f"exporter {_called(config)} needs an extra package: {implementation.remedy()}; "
        "until then no event is sent"
    )


def imported_by_name() -> list[str]:
    """Return the modules that `connect` imports by name, for each exporter that is installed.

    A freezer that looks for import statements does not find them.
    """
    return sorted(
        {
            module
            for each in _IMPLEMENTATIONS.values()
            if is_installed(each.package)
            for module in each.imports()
        }
    )


def _called(config: ExporterConfig) -> str:
    return repr(config.name) + (" with protocol 'json'" if config.protocol == "json" else "")


def is_installed(package: str) -> bool:
    """Look for a package without importing it or, where it lies in folders, those around it."""
    path: list[str] | None = None
    for name in package.split("."):
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            break
        path = list(spec.submodule_search_locations or ())
    else:
        return True
    try:  # a frozen application has importers of its own
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def connect(config: ExporterConfig, shared: SharedAttributes) -> Exporter:
    """Build the exporter of the settings. Imports OpenTelemetry; opens no connection yet.

    Raises:
        ImportError: the exporter's package is broken or too old; the message says what to do.
        RuntimeError: the exporter cannot be built. No message contains a secret.

    """
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    build = "HttpExporter" if config.over_http else "GrpcExporter"
    try:
        with hold_forks():
            # Only the worker needs these.
            from .importing import import_exporter
            from .noise import quiet_import

            with quiet_import():
                module = import_exporter(*implementation.imports())
                return cast("Exporter", getattr(module, build)(config, shared))
    except ImportError as error:
        raise ImportError(
            f"exporter {_called(config)} cannot be imported ({_reason(str(error), config)}); "
            f"{implementation.remedy('--force-reinstall ')}"
        ) from None
    except Exception as error:
        raise RuntimeError(_reason(f"{type(error).__name__}: {error}", config)) from None
    finally:
        greenlets.let_go(id(config))


def _reason(text: str, config: ExporterConfig) -> str:
    from .reasons import safe_reason  # a start without failures does without

    return safe_reason(text, config)


def import_beside_greenlets(config: ExporterConfig) -> bool:
    """Import what `connect` needs where gevent or eventlet is in use; return whether one is.

    To be called by a thread of the application, which takes as long as the import; see `greenlets`.
    """
    if not greenlets.may_happen_now():
        return False
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    with suppress(Exception), hold_forks():  # `connect` tries again, and reports
        from .importing import import_exporter
        from .noise import quiet_import

        with quiet_import():
            import_exporter(*implementation.imports())
    return True


def prepare(config: ExporterConfig) -> None:
    """Make it safe that another thread calls `connect` soon; to be called by the application's."""
    if not import_beside_greenlets(config):
        greenlets.hold_back(id(config))
