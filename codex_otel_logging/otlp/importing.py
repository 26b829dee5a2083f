"""Imports an exporter without log output, even at interpreter shutdown.

`factory` imports this module only when an exporter is needed.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..diagnostics import is_own_export, suppress_own_records


def import_exporter(official: str, ours: str) -> Any:
    """Import the official exporter's module and ours; return ours.

    Raises:
        ImportError: a module is missing, damaged or too old. Retrying is of little use.
        OSError, RuntimeError, MemoryError: no files, threads or memory are available now.

    """
    try:
        import_with_sdk(official)
        return import_with_sdk(ours)
    except (OSError, RuntimeError, MemoryError):
        raise
    except Exception as error:  # modules of different releases raise AttributeError, TypeError, ...
        raise ImportError(f"{type(error).__name__}: {error}") from None


def import_with_sdk(module: str) -> ModuleType:
    """Import a module that needs the SDK, without log output, even at interpreter shutdown."""
    # `import opentelemetry.sdk._logs` detects the resource of the process in a thread pool, for a
    # default that is not used here. What those threads log must be suppressed as well. And once the
    # main thread has ended, Python starts no more threads: the import would fail, and an event
    # logged just before would be dropped. Detection is then skipped.
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
    """A resource detector whose log records are suppressed, on whichever thread it runs."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def detect(self) -> Any:
        with suppress_own_records():
            return self._detector.detect()
