"""`check` shows what takes effect, where it came from and what follows, and no secret."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from codex_otel_logging import exporters
from codex_otel_logging.__main__ import main
from codex_otel_logging.commands import check
from codex_otel_logging.commands.effective import in_effect
from codex_otel_logging.exporters import Origin, connect
from codex_otel_logging.settings import ExporterConfig

SECRET = "s3cr3t-t0ken"

TABLE = """
[otel]
environment = "staging"
tool_result = { max_bytes = 4096 }
resource_attributes = { team = "a b", replicas = 3 }
trace_exporter = "none"

[otel.batch]
max_batch_size = 20

[otel.exporter.otlp-http]
endpoint = "https://user:${TOKEN}@${HOST}/${TOKEN}/v1/logs?key=${TOKEN}"
headers = { "X-Key" = "Bearer ${TOKEN}", plain = "s3cr3t-t0ken", two = "${TOKEN}${NO:-x}${TOKEN}" }
compression = "${ZIP}"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.setenv("HOST", f"{SECRET}.example.com")
    monkeypatch.setenv("ZIP", "gzip")
    file = tmp_path / "otel.toml"
    file.write_text(TABLE)
    return file


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["check", *arguments, "--json"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert SECRET not in output.out
    document: dict[str, Any] = json.loads(output.out)
    return document


def found(document: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """For each setting: value, source, and the variables it was made from."""
    return {
        each["key"]: (each["value"], each["source"], *each["variables"])
        for each in document["settings"]
    }


def test_the_settings_in_effect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=x,zone=eu,service.name=y")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "30")
    document = checked(capsys, str(file))
    assert found(document) == {
        "environment": ("staging", "file"),
        "service_name": ("codex-cli", "default"),
        "log_user_prompt": (False, "default"),
        "log_tool_payloads": (True, "default"),
        "log_agent_responses": (False, "default"),
        "log_guardian_assessments": (False, "default"),
        "log_sse_deltas": (True, "default"),
        "max_attribute_length": (65_536, "default"),
        "tool_result.max_bytes": (4096, "file"),
        "resource_attributes.team": ("a b", "file"),
        "resource_attributes.zone": ("eu", "environment", "OTEL_RESOURCE_ATTRIBUTES"),
        "resource_attributes.replicas": (3, "file"),
        "exporter": ("otlp-http", "file"),
        "exporter.endpoint": ("https://${HOST}/${TOKEN}/v1/logs", "file", "TOKEN", "HOST"),
        "exporter.protocol": ("binary", "default"),
        "exporter.compression": ("gzip", "file", "ZIP"),
        "exporter.timeout_ms": (10_000, "default"),
        "exporter.headers.X-Key": ("***", "file", "TOKEN"),
        "exporter.headers.plain": ("***", "file"),
        "exporter.headers.two": ("***", "file", "TOKEN", "NO"),
        "batch.schedule_delay_ms": (50, "environment", "OTEL_BLRP_SCHEDULE_DELAY"),
        "batch.max_batch_size": (20, "file"),
        "batch.max_queue_size": (131_072, "default"),
        "batch.max_queue_bytes": (92_274_688, "default"),
        "batch.max_request_bytes": (3_670_016, "default"),
        "batch.retry_for_ms": (300_000, "default"),
        "batch.shutdown_timeout_ms": (2000, "default"),
    }
    del document["settings"]
    assert document == {
        "file": str(file),
        "sends": True,
        "why_not": None,
        "prompts": "redacted",
        "tool_payloads": "sent",
    }


def test_variables_decide_nothing_where_nothing_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
    (tmp_path / "otel.toml").write_text("[otel]")
    document = checked(capsys, str(tmp_path / "otel.toml"))
    assert found(document)["batch.schedule_delay_ms"] == (1000, "default")


def test_as_text(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert main(["check", str(file)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert SECRET not in output.out
    lines = [re.sub("  +", " | ", line) for line in output.out.splitlines()]
    assert lines[:3] == [str(file), "", "setting | value | from"]
    for expected in (
        "environment | staging | file",
        "log_user_prompt | false | default",
        "resource_attributes.team | 'a b' | file",
        "exporter.headers.X-Key | *** | file, ${TOKEN}",
        "exporter.headers.two | *** | file, ${TOKEN}, ${NO}",
        "Events are sent over OTLP/HTTP to https://${HOST}/${TOKEN}/v1/logs.",
    ):
        assert expected in lines
    assert lines[-1] == (
        "Prompts leave as [REDACTED]; arguments and output of tools are sent as they are."
    )


def test_no_control_character_reaches_a_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "\x1b[31m")
    file = tmp_path / "\x1b.toml"
    file.write_text(
        '[otel]\nenvironment = "\\u001b[31m"\nresource_attributes = {"\\u001b" = 1}\n'
        'exporter = "otlp-http"'
    )
    assert main(["check", str(file), "--send"]) == 1
    output = capsys.readouterr().out
    assert "the collector's address?" in output
    assert "\x1b" not in output


def test_a_path_is_shown_with_escapes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "\x1b]0;title\x07a\nb\u3164\u202e"
    escaped = rf"{tmp_path}/\x1b]0;title\x07a\nb\u3164\u202e"
    assert main(["check", str(path)]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert output.err.startswith(f"{escaped}: no such file")
    path.write_text('[otel]\nenvironment = "dev"\n')
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{escaped}\n\n")


@pytest.mark.parametrize(
    ("log", "prompts", "payloads"), [("true", "sent", "redacted"), ("false", "redacted", "sent")]
)
def test_what_is_redacted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, log: str, prompts: str, payloads: str
) -> None:
    file = tmp_path / "otel.toml"
    other = "false" if log == "true" else "true"
    file.write_text(f"[otel]\nlog_user_prompt = {log}\nlog_tool_payloads = {other}\n")
    document = checked(capsys, str(file))
    assert (document["prompts"], document["tool_payloads"]) == (prompts, payloads)
    assert main(["check", str(file)]) == 0
    words = {"sent": "are sent as they are", "redacted": "leave as [REDACTED]"}
    assert (
        f"Prompts {words[prompts]}; arguments and output of tools {words[payloads]}."
        in capsys.readouterr().out
    )


class TestNothingIsSent:
    @pytest.fixture(params=["none", "disabled", "missing"])
    def file_and_reason(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[str, str]:
        file = tmp_path / "otel.toml"
        if request.param == "none":
            file.write_text("model = 'gpt-5'")
            return str(file), "exporter is none"
        file.write_text('[otel]\nexporter = "otlp-grpc"')
        if request.param == "disabled":
            monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
            return str(file), "the environment variable OTEL_SDK_DISABLED turns everything off"
        monkeypatch.setattr(exporters, "_is_installed", lambda _package: False)
        return str(file), (
            "exporter 'otlp-grpc' needs an extra package: "
            "pip install 'codex_otel_logging[grpc]'; until then no event is sent"
        )

    def test_and_that_is_no_fault(
        self, capsys: pytest.CaptureFixture[str], file_and_reason: tuple[str, str]
    ) -> None:
        file, reason = file_and_reason
        document = checked(capsys, file)
        assert (document["sends"], document["why_not"]) == (False, reason)
        assert main(["check", file]) == 0
        assert f"Nothing is sent: {reason}." in capsys.readouterr().out

    def test_and_so_nothing_is_delivered(
        self, capsys: pytest.CaptureFixture[str], file_and_reason: tuple[str, str]
    ) -> None:
        file, _ = file_and_reason
        assert main(["check", file, "--send"]) == 1
        output = capsys.readouterr().out
        assert output.endswith("NOT delivered: nothing is sent, see above.\n")
        assert main(["check", file, "--send", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["send"] == {
            "event": "codex.startup_phase",
            "conversation_id": None,
            "delivered": False,
            "steps": [],
        }


class TestBadSettings:
    @pytest.mark.parametrize("send", [[], ["--send"]])
    def test_every_fault_is_told(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, send: list[str]
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_text('[otel]\nexportr = 1\nexporter = "otlp"\n')
        assert main(["check", str(file), *send]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        first, second = output.err.splitlines()
        assert first == f"{file}: [otel] exportr: unknown key; did you mean 'exporter'?"
        assert second.startswith(f"{file}: [otel] exporter: expected one of")

    def test_programs_get_them_too(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_text("[otel]\nexportr = 1\n")
        assert main(["check", str(file), "--json"]) == 2
        output = capsys.readouterr()
        document = json.loads(output.out)
        assert document["file"] == str(file)
        assert document["faults"] == output.err.splitlines()

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check"]) == 2
        assert capsys.readouterr().err.startswith("~/.codex/config.toml: no such file")

    def test_a_file_that_is_no_toml(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "otel.toml").write_text("[otel")
        assert main(["check", str(tmp_path / "otel.toml")]) == 2
        assert "not valid TOML" in capsys.readouterr().err


def test_the_default_is_codexs_own_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "config.toml").write_text('[otel]\nenvironment = "home"')
    document = checked(capsys)
    assert document["file"] == "~/.codex/config.toml"
    assert found(document)["environment"] == ("home", "file")


def test_the_file_is_read_once(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    checked(capsys, str(file))
    assert reads == [file]


ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c.example.com:1/base/"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "c.example.com:1"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c.example.com"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.example.com:1", "OTEL_EXPORTER_OTLP_HEADERS": "A=b"},
    {
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs.example.com:1/x",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.example.com:1",
    },
    {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "c.example.com:1",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate",
    },
    {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c.example.com:1",
        "OTEL_EXPORTER_OTLP_LOGS_INSECURE": "true",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "0.5",
    },
    {
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=x%20y, C = d ",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "e=f",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    },
    {"OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=x%20y, C = d ", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
class TestBareNames:
    """What is shown is what the official exporters make of the variables."""

    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    def test_over_http(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = ExporterConfig("otlp-http")
        effective = in_effect(config)
        sent: list[tuple[Any, float]] = []

        def send(_: Any, request: Any, *, timeout: float, **__: Any) -> Any:
            sent.append((request, timeout))
            raise requests.ConnectionError

        monkeypatch.setattr(requests.Session, "send", send)
        exporter = connect(config, Origin({}, {}))
        exporter.export([])
        exporter.shutdown()
        ((request, timeout),) = sent
        assert request.url == effective.endpoint
        assert timeout == pytest.approx(effective.timeout_ms / 1000, abs=0.4)  # some is spent
        assert request.headers.get("Content-Encoding", "none") == effective.compression
        own = {"accept", "accept-encoding", "connection", "user-agent"}
        names = {
            name.lower() for name in request.headers if name[:8] not in ("Content-", "content-")
        }
        assert names - own == effective.headers.keys()
        assert {name: request.headers[name] for name in effective.headers} == effective.headers

    def test_over_grpc(self) -> None:
        config = ExporterConfig("otlp-grpc")
        effective = in_effect(config)
        assert effective.endpoint is not None
        exporter: Any = connect(config, Origin({}, {}))
        try:
            official = exporter._exporter
            scheme, _, target = effective.endpoint.partition("://")
            assert (scheme == "http") == official._insecure
            assert target == official._endpoint
            assert effective.timeout_ms == official._timeout * 1000
            names = {"NoCompression": "none", "Gzip": "gzip"}
            assert effective.compression == names[official._compression.name]
            headers = {k: v for k, v in official._headers if k != "user-agent"}
            assert dict(effective.headers) == headers
        finally:
            exporter.shutdown()


def test_the_variables_that_decided_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@c.example.com:1/?key={SECRET}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={SECRET}",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "3",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "ca.pem",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "otel.toml").write_text('[otel]\nexporter = "otlp-http"')
    shown = {
        key: value
        for key, value in found(checked(capsys, str(tmp_path / "otel.toml"))).items()
        if key.startswith("exporter")
    }
    assert shown == {
        "exporter": ("otlp-http", "file"),
        "exporter.endpoint": (
            "http://c.example.com:1/",
            "environment",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        "exporter.protocol": ("binary", "default"),
        "exporter.compression": ("none", "default"),
        "exporter.timeout_ms": (3000, "environment", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT"),
        "exporter.headers.x-key": ("***", "environment", "OTEL_EXPORTER_OTLP_HEADERS"),
        "exporter.tls.ca-certificate": ("ca.pem", "environment", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    }


def test_grpc_names_both_variables_of_its_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "c.example.com:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
    (tmp_path / "otel.toml").write_text('[otel]\nexporter = "otlp-grpc"')
    assert found(checked(capsys, str(tmp_path / "otel.toml")))["exporter.endpoint"] == (
        "http://c.example.com:1",
        "environment",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_INSECURE",
    )


def test_control_c_leaves_no_trace(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restores it
    monkeypatch.setattr(check, "settings", interrupted)
    assert main(["check", str(file)]) == 130
    assert capsys.readouterr().err == ""
