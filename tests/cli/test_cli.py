"""The commands `demo` and `catalog`, and what all commands share: help, Ctrl-C, closed pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codex_otel_logging import Receiver, catalog
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli import demo
from codex_otel_logging.cli.demo import Transport, faults, play, recorded_session
from codex_otel_logging.otlp import factory
from support.commands import Command, needs_rich, needs_small_pipes
from support.fixtures import RunPython


@pytest.mark.parametrize(
    ("options", "transports"),
    [
        ([], ["OTLP/HTTP", "OTLP/gRPC"]),
        (["--http"], ["OTLP/HTTP"]),
        (["--grpc"], ["OTLP/gRPC"]),
    ],
)
def test_demo_shows_every_event_and_compares_both_transports(
    capsys: pytest.CaptureFixture[str], options: list[str], transports: list[str]
) -> None:
    assert main(["demo", *options]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    lines = output.out.splitlines()
    assert lines[0] == (
        f"A recorded agent session of 21 events, sent over {' and '.join(transports)}"
    )
    assert lines[-1] == "Every event arrived, with every attribute as logged."
    names = [line.split()[2] for line in lines if line[:3].strip().isdecimal()]
    assert names == [event.event for event in recorded_session().events]
    for expected in (
        "  service.name = codex-cli",
        "  env = demo",
        "  conversation.id = 01a209b9-96b0-7250-b5e0-28ffaf47cc56",
        "  codex.user_prompt: prompt = [REDACTED], only the length was sent: 23",
        *(f"{transport:11}    21        21" for transport in transports),
    ):
        assert expected in lines
    assert "naïve" not in output.out


def test_demo_ignores_opentelemetry_and_proxy_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "bad")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    assert main(["demo"]) == 0
    assert os.environ["OTEL_SDK_DISABLED"] == "true"


def test_demo_uses_the_transports_that_are_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = factory.missing_package
    monkeypatch.setattr(
        demo,
        "missing_package",
        lambda config: "not here" if config.name == "otlp-grpc" else missing(config),
    )
    assert main(["demo"]) == 0
    assert "sent over OTLP/HTTP\n" in capsys.readouterr().out


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_demo_detects_every_difference(transport: Transport) -> None:
    """The received events are altered in every way that the comparison must detect."""
    session = recorded_session()
    received = list(play(session, transport).received)
    assert list(faults(session, received)) == []
    assert list(faults(session, received[:-1])) == ["21 events were logged, 20 arrived"]
    prompt = received[1]
    for tampered, fault in (
        (replace(prompt, body="x"), "body: 'codex.user_prompt' became 'x'"),
        (replace(prompt, event_name="x"), "event name: 'codex.user_prompt' became 'x'"),
        (replace(prompt, scope="x"), "scope: 'codex_otel' became 'x'"),
        (replace(prompt, severity_number=13), "severity: 9 became 13"),
        (
            replace(prompt, resource={**prompt.resource, "env": "dev"}),
            "resource env: 'demo' became 'dev'",
        ),
        (
            replace(prompt, attributes={**prompt.attributes, "prompt": "hello"}),
            "prompt: '[REDACTED]' became 'hello'",
        ),
        (
            replace(prompt, attributes={**prompt.attributes, "prompt_length": "23"}),
            "prompt_length: 23 became '23'",
        ),
        (
            replace(prompt, attributes={**prompt.attributes, "event.timestamp": "now"}),
            "event.timestamp: True became False",
        ),
        (
            replace(prompt, attributes={**prompt.attributes, "more": 1}),
            "more: None became 1",
        ),
    ):
        assert list(faults(session, [received[0], tampered, *received[2:]])) == [
            f"event 2, codex.user_prompt: {fault}"
        ]


def test_demo_fails_if_an_event_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Receiver, "events", property(lambda self: self.wait_for(21)[1:]))
    assert main(["demo", "--http"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "NOT everything arrived as logged:" in lines
    assert "  OTLP/HTTP: 21 events were logged, 20 arrived" in lines
    assert lines[-1].startswith("  and ")


def test_catalog_prints_markdown_and_json_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog"]) == 0
    markdown = capsys.readouterr().out
    assert markdown == catalog.markdown()
    assert main(["catalog", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown
    assert main(["catalog", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [event["name"] for event in document["events"]] == [e.name for e in catalog.events()]
    assert document["common"][0]["name"] == "event.name"


@pytest.mark.parametrize("rich", [pytest.param(True, marks=needs_rich), False], ids=["rich", ""])
@pytest.mark.parametrize("columns", [80, 240])
def test_catalog_prints_a_table_per_event_on_a_terminal(
    tmp_path: Path, rich: bool, columns: int
) -> None:
    if not rich:
        (tmp_path / "rich.py").write_text("raise ImportError\n")
    with Command("catalog", home=tmp_path, columns=columns) as command:
        assert command.wait() == 0
        assert command.errors == ""
        assert ("\x1b" in command.output) == rich
        lines = re.sub(r"\x1b\[[\d;]*m", "", command.output).splitlines()
    assert max(map(len, lines)) <= columns
    titles = [
        (lines[index - 2], lines[index - 1])
        for index, line in enumerate(lines)
        if line[:6] == "field "
    ]
    assert titles == [
        ("common fields", "Present on every event."),
        *((event.name, event.description) for event in catalog.events()),
    ]
    rows = [re.split(r"  +", line.strip()) for line in lines]
    for fields in (catalog.COMMON_FIELDS, *(event.fields for event in catalog.events())):
        for field in fields:
            kind = " / ".join(field.choices) or field.type
            meaning = [meant] if (meant := catalog.meaning(field)) else []
            if columns == 240:
                assert [field.name, kind, field.presence, *meaning] in rows
            # At 80 columns, cells wrap between words only.
            for word in f"{field.name} {kind} {field.presence} {' '.join(meaning)}".split():
                assert any(word in re.split(r" +", line) for line in lines)


def test_catalog_prints_markdown_on_a_terminal_on_request(tmp_path: Path) -> None:
    with Command("catalog", "--markdown", home=tmp_path, columns=120) as command:
        assert command.wait() == 0
        assert command.output == catalog.markdown()


def test_catalog_of_one_event_is_one_table(tmp_path: Path) -> None:
    with Command("catalog", "codex.turn_ttft", home=tmp_path, columns=80, NO_COLOR="1") as command:
        assert command.wait() == 0
        lines = re.sub(r"\x1b\[[\d;]*m", "", command.output).splitlines()
    assert lines == [
        "codex.turn_ttft",
        "The first token of a turn has arrived.",
        "field        type    present  meaning",
        "duration_ms  number  always   milliseconds since the turn began",
        "",
    ]


LARGER_CATALOG = """
import sys
from codex_otel_logging import catalog
from codex_otel_logging.__main__ import main
catalog.register(catalog.EventType("x.y", "", tuple(catalog.Field(f"f{n}") for n in range(70))))
sys.exit(main())
"""


@needs_small_pipes
@pytest.mark.parametrize("form", ["--json", "--markdown"])
def test_ctrl_c_ends_catalog_that_blocks_on_a_full_pipe(tmp_path: Path, form: str) -> None:
    """Markdown exceeds the pipe, but not Python's buffer: the write blocks in the flush at exit."""
    program = LARGER_CATALOG
    with Command("catalog", form, program=program, home=tmp_path, pipe_bytes=4096) as command:
        command.wait_for_output()
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(timeout=20) == 130
        command.wait()
        assert command.errors == ""


def test_ctrl_c_ends_demo_without_a_traceback(tmp_path: Path) -> None:
    with Command("demo", home=tmp_path, PYTHONUNBUFFERED="1") as command:
        command.read_until("A recorded agent session")
        assert command.end(signal.SIGINT) == 130
        assert "KeyboardInterrupt" not in command.errors
        assert "Everything arrived" not in command.output


@pytest.mark.parametrize("command", [[], ["demo"], ["listen"], ["drain"], ["catalog"]])
def test_help_documents_every_exit_status(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    documented = capsys.readouterr().out.partition("Exit status: ")[2]
    assert re.findall(r"\b\d+\b", documented) == ["0", "1", "2", "130"]


def test_closed_pipe_prints_no_error() -> None:
    command = f"{sys.executable} -m codex_otel_logging catalog | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("| common field")


def test_object_interrupted_in_its_constructor_prints_nothing(run_python: RunPython) -> None:
    program = """
import sys
from codex_otel_logging.cli import main as cli
class Half:
    def __init__(self):
        raise KeyboardInterrupt
    def __del__(self):
        self.second_half
cli._catalog = lambda options: Half()
sys.exit(cli.main(["catalog"]))
"""
    done = run_python(program)
    assert (done.returncode, done.stderr) == (130, "")
