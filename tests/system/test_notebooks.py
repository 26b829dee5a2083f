"""The recipe for Jupyter: its cells in IPython, and in a kernel that ends in each way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codex_otel_logging import Receiver, Stats
from support.collectors import over_http
from support.fixtures import RunPython
from support.pages import recipe
from support.paths import read_program
from support.recipes import lay_out

pytestmark = pytest.mark.processes

SET_UP, LOG, FLUSH = re.split(r"^# %%.*\n", recipe("python", "notebook.py"), flags=re.MULTILINE)[1:]

MISSING = "needs codex_otel_logging[test-runtimes]"


def run_cells(run_python: RunPython, *cells: str) -> str:
    """Run cells in IPython; return what it prints, such as the value of a cell."""
    pytest.importorskip("IPython")
    done = run_python(read_program("notebook_cells"), *cells, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cells_export_when_they_flush(
    run_python: RunPython, tmp_path: Path, receiver: Receiver
) -> None:
    lay_out(tmp_path, over_http(receiver))
    printed = run_cells(run_python, SET_UP, LOG, LOG, FLUSH)
    assert str(Stats(accepted=2, exported=2)) in printed
    assert {e.attributes["conversation.id"] for e in receiver.events} == {"conversation-1"}
    assert [e.attributes["prompt"] for e in receiver.events] == ["[REDACTED]"] * 2


def test_the_first_cell_can_run_again(
    run_python: RunPython, tmp_path: Path, receiver: Receiver
) -> None:
    """Each event is exported once, by the last handler or the one it replaced."""
    lay_out(tmp_path, over_http(receiver))
    run_cells(run_python, SET_UP, LOG, SET_UP, LOG)
    assert len(receiver.events) == 2


@pytest.mark.parametrize(("how", "exported"), [("shutdown", 2), ("restart", 2), ("kill", 0)])
def test_a_kernel_flushes_unless_it_is_killed(
    run_python: RunPython, tmp_path: Path, receiver: Receiver, how: str, exported: int
) -> None:
    pytest.importorskip("ipykernel", reason=MISSING)
    lay_out(tmp_path, over_http(receiver))
    done = run_python(
        read_program("notebook_kernel"), how, SET_UP, LOG, LOG, PYTHONWARNINGS="ignore"
    )
    assert done.returncode == 0, done.stderr
    assert len(receiver.events) == exported
