"""Builds the exporter that the settings name, if it is installed.

`missing_package` imports nothing, so a handler can call it in its constructor. `connect` imports
OpenTelemetry, which is slow, so it runs on the worker thread.
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
    """The origin of an exporter: our module, the official package, and the extra to install."""

    module: str
    package: str
    extra: str

    def imports(self) -> tuple[str, str]:
        """Return the modules that `connect` imports, in that order."""
        return f"{self.package}._log_exporter", self.module

    def remedy(self, option: str = "") -> str:
        """Return how to install the package; pip's `option` is for one that is broken."""
        requirement = f"'codex_otel_logging[{self.extra}]'"
        # pip cannot add packages to a frozen application; it must be built again.
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
"""The implementation of each exporter and protocol."""


def missing_package(config: ExporterConfig) -> str | None:
    """Return a message that says how to install the exporter, or None if it is installed."""
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    if is_installed(implementation.package):
        return None
    return (
        f"exporter {_quoted_name(config)} needs an extra package: {implementation.remedy()}; "
        "no events are exported until then"
    )


def imported_by_name() -> list[str]:
    """Return the modules that `connect` imports by name, for every installed exporter.

    A freezer such as PyInstaller must be given this list: it only finds import statements.
    """
    return sorted(
        {
            module
            for each in _IMPLEMENTATIONS.values()
            if is_installed(each.package)
            for module in each.imports()
        }
    )


def _quoted_name(config: ExporterConfig) -> str:
    return repr(config.name) + (" with protocol 'json'" if config.protocol == "json" else "")


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    # `importlib.util.find_spec` imports the parents of a package, here `opentelemetry.exporter`.
    # So the usual case, packages in folders, is looked up level by level.
    path: list[str] | None = None
    for name in package.split("."):
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            break
        path = list(spec.submodule_search_locations or ())
    else:
        return True
    try:  # a frozen application has its own importers, which `PathFinder` does not ask
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def connect(config: ExporterConfig, shared: SharedAttributes) -> Exporter:
    """Build the exporter of the settings. Imports OpenTelemetry; opens no connection.

    Blocks while it imports. Error messages contain no secrets.

    Raises:
        ImportError: the exporter's package is broken or too old; the message says what to do.
        RuntimeError: the exporter cannot be built.

    """
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    build = "HttpExporter" if config.over_http else "GrpcExporter"
    with hold_forks():
        try:
            # Imported here, because only the worker needs them.
            from .importing import import_exporter
            from .noise import quiet_import

            with quiet_import():
                module = import_exporter(*implementation.imports())
                return cast("Exporter", getattr(module, build)(config, shared))
        except ImportError as error:
            reason = _safe_reason(str(error), config)
            raise ImportError(
                f"exporter {_quoted_name(config)} cannot be imported ({reason}); "
                f"{implementation.remedy('--force-reinstall ')}"
            ) from None  # the cause's message may contain a secret
        except Exception as error:
            raise RuntimeError(_safe_reason(f"{type(error).__name__}: {error}", config)) from None
        finally:
            greenlets.release_imports(id(config))


def _safe_reason(text: str, config: ExporterConfig) -> str:
    from .reasons import safe_reason  # as above

    return safe_reason(text, config)


def import_beside_greenlets(config: ExporterConfig) -> bool:
    """Import what `connect` needs if gevent or eventlet is imported; return whether one is.

    Must be called on an application thread, which it blocks during the import: importing on the
    worker thread could break both. See `greenlets`.
    """
    if not greenlets.is_patching_library_imported():
        return False
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    with suppress(Exception), hold_forks():  # `connect` tries again and reports the failure
        from .importing import import_exporter
        from .noise import quiet_import

        with quiet_import():
            import_exporter(*implementation.imports())
    return True


def prepare(config: ExporterConfig) -> None:
    """Keep gevent and eventlet from breaking the imports of a `connect` on another thread.

    Must be called on an application thread, before the worker starts: imports what `connect` needs,
    or makes imports of these libraries wait until `connect` returns. See `greenlets`.
    """
    if not import_beside_greenlets(config):
        greenlets.hold_imports(id(config))
