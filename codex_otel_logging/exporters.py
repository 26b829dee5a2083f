"""The way out: which exporter the settings name, whether it is installed, and connecting to it.

`missing_package` answers without importing anything, so a handler can ask while it is built.
`connect` imports OpenTelemetry, which takes long, and is therefore called on the worker's thread.
It returns an `Exporter`, the one interface the worker knows; `otlp_http` and `otlp_grpc` hold the
two implementations, `otlp_records` what they share.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, cast

from . import patches
from .config import ResourceValue
from .forks import no_fork
from .noise import is_own_export, own_export, quiet_import
from .records import Event
from .settings import ExporterConfig
from .values import AttributeValue

Verdict = Literal["delivered", "retry", "refused", "invalid", "too large", "not encodable"]


class Outcome(NamedTuple):
    """What became of one request.

    `verdict` says whether it was delivered, may be delivered later (`retry`), never will be
    (`refused`), or may be if it holds less (`invalid`, `too large`, `not encodable`). `rejected`
    counts the events a collector left out of a delivered one. `retry_after_s` is how long it asked
    to be left alone. `reason` says what happened in words that may be logged. `status` is what a
    collector answered: HTTP's number, gRPC's name, or None if nothing. `web_page` is True if a web
    page came with a success status.
    """

    verdict: Verdict
    reason: str = ""
    rejected: int = 0
    retry_after_s: float | None = None
    status: int | str | None = None
    web_page: bool = False


DELIVERED = Outcome("delivered")

_MAX_REASON = 200


def delivered(rejected: int, message: str, config: ExporterConfig) -> Outcome:
    """Return the outcome of a delivered request, of which a collector may have left events out."""
    if not rejected and not message:
        return DELIVERED
    return Outcome("delivered", safe_reason(message, config), max(rejected, 0))


def safe_reason(text: str, config: ExporterConfig) -> str:
    """Return what a collector or a library said as one short line without the settings' secrets."""
    from .masking import mask  # here, because a start without failures does without

    text = mask(text, config)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_REASON else line[:_MAX_REASON] + "..."


_CLIENT_CERTIFICATE = "the collector wants a client certificate that it accepts"

_TLS_HINTS = (
    ("local issuer", "its authority is not known here, see ca-certificate"),
    ("self.signed certificate", "its authority is not known here, see ca-certificate"),
    ("mismatch", "it is for another host than the endpoint's"),
    ("wrong version number|record layer failure", "the collector does not speak TLS there"),
    ("alert .*(certificate|unknown ca)", _CLIENT_CERTIFICATE),
)
"""What OpenSSL's words about a certificate, or about a connection, mean to a reader."""

PERHAPS_CLIENT_CERTIFICATE = f"; perhaps {_CLIENT_CERTIFICATE}"
"""What may be behind a collector that hangs up over TLS; it need not say why."""


def tls_failure(what: str, why: str = "") -> str:
    """Return in words why TLS failed, from OpenSSL's name for what failed and its reason for it.

    Without the host's name, which a variable may hold.
    """
    why = why.partition(", certificate is not valid for")[0]
    text = ": ".join(filter(None, (what.lower().replace("_", " "), why)))
    hint = next((hint for words, hint in _TLS_HINTS if re.search(words, text)), "")
    return f"TLS failed: {text}" + (f"; {hint}" if hint else "")


class Origin(NamedTuple):
    """What all events of a handler have in common: their resource, and default attributes."""

    resource: Mapping[str, ResourceValue]
    defaults: Mapping[str, AttributeValue]


class Exporter(Protocol):
    """Sends events to one collector; used by one thread at a time."""

    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Send the events in one request.

        Blocks for about the timeout of the settings at most, or for `timeout_s` if that is less.

        Raises:
            OSError: the connection is lost for good; another exporter is needed.

        """

    def shutdown(self) -> None:
        """Close the connection; does not block."""


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


_HTTP, _GRPC = f"{__package__}.otlp_http", f"{__package__}.otlp_grpc"
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
    if _is_installed(implementation.package):
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
            if _is_installed(each.package)
            for module in each.imports()
        }
    )


def _called(config: ExporterConfig) -> str:
    return repr(config.name) + (" with protocol 'json'" if config.protocol == "json" else "")


def _is_installed(package: str) -> bool:
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


def connect(config: ExporterConfig, origin: Origin) -> Exporter:
    """Build the exporter of the settings. Imports OpenTelemetry; opens no connection yet.

    Raises:
        ImportError: the exporter's package is broken or too old; the message says what to do.
        RuntimeError: the exporter cannot be built. No message contains a secret.

    """
    implementation = _IMPLEMENTATIONS[config.name, config.protocol]
    try:
        with no_fork(), quiet_import():
            module = _import(implementation)
            if config.name == "otlp-http":
                return cast("Exporter", module.HttpExporter(config, origin))
            return cast("Exporter", module.GrpcExporter(config, origin))
    except ImportError as error:
        raise ImportError(
            f"exporter {_called(config)} cannot be imported ({safe_reason(str(error), config)}); "
            f"{implementation.remedy('--force-reinstall ')}"
        ) from None
    except Exception as error:
        raise RuntimeError(safe_reason(f"{type(error).__name__}: {error}", config)) from None
    finally:
        patches.let_go(id(config))


def import_beside_greenlets(config: ExporterConfig) -> bool:
    """Import what `connect` needs where gevent or eventlet is in use; return whether one is.

    To be called by a thread of the application, which takes as long as the import; see `patches`.
    """
    if not patches.may_happen_now():
        return False
    with suppress(Exception), no_fork(), quiet_import():  # `connect` tries again, and reports
        _import(_IMPLEMENTATIONS[config.name, config.protocol])
    return True


def prepare(config: ExporterConfig) -> None:
    """Make it safe that another thread calls `connect` soon; to be called by the application's."""
    if not import_beside_greenlets(config):
        patches.hold_back(id(config))


def _import(implementation: _Implementation) -> Any:
    """Import an exporter's modules; return ours.

    Raises:
        ImportError: one of them is missing, or fails as only a damaged or too old one does.
        OSError, RuntimeError, MemoryError: for want of files, threads or memory at the moment.

    """
    try:
        official, ours = implementation.imports()
        _import_with_sdk(official)
        return _import_with_sdk(ours)
    except (OSError, RuntimeError, MemoryError):
        raise
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from None


def _import_with_sdk(module: str) -> ModuleType:
    """Import a module that needs the SDK: silently, and also while the interpreter is ending.

    `import opentelemetry.sdk._logs` detects the process's resource in a thread pool, for a default
    that is not used here. Those threads are silenced like this one. Once the main thread has ended,
    Python starts no more threads, and an event that was logged just before would be lost; detection
    is then left out, which nobody can notice any more.
    """
    resources: Any = importlib.import_module("opentelemetry.sdk.resources")
    detect = resources.get_aggregated_resources

    def detect_silently(detectors: Sequence[Any], initial: Any = None, *args: Any) -> Any:
        if not is_own_export():
            return detect(detectors, initial, *args)
        try:
            return detect([_SilentDetector(each) for each in detectors], initial, *args)
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            return initial

    resources.get_aggregated_resources = detect_silently
    try:
        return importlib.import_module(module)
    finally:
        if resources.get_aggregated_resources is detect_silently:
            resources.get_aggregated_resources = detect


class _SilentDetector:
    """A detector of resources whose log records are those of our export, in any thread."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def detect(self) -> Any:
        with own_export():
            return self._detector.detect()
