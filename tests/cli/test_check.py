"""`check` without options: the settings in effect, their sources, the consequences, no secrets."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging.__main__ import main
from codex_otel_logging.cli.check import command as check
from codex_otel_logging.config import files, toml_file
from codex_otel_logging.otlp import factory
from support.commands import Command, needs_rich

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


def checked(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(["check", *arguments, "--json"]) == status
    output = capsys.readouterr()
    assert output.err == ""
    assert SECRET not in output.out
    document: dict[str, Any] = json.loads(output.out)
    return document


def found(document: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return value, source and variables of each setting, by its key."""
    return {
        each["key"]: (each["value"], each["source"], *each["variables"])
        for each in document["settings"]
    }


def test_json_lists_each_setting_with_value_source_and_variables(
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
        "batch.max_queue_bytes": (115_343_360, "default"),
        "batch.max_request_bytes": (3_670_016, "default"),
        "batch.retry_for_ms": (300_000, "default"),
        "batch.shutdown_timeout_ms": (2000, "default"),
    }
    del document["settings"]
    assert document == {
        "file": str(file),
        "file_from": "argument",
        "warnings": [],
        "ineffective_variables": {
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "batch.max_batch_size in the file takes precedence"
        },
        "sends": True,
        "why_not": None,
        "prompts": "redacted",
        "tool_payloads": "sent",
    }


def test_variables_have_no_effect_without_an_exporter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
    (tmp_path / "otel.toml").write_text("[otel]")
    document = checked(capsys, str(tmp_path / "otel.toml"))
    assert found(document)["batch.schedule_delay_ms"] == (1000, "default")


def test_text_shows_file_settings_and_consequences(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert main(["check", str(file)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert SECRET not in output.out
    lines = [re.sub("  +", " | ", line) for line in output.out.splitlines()]
    assert lines[:4] == [
        str(file),
        "Named on the command line. No other file is read; administrators' files such as "
        "/etc/codex/requirements.toml do not apply to this package.",
        "",
        "setting | value | from",
    ]
    for expected in (
        "environment | staging | file",
        "log_user_prompt | false | default",
        "resource_attributes.team | 'a b' | file",
        "exporter.headers.X-Key | *** | file, ${TOKEN}",
        "exporter.headers.two | *** | file, ${TOKEN}, ${NO}",
        "Events are sent over OTLP/HTTP to https://${HOST}/${TOKEN}/v1/logs.",
    ):
        assert expected in lines
    assert lines[-1] == ("Prompts are sent as [REDACTED], tool arguments and output unchanged.")


@pytest.mark.parametrize("rich", [pytest.param(True, marks=needs_rich), False], ids=["rich", ""])
def test_80_columns_show_every_setting_in_full(tmp_path: Path, rich: bool) -> None:
    if not rich:
        (tmp_path / "rich.py").write_text("raise ImportError\n")
    endpoint = "https://collector.observability.svc.cluster.example.com:4318/tenants/a/v1/logs"
    file = tmp_path / "otel.toml"
    file.write_text(
        f'[otel.exporter.otlp-http]\nendpoint = "{endpoint}"\nheaders = {{ authorization = "x" }}\n'
    )
    with Command("check", "otel.toml", home=tmp_path, columns=80) as command:
        assert command.wait() == 0
        lines = re.sub(r"\x1b\[[\d;]*m", "", command.output).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("setting "))
    table = lines[start : lines.index("", start)]
    assert max(map(len, table)) <= 80
    assert "exporter.headers.authorization" in [line.split()[0] for line in table]
    column = table[0].index("value"), table[0].index("from")
    assert endpoint in "".join(line[slice(*column)].strip() for line in table)
    for line in lines:
        assert len(line) <= 80 or endpoint in line.split()[-1]  # a long word is not broken


def test_control_characters_are_escaped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:\x1b[31m")
    file = tmp_path / "\x1b.toml"
    file.write_text(
        '[otel]\nenvironment = "\\u001b[31m"\nresource_attributes = {"\\u001b" = 1}\n'
        'exporter = "otlp-grpc"'
    )
    assert main(["check", str(file), "--send"]) == 1
    output = capsys.readouterr().out
    assert "is the collector's address" in output
    assert "\x1b" not in output


def test_control_characters_in_the_path_are_escaped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "\x1b]0;title\x07a\nb\u3164\u202e"
    escaped = rf"{tmp_path}/\x1b]0;title\x07a\nb\u3164\u202e"
    assert main(["check", str(path)]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert output.err.startswith(f"{escaped}: no such file")
    path.write_text('[otel]\nenvironment = "dev"\n')
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{escaped}\n")


@pytest.mark.parametrize(
    ("log", "prompts", "payloads"), [("true", "sent", "redacted"), ("false", "redacted", "sent")]
)
def test_output_says_whether_prompts_and_tool_payloads_are_redacted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, log: str, prompts: str, payloads: str
) -> None:
    file = tmp_path / "otel.toml"
    other = "false" if log == "true" else "true"
    file.write_text(f"[otel]\nlog_user_prompt = {log}\nlog_tool_payloads = {other}\n")
    document = checked(capsys, str(file))
    assert (document["prompts"], document["tool_payloads"]) == (prompts, payloads)
    assert main(["check", str(file)]) == 0
    words = {"sent": "unchanged", "redacted": "as [REDACTED]"}
    assert (
        f"Prompts are sent {words[prompts]}, tool arguments and output {words[payloads]}."
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
            return str(file), "the environment variable OTEL_SDK_DISABLED turns off all exports"
        monkeypatch.setattr(factory, "is_installed", lambda _package: False)
        return str(file), (
            "exporter 'otlp-grpc' needs an extra package: "
            "pip install 'codex_otel_logging[grpc]'; no events are exported until then"
        )

    def test_status_is_1_only_if_an_exporter_is_set(
        self, capsys: pytest.CaptureFixture[str], file_and_reason: tuple[str, str]
    ) -> None:
        file, reason = file_and_reason
        status = 0 if reason == "exporter is none" else 1
        document = checked(capsys, file, status=status)
        assert (document["sends"], document["why_not"]) == (False, reason)
        assert main(["check", file]) == status
        assert f"Nothing is sent: {reason}." in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("[otl]", "The file has no [otel] table: the settings are the defaults.\n"),
            ("[otel]", ""),
        ],
    )
    def test_missing_table_is_reported(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, line: str
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_text(f"{text}\nexporter = 'none'")
        assert main(["check", str(file)]) == 0
        assert f"\n\n{line}Nothing is sent: exporter is none.\n" in capsys.readouterr().out

    def test_send_reports_that_the_event_was_not_delivered(
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


class TestInvalidSettings:
    @pytest.mark.parametrize("send", [[], ["--send"]])
    def test_every_fault_is_printed_on_standard_error(
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

    def test_json_lists_the_faults_printed_on_standard_error(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_text("[otel]\nexportr = 1\n")
        assert main(["check", str(file), "--json"]) == 2
        output = capsys.readouterr()
        document = json.loads(output.out)
        assert document["file"] == str(file)
        assert document["faults"] == output.err.splitlines()

    def test_missing_file_gets_advice_for_a_shell(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, name in (([], "~/.codex/config.toml"), (["a; b.toml"], "a; b.toml")):
            assert main(["check", *arguments]) == 2
            assert capsys.readouterr().err == (
                f"{name}: no such file; create it, or add the path of another file to the command\n"
            )
            assert main(["check", *arguments, "--json"]) == 2
            output = capsys.readouterr()
            document = json.loads(output.out)
            assert document == {"file": name, "faults": output.err.splitlines()}

    def test_fault_about_an_unprintable_path_is_one_printable_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main(["check", str(tmp_path / "\x1b[31m\nx.toml")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.isprintable()

    def test_invalid_toml_is_a_fault(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "otel.toml").write_text("[otel")
        assert main(["check", str(tmp_path / "otel.toml")]) == 2
        assert "invalid TOML" in capsys.readouterr().err


class TestWhichFile:
    @pytest.mark.parametrize("home", [None, ""])
    def test_default_file_is_that_of_the_codex_cli(
        self,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        home: str | None,
    ) -> None:
        if home is not None:
            monkeypatch.setenv("CODEX_HOME", home)
        (tmp_path / ".codex").mkdir()
        (tmp_path / ".codex" / "config.toml").write_text('[otel]\nenvironment = "home"')
        document = checked(capsys)
        assert document["file"] == "~/.codex/config.toml"
        assert document["file_from"] == "default"
        assert found(document)["environment"] == ("home", "file")
        assert main(["check"]) == 0
        assert (
            "\nThe default, because CODEX_HOME is not set. No other file is read; administrators' "
            in (capsys.readouterr().out)
        )

    def test_codex_home_selects_another_folder(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CODEX_HOME", str(tmp_path))
        (tmp_path / "config.toml").write_text('[otel]\nenvironment = "elsewhere"')
        document = checked(capsys)
        assert document["file"] == str(tmp_path / "config.toml")
        assert document["file_from"] == "CODEX_HOME"
        assert found(document)["environment"] == ("elsewhere", "file")
        assert main(["check"]) == 0
        assert "\nFrom the folder in CODEX_HOME. No other file is read" in capsys.readouterr().out

    def test_file_on_the_command_line_takes_precedence(
        self, capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CODEX_HOME", "/nowhere")
        assert checked(capsys, str(file))["file_from"] == "argument"


def test_warnings_appear_in_text_and_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "otel.toml"
    file.write_text("[otel]\nlog_foo = true\n")
    document = checked(capsys, str(file))
    (warning,) = document["warnings"]
    assert warning.startswith(f"{file}: [otel] log_foo: unknown key, ignored")
    assert main(["check", str(file)]) == 0
    assert f"Warning: {warning}\n" in capsys.readouterr().out


class TestVariables:
    def test_service_name_in_the_file_takes_precedence_over_the_variable(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-agent")
        file = tmp_path / "otel.toml"
        file.write_text('[otel]\nexporter = "otlp-http"\n')
        document = checked(capsys, str(file))
        assert found(document)["service_name"] == ("my-agent", "environment", "OTEL_SERVICE_NAME")
        assert document["ineffective_variables"] == {}
        file.write_text('[otel]\nexporter = "otlp-http"\nservice_name = "x"\n')
        document = checked(capsys, str(file))
        assert found(document)["service_name"] == ("x", "file")
        assert document["ineffective_variables"] == {
            "OTEL_SERVICE_NAME": "service_name in the file takes precedence"
        }

    def test_invalid_variable_is_named_only_in_its_warning(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "soon")
        file = tmp_path / "otel.toml"
        file.write_text('[otel]\nexporter = "otlp-http"\n')
        document = checked(capsys, str(file))
        assert len(document["warnings"]) == 2
        assert document["ineffective_variables"] == {}
        assert found(document)["batch.schedule_delay_ms"] == (1000, "default")

    @pytest.mark.parametrize(
        ("exporter", "variables", "ineffective"),
        [
            (
                '{ otlp-http = { endpoint = "http://127.0.0.1:1/v1/logs" } }',
                [
                    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
                    *("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_BLRP_SCHEDULE_DELAY"),
                ],
                {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": "the exporter's table takes precedence",
                    "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "the exporter's table takes precedence",
                },
            ),
            (
                '"otlp-http"',
                [
                    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
                    *("OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_PROTOCOL"),
                    "OTEL_LOGS_EXPORTER",
                ],
                {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": (
                        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT takes precedence"
                    ),
                    "OTEL_EXPORTER_OTLP_INSECURE": "otlp-http does not use it",
                    "OTEL_EXPORTER_OTLP_PROTOCOL": "the setting exporter decides",
                    "OTEL_LOGS_EXPORTER": "the setting exporter decides",
                },
            ),
            (
                '"none"',
                [
                    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_BLRP_SCHEDULE_DELAY"),
                    *("OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
                ],
                {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": "exporter is none",
                    "OTEL_BLRP_SCHEDULE_DELAY": "exporter is none",
                    "OTEL_SERVICE_NAME": "exporter is none",
                },
            ),
        ],
    )
    def test_variables_without_effect_are_named_with_the_reason(
        self,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        exporter: str,
        variables: list[str],
        ineffective: dict[str, str],
    ) -> None:
        for name in variables:
            monkeypatch.setenv(name, "http://127.0.0.1:1" if name.endswith("ENDPOINT") else "1")
        file = tmp_path / "otel.toml"
        file.write_text(f"[otel]\nexporter = {exporter}\n")
        document = checked(capsys, str(file))
        assert document["ineffective_variables"] == ineffective
        assert main(["check", str(file)]) == 0
        lines = capsys.readouterr().out.splitlines()
        for reason in set(ineffective.values()):
            names = sorted(name for name, why in ineffective.items() if why == reason)
            assert f"{', '.join(names)}: no effect, because {reason}." in lines

    def test_blank_variables_are_not_listed_as_ineffective(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", " ")
        monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
        (tmp_path / "otel.toml").write_text("[otel]")
        document = checked(capsys, str(tmp_path / "otel.toml"))
        assert document["ineffective_variables"] == {}

    @pytest.mark.parametrize("value", ["1", "yes", "on"])
    def test_sdk_disabled_with_an_unknown_value_has_no_effect(
        self,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        value: str,
    ) -> None:
        monkeypatch.setenv("OTEL_SDK_DISABLED", value)
        (tmp_path / "otel.toml").write_text('[otel]\nexporter = "otlp-http"')
        document = checked(capsys, str(tmp_path / "otel.toml"))
        assert document["sends"]
        assert document["ineffective_variables"] == {
            "OTEL_SDK_DISABLED": "only the value true has an effect"
        }


def test_check_reads_the_file_once(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read_file = files.read_file

    def counted(path: Path, largest: int) -> bytes:
        reads.append(path)
        return read_file(path, largest)

    monkeypatch.setattr(toml_file, "read_file", counted)
    checked(capsys, str(file))
    assert reads == [file]


def test_settings_from_variables_name_the_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@c.example.com:1/?key={SECRET}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={SECRET}",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "3",
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
            "http://c.example.com:1/v1/logs",
            "environment",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        "exporter.protocol": ("binary", "default"),
        "exporter.compression": ("none", "default"),
        "exporter.timeout_ms": (3000, "environment", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT"),
        "exporter.headers.x-key": ("***", "environment", "OTEL_EXPORTER_OTLP_HEADERS"),
    }


def test_grpc_endpoint_names_both_of_its_variables(
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


def test_ctrl_c_prints_no_traceback(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # `main` replaces it
    monkeypatch.setattr(check, "find", interrupted)
    assert main(["check", str(file)]) == 130
    assert capsys.readouterr().err == ""
