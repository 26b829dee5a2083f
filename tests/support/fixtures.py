"""Types of those fixtures in `conftest.py` that are functions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from codex_otel_logging import CodexOtelHandler
from support.collectors import GrpcCollector, HttpCollector

HandlerFactory = Callable[..., CodexOtelHandler]
Scripted = Callable[..., HttpCollector | GrpcCollector]
RunPython = Callable[..., "subprocess.CompletedProcess[str]"]
RunTests = Callable[..., pytest.RunResult]
