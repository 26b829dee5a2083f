"""Leaves events in a spool, as a process does that was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from codex_otel_logging.receiver import ReceivedEvent
from support.paths import PROGRAMS, ROOT

BATCH = 10
"""How many events `drain` exports in one request."""


class Application(NamedTuple):
    """An application that keeps its events in `folder`/spool; `folder` also has its settings."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "otel.toml"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def files(self) -> list[str]:
        """The names of the files in the spool."""
        return sorted(path.name for path in self.spool.iterdir())

    def configure(
        self, endpoint: str, *, name: str = "otlp-http", prompts: bool = False, **more: Any
    ) -> None:
        """Write the settings; `more` are settings of the exporter."""
        exporter = {"endpoint": endpoint, "protocol": "binary", "timeout_ms": 5000, **more}
        if name == "otlp-grpc":
            del exporter["protocol"]
        lines = [f"{key} = {json.dumps(value)}" for key, value in exporter.items()]
        self.settings.write_text(
            f"[otel]\nlog_user_prompt = {json.dumps(prompts)}\n"
            f'[otel.spool]\npath = "spool"\n[otel.exporter.{name}]\n'
            + "\n".join(lines)
            + f"\n[otel.batch]\nschedule_delay_ms = 600000\nmax_batch_size = {BATCH}\n"
        )

    def die(self, count: int, first: int = 0, *version: str) -> None:
        """Let a process log `count` events and be killed before it exports any."""
        settings = self.folder / "writer.toml"
        text = self.settings.read_text()
        settings.write_text(text.replace(f"= {BATCH}\n", "= 100000\n"))
        self.leave(settings, count, first, *version)

    def leave(self, settings: Path, count: int, first: int = 0, *version: str) -> None:
        """Let a process with these settings log `count` events and be killed at once."""
        program = str(PROGRAMS / "leave_events.py")
        done = subprocess.run(
            [sys.executable, program, str(settings), str(count), str(first), *version],
            env={"PYTHONPATH": str(ROOT), "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")


def numbers(events: Iterable[ReceivedEvent]) -> list[Any]:
    """Return the number of each event of `Application.die`."""
    return [event.attributes["number"] for event in events]
