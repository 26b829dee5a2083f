"""Sub-interpreters, which may have no daemon threads: the thread that flushes exports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from support.paths import PROGRAMS
from support.servers import Program


@pytest.mark.skipif(sys.version_info < (3, 13), reason="no sub-interpreters before Python 3.13")
def test_sub_interpreter_exports_over_http_and_reports_undelivered_events_over_grpc(
    tmp_path: Path, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """The extension module of gRPC does not load in a sub-interpreter."""
    over_http = "otlp-http" in exporter
    with Program(tmp_path, str(PROGRAMS / "interpreters.py"), json.dumps(exporter)) as program:
        output = program.wait()
    assert "Traceback" not in output
    assert f"flushed: {over_http}\n" in output
    assert ("2 events not exported at exit" in output) is not over_http
    assert len(receiver.events) == (2 if over_http else 0)
