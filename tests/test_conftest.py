"""Covers what tests rely on: the environment of their programs, and the port of a `Gate`."""

from __future__ import annotations

import errno
import socket

import pytest

from codex_otel_logging import Receiver
from support.collectors import Gate
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


def test_no_other_program_gets_the_port_of_a_gate_that_changes(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one asks for it whenever the gate binds its next socket."""
    gate = Gate(receiver.http_endpoint)
    bind = gate._bind
    refusals: list[int | None] = []

    def bind_late(port: int) -> socket.socket:
        with socket.socket() as other, pytest.raises(OSError, match="in use") as refused:
            other.bind(("127.0.0.1", port))
        refusals.append(refused.value.errno)
        return bind(port)

    monkeypatch.setattr(gate, "_bind", bind_late)
    for change in (gate.refuse, gate.open, gate.hang, gate.reset):
        change()
    gate.close()
    assert refusals == [errno.EADDRINUSE] * 4
