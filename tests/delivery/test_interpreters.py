"""Sub-interpreters, which have no daemon threads: whoever flushes exports."""

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
def test_sub_interpreter_delivers_over_http_and_reports_what_it_cannot(
    tmp_path: Path, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """There gRPC's extension module does not load."""
    over_http = "otlp-http" in exporter
    with Program(tmp_path, str(PROGRAMS / "interpreters.py"), json.dumps(exporter)) as program:
        output = program.wait()
    assert "Traceback" not in output
    assert f"flushed: {over_http}\n" in output
    assert ("2 events not exported at exit" in output) is not over_http
    assert len(receiver.events) == (2 if over_http else 0)
