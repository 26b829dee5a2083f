"""Configuration by `fileConfig` with the project's `logging.ini`."""

from __future__ import annotations

from pathlib import Path

from codex_otel_logging import Receiver
from support.fixtures import RunPython
from support.paths import ROOT, read_program

INI = str(ROOT / "logging.ini")

PROGRAM = read_program("ini_application")


def test_logging_ini_sends_nothing_without_an_exporter_in_the_users_file(
    run_python: RunPython, receiver: Receiver
) -> None:
    done = run_python(PROGRAM, INI)
    assert done.returncode == 0
    assert done.stdout == "{'codex_otel'} False\n[]\n"
    assert done.stderr.endswith(" WARNING app: the application's own\n")
    assert len(done.stderr.splitlines()) == 1
    assert receiver.events == []


def test_logging_ini_sends_with_the_exporter_of_the_users_file(
    run_python: RunPython, receiver: Receiver, tmp_path: Path
) -> None:
    """The current folder is not the checkout."""
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "config.toml").write_text(
        f'model = "gpt-5"\n[otel]\nexporter = {{ otlp-http = {{\n'
        f'  endpoint = "{receiver.http_endpoint}",\n}}}}\n'
    )
    done = run_python(PROGRAM, INI)
    assert done.returncode == 0
    prompt, ttft = sorted(receiver.events, key=lambda event: event.name, reverse=True)
    assert prompt.attributes["prompt"] == "[REDACTED]"
    assert ttft.attributes["duration_ms"] == 1
    assert "{'codex_otel'} False\n" in done.stdout
