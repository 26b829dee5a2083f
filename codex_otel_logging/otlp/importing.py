"""Imports an exporter: silently, and also while the interpreter is ending.

Itself imported by `factory` only when an exporter is needed.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..diagnostics import is_own_export, suppress_own_records


def import_exporter(official: str, ours: str) -> Any:
    """Import an exporter's modules; return ours.

    Raises:
        ImportError: one of them is missing, or fails as only a damaged or too old one does.
        OSError, RuntimeError, MemoryError: for want of files, threads or memory at the moment.

    """
    try:
        import_with_sdk(official)
        return import_with_sdk(ours)
    except (OSError, RuntimeError, MemoryError):
        raise
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from None


def import_with_sdk(module: str) -> ModuleType:
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
        with suppress_own_records():
            return self._detector.detect()
