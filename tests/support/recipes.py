"""Writes the recipes to a folder, runs them with real servers, and checks what arrives."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from codex_otel_logging.receiver import ReceivedEvent
from support.pages import RECIPES
from support.paths import PROGRAMS
from support.servers import Program, Prompts

LISTENING = r"(?:Listening at:|running on|server at) http://127\.0\.0\.1:(\d+)"

STARTED = "process has started"

UVICORN = ("uvicorn", "--port=0")

GUNICORN = ("gunicorn", "--bind=127.0.0.1:0")

GUNICORN_WORKERS_LOG_THEIR_START = """
def post_worker_init(worker):
    import log_start
"""

TURNS = 12

ENQUEUE_TURNS = """
from celery.signals import worker_ready

@worker_ready.connect
def enqueue(**_):
    for number in range({}, {}):
        turn.delay(number)
"""


def lay_out(folder: Path, exporter: dict[str, Any], **batch: int) -> None:
    """Write the recipes and the settings to a folder, which is also the home.

    By default, no batch is due before a process ends: every event that arrives was exported by a
    flush or at exit.
    """
    for name, block in RECIPES.items():
        if block.language == "python":
            (folder / name).write_text(block.code)
    ((kind, settings),) = exporter.items()
    lines = [f"[otel.exporter.{kind}]", *(f"{k} = {json.dumps(v)}" for k, v in settings.items())]
    lines += ["[otel.batch]"]
    lines += [f"{k} = {v}" for k, v in {"schedule_delay_ms": 600_000, **batch}.items()]
    (folder / ".codex").mkdir()
    (folder / ".codex" / "config.toml").write_text("\n".join(lines))


def turns(events: list[ReceivedEvent]) -> dict[str, int]:
    """Return the number of the only turn of each conversation."""
    found = [(e.attributes["conversation.id"], e.attributes["duration_ms"]) for e in events]
    assert len(dict(found)) == len(found)
    return dict(found)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def append(path: Path, code: str) -> None:
    path.write_text(path.read_text() + code)


def lay_out_applications(
    folder: Path, exporter: dict[str, Any], *, lifespan: bool = True, preload: bool = False
) -> None:
    """Write the recipes and a Django site to a folder.

    Without `lifespan` or `preload`, the line of the recipe that turns it on is removed.
    """
    lay_out(folder, exporter)
    shutil.copy(PROGRAMS / "log_start.py", folder)
    shutil.copytree(PROGRAMS / "django_site", folder, dirs_exist_ok=True)
    if not lifespan:
        replace(folder / "service.py", "FastAPI(lifespan=lifespan)", "FastAPI()")
    if not preload:
        replace(folder / "gunicorn.conf.py", "preload_app = True\n", "")


def start(folder: Path, *command: str) -> Program:
    """Start a server, with the variable that names Django's settings."""
    pytest.importorskip(command[0])
    return Program(folder, "-m", *command, DJANGO_SETTINGS_MODULE="site_settings")


def check(
    receiver: Receiver,
    folder: Path,
    *server: str,
    application: str = "",
    processes: int = 1,
    stop: signal.Signals = signal.SIGTERM,
    status: int = 0,
    delivers: bool = True,
) -> None:
    """Post prompts to a server, stop it, and check what has arrived.

    Each process of an `application` logs an event when it is ready. Nothing may arrive before the
    server is stopped.
    """
    module = application.partition(":")[0]
    if server[0] == "gunicorn":
        append(folder / "gunicorn.conf.py", GUNICORN_WORKERS_LOG_THEIR_START)
    elif application:
        append(folder / f"{module}.py", "\nimport log_start\n")
    prompts = Prompts()
    with start(folder, *server, *filter(None, [application])) as program:
        if application:
            program.read_until(STARTED, processes)
        prompts.post(int(program.read_until(LISTENING)[1]), 10)
        assert receiver.events == []
        program.signal(stop)
        output = program.wait(status)
    # gunicorn's own SIGINT handler may raise in a worker that has just finished a request.
    gunicorn_may_raise = server[0] == "gunicorn" and stop == signal.SIGINT
    assert ("codex_otel_logging/" if gunicorn_may_raise else "Traceback") not in output
    if not delivers:
        assert receiver.events == []
        return
    prompts.assert_arrived(receiver.events)
    started = [e for e in receiver.events if e.name == "codex.startup_phase"]
    assert len({e.attributes["conversation.id"] for e in started}) == len(started)
    assert len(started) == (processes if application else 0)
