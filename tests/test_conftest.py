"""Covers the environment that `conftest.py` gives to the programs of tests."""

from __future__ import annotations

from support.fixtures import RunPython


def test_programs_have_default_signal_dispositions(run_python: RunPython) -> None:
    program = """
import signal
numbers = (signal.SIGINT, signal.SIGTERM)
print([number.name for number in numbers if signal.getsignal(number) is signal.SIG_IGN])
"""
    assert run_python(program).stdout == "[]\n"


def test_programs_have_default_dispositions_in_a_session_that_ignores_signals(
    run_python: RunPython,
) -> None:
    """A background job of a shell script ignores SIGINT; tests of Ctrl-C would time out in it."""
    program = """
import signal, sys
import pytest
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
sys.exit(pytest.main(["--quiet", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    done = run_python(
        program, f"{__file__}::{test_programs_have_default_signal_dispositions.__name__}"
    )
    assert done.returncode == 0, done.stdout
