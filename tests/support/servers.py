"""Runs real servers and workers on loopback and stops them with a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

from codex_otel_logging.receiver import ReceivedEvent
from support.paths import ROOT


class Program:
    """A Python program and its child processes. A context manager that kills them all on exit.

    It runs in its own session, so that SIGINT reaches all of its processes, as Ctrl-C does, and no
    others. It is killed after 40 seconds.

    Args:
        folder: its current folder and home.
        command: the arguments of the interpreter.
        environment: additional environment variables.

    """

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env={
                "PATH": os.defpath,
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._timer = threading.Timer(40, self._kill)
        self._timer.start()

    @property
    def output(self) -> str:
        """Its output read so far."""
        return "".join(self._lines)

    def read_until(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Read until the output has `count` matches, and return the last one.

        A match lies within one line; lines of different processes may be interleaved.
        """
        assert self._process.stdout is not None
        found = [match for line in self._lines for match in re.finditer(pattern, line)]
        while len(found) < count:
            line = self._process.stdout.readline()
            assert line, self.output
            self._lines.append(line)
            found += re.finditer(pattern, line)
        return found[count - 1]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. SIGINT goes to all processes of the program, as with Ctrl-C."""
        if number == signal.SIGINT:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def wait(self, status: int = 0) -> str:
        """Wait for the program to exit, check its status, and return its whole output."""
        self._lines += self._process.communicate(timeout=40)[0].splitlines(keepends=True)
        assert self._process.returncode == status, self.output
        return self.output

    def __enter__(self) -> Program:  # noqa: PYI034 - Self is not in 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._kill()
        self._process.communicate(timeout=10)

    def _kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Prompts:
    """Prompts posted to an application, each in its own conversation.

    The id of the conversation is the length of the prompt.
    """

    def __init__(self) -> None:
        self._count = 0

    def post(self, port: int, count: int = 1) -> None:
        for _ in range(count):
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            _connect(connection)
            path = f"/conversations/{self._count}/prompts"
            connection.request("POST", path, body="x" * self._count)
            assert connection.getresponse().status == 204
            connection.close()
            self._count += 1

    def assert_arrived(self, events: list[ReceivedEvent]) -> None:
        """Assert that each prompt has arrived once, without its text."""
        found = [event.attributes for event in events if event.name == "codex.user_prompt"]
        arrived = sorted((int(each["conversation.id"]), each["prompt_length"]) for each in found)
        assert arrived == [(number, number) for number in range(self._count)], arrived
        assert all(each["prompt"] == "[REDACTED]" for each in found)


def _connect(connection: HTTPConnection) -> None:
    """Connect to a server that has announced its port but possibly does not listen yet."""
    deadline = time.monotonic() + 20
    while connection.sock is None:
        try:
            connection.connect()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


@contextmanager
def touching(path: Path) -> Iterator[None]:
    """Touch a file every second: a reloader ignores changes before its first look at the file."""
    noticed = threading.Event()

    def touch() -> None:
        path.touch()
        while not noticed.wait(1):
            path.touch()

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        noticed.set()
        thread.join()
