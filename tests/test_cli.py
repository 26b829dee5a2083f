import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from codex_otel_logging import Receiver, catalog, demo, exporters
from codex_otel_logging.__main__ import main
from codex_otel_logging.demo import Transport, faults, play, recorded_session


@pytest.mark.parametrize(
    ("options", "transports"),
    [
        ([], ["OTLP/HTTP", "OTLP/gRPC"]),
        (["--http"], ["OTLP/HTTP"]),
        (["--grpc"], ["OTLP/gRPC"]),
    ],
)
def test_demo(
    capsys: pytest.CaptureFixture[str], options: list[str], transports: list[str]
) -> None:
    assert main(["demo", *options]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    lines = output.out.splitlines()
    assert lines[0] == (
        f"A recorded agent session of 21 events, sent over {' and '.join(transports)}"
    )
    assert lines[-1] == "Everything arrived, every attribute as it was logged."
    names = [line.split()[2] for line in lines if line[:3].strip().isdecimal()]
    assert names == [event.event for event in recorded_session().events]
    for expected in (
        "  service.name = codex-cli",
        "  env = demo",
        "  conversation.id = 01a209b9-96b0-7250-b5e0-28ffaf47cc56",
        "  codex.user_prompt: prompt = [REDACTED], only its length was sent: 23",
        *(f"{transport:11}    21        21" for transport in transports),
    ):
        assert expected in lines
    assert "naïve" not in output.out


def test_demo_takes_nothing_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "bad")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    assert main(["demo"]) == 0
    assert os.environ["OTEL_SDK_DISABLED"] == "true"


def test_demo_plays_over_what_is_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = exporters.missing_package
    monkeypatch.setattr(
        demo,
        "missing_package",
        lambda config: "not here" if config.name == "otlp-grpc" else missing(config),
    )
    assert main(["demo"]) == 0
    assert "sent over OTLP/HTTP\n" in capsys.readouterr().out


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_demo_notices_every_difference(transport: Transport) -> None:
    """What arrived is tampered with in each way the comparison must notice."""
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


def test_demo_fails_when_something_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Receiver, "events", property(lambda self: self.wait_for(21)[1:]))
    assert main(["demo", "--http"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "NOT everything arrived as it was logged:" in lines
    assert "  OTLP/HTTP: 21 events were logged, 20 arrived" in lines
    assert lines[-1].startswith("  and ")


def test_catalog_as_markdown_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog"]) == 0
    markdown = capsys.readouterr().out
    assert markdown == catalog.markdown()
    assert main(["catalog", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown
    assert main(["catalog", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [event["name"] for event in document["events"]] == [e.name for e in catalog.events()]
    assert document["common"][0]["name"] == "event.name"


def test_it_is_a_module_to_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codex_otel_logging"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "usage: python -m codex_otel_logging" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m codex_otel_logging catalog | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("| common field")
