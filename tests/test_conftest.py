"""The surroundings that every test gets."""

from __future__ import annotations

from support.fixtures import RunPython


def test_programs_ignore_no_signal(run_python: RunPython) -> None:
    program = """
import signal
numbers = (signal.SIGINT, signal.SIGTERM)
print([number.name for number in numbers if signal.getsignal(number) is signal.SIG_IGN])
"""
    assert run_python(program).stdout == "[]\n"


def test_programs_ignore_no_signal_in_a_session_that_does(run_python: RunPython) -> None:
    """Such as a background job of a shell script: tests of Ctrl-C would wait in vain there."""
    program = """
import signal, sys
import pytest
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
sys.exit(pytest.main(["--quiet", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    done = run_python(program, f"{__file__}::{test_programs_ignore_no_signal.__name__}")
    assert done.returncode == 0, done.stdout
