"""Runs the command line in its own process, with its output in a pipe or a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pytest

from support.interpreters import OLD_API_WARNING
from support.paths import ROOT


class Command:
    """A running `python -m codex_otel_logging`. A context manager that kills it on exit.

    Args:
        arguments: the command and its options.
        program: source code to run instead of the module, with the same arguments.
        home: its current folder and home.
        columns: the width of its terminal; None means a pipe instead.
        pipe_bytes: the capacity of the pipe.
        environment: additional environment variables.

    """

    def __init__(
        self,
        *arguments: str,
        program: str | None = None,
        home: Path,
        columns: int | None = None,
        pipe_bytes: int | None = None,
        **environment: str,
    ) -> None:
        our_end, its_end = _open_output(columns, pipe_bytes)
        # A file object closes its descriptor only once; the number may be in use again later.
        self._output = os.fdopen(our_end, "rb", buffering=0)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-W", OLD_API_WARNING),
                *(("-m", "codex_otel_logging") if program is None else ("-c", program)),
                *arguments,
            ],
            cwd=home,
            env={
                "PATH": os.defpath,
                "HOME": str(home),
                "PYTHONPATH": str(ROOT),
                "PYTHONIOENCODING": "utf-8",
                "TERM": "xterm",
                "TZ": "UTC",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=its_end,
            stderr=subprocess.PIPE,
        )
        os.close(its_end)
        assert self.process.stderr is not None
        self._errors = self.process.stderr
        self._read: dict[IO[bytes], bytes] = {self._output: b"", self._errors: b""}
        self._ended: set[IO[bytes]] = set()

    @property
    def output(self) -> str:
        """Its standard output read so far."""
        return self._read[self._output].decode().replace("\r\n", "\n")

    @property
    def errors(self) -> str:
        """Its standard error read so far."""
        return self._read[self._errors].decode()

    def read_until(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Read until either output matches, and return the match."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            found = re.search(pattern, self.output) or re.search(pattern, self.errors)
            if found is not None:
                return found
            if not self._read_more(left):
                break
        raise AssertionError(f"no {pattern!r} in {self.output!r}, errors {self.errors!r}")

    def ports(self) -> tuple[int, int]:
        """Return the ports of `listen` for HTTP and gRPC, after reading its first lines."""
        http = self.read_until(r"http://127\.0\.0\.1:(\d+)/v1/logs\n")
        grpc = self.read_until(r"http://127\.0\.0\.1:(\d+)\n")
        self.read_until(r"protocol = .*\n")
        return int(http[1]), int(grpc[1])

    def wait_for_output(self, size: int = 1) -> None:
        """Wait until `size` bytes are in the pipe, without reading them."""
        for _ in range(2000):
            there = fcntl.ioctl(self._output, termios.FIONREAD, struct.pack("i", 0))
            if struct.unpack("i", there)[0] >= size:
                return
            time.sleep(0.01)
        raise AssertionError(f"it does not print {size} bytes")

    def close_output(self) -> None:
        """Close the reading end of its output, as `head` does when it exits."""
        self._ended.add(self._output)
        self._output.close()

    def wait_until_default(self, number: int) -> None:
        """Wait until it no longer handles a signal. Linux only."""
        for _ in range(2000):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            (caught,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
            if not int(caught, 16) >> (number - 1) & 1:
                return
            time.sleep(0.01)
        raise AssertionError("it still handles the signal")

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal, read the rest, and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Read the rest, and return the exit status."""
        deadline = time.monotonic() + 20
        while self._read_more(deadline - time.monotonic()):
            pass
        return self.process.wait(timeout=max(deadline - time.monotonic(), 0.1))

    def _read_more(self, timeout: float) -> bool:
        """Read what is available; return False at the end of both outputs or after the timeout."""
        open_ends = [end for end in self._read if end not in self._ended]
        readable = select.select(open_ends, [], [], max(timeout, 0))[0] if open_ends else []
        for end in readable:
            try:
                data = os.read(end.fileno(), 1 << 16)
            except OSError:  # Linux reports a closed terminal as an error, not as an end of file
                data = b""
            self._read[end] += data
            if not data:
                self._ended.add(end)
        return bool(readable)

    def __enter__(self) -> Command:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        self._output.close()
        self._errors.close()


def _open_output(columns: int | None, pipe_bytes: int | None) -> tuple[int, int]:
    """Return the reading and the writing end of a terminal or a pipe."""
    our_end, its_end = os.pipe() if columns is None else pty.openpty()
    if columns is not None:
        fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    if pipe_bytes is not None:
        fcntl.fcntl(its_end, fcntl.F_SETPIPE_SZ, pipe_bytes)
    return our_end, its_end


needs_small_pipes = pytest.mark.skipif(
    not hasattr(fcntl, "F_SETPIPE_SZ"), reason="the size of pipes cannot be set on this system"
)

needs_rich = pytest.mark.skipif(find_spec("rich") is None, reason="rich is not installed")
