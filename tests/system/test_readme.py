"""README says what is so: its programs run, its tables are the package's own."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import jsonschema
import pytest

from codex_otel_logging import OtelConfig, Receiver, catalog
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli.listen import json_view, summaries, views
from codex_otel_logging.config.schema import schema
from codex_otel_logging.config.toml import loads
from support.commands import Command
from support.fixtures import RunPython, RunTests
from support.paths import ROOT
from support.readme import README, blocks


def ids(code: str) -> str:
    return f"line {README[: README.index(code)].count(chr(10)) + 1}"


TESTS = [code for code in blocks("python") if "\ndef test_" in code]
PROGRAMS = [code for code in blocks("python") if code not in TESTS]


@pytest.fixture
def home(tmp_path: Path, receiver: Receiver) -> Path:
    """A home whose settings files are README's, with the receiver as the collector."""
    (settings,) = (toml for toml in blocks("toml") if "localhost:4318" in toml)
    (tmp_path / ".codex").mkdir()
    for file in (tmp_path / ".codex" / "config.toml", tmp_path / "otel.toml"):
        file.write_text(settings.replace("http://localhost:4318/v1/logs", receiver.http_endpoint))
    shutil.copy(ROOT / "logging.ini", tmp_path)
    return tmp_path


@pytest.mark.parametrize("program", PROGRAMS, ids=ids)
def test_programs_run_without_a_word(run_python: RunPython, home: Path, program: str) -> None:
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    own = [line for line in done.stderr.splitlines() if "everything else goes" not in line]
    assert own == []


@pytest.mark.parametrize("code", TESTS, ids=ids)
def test_tests_pass(run_tests: RunTests, code: str) -> None:
    run_tests(code).assert_outcomes(passed=1)


def test_the_smallest_application_delivers(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    (program,) = (code for code in PROGRAMS if "codex.user_prompt" in code)
    assert run_python(program).returncode == 0
    prompt, result = receiver.wait_for(2)
    assert prompt.attributes["prompt"] == "[REDACTED]"
    assert prompt.attributes["app.version"] == "1.2.3"
    assert result.attributes["success"] == "true"
    assert prompt.resource["env"] == "staging"


def test_the_conversation_reaches_both_threads(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    (configuring,) = (code for code in PROGRAMS if 'app_version="1.2.3"' in code)
    (threads,) = (code for code in PROGRAMS if "threading" in code)
    setup = configuring[: configuring.index("with Conversation")]
    assert run_python(setup + threads).returncode == 0
    for event in receiver.wait_for(2):
        assert event.attributes["conversation.id"] == "conversation-1"
        assert event.attributes["auth_mode"] == "ApiKey"


@pytest.mark.parametrize("toml", blocks("toml"), ids=ids)
def test_settings_parse(toml: str) -> None:
    config = OtelConfig.from_table(loads(toml)["otel"], environ={"OTLP_TOKEN": "t"})
    assert config.exporter is not None


CODEX_REQUIRES = {
    "properties": {
        "otel": {
            "properties": {
                "exporter": {
                    "oneOf": [
                        {"enum": ["none", "statsig"]},
                        {
                            "type": "object",
                            "required": ["otlp-http"],
                            "properties": {
                                "otlp-http": {
                                    "required": ["endpoint", "protocol"],
                                    "properties": {"protocol": {"enum": ["binary", "json"]}},
                                }
                            },
                        },
                        {
                            "type": "object",
                            "required": ["otlp-grpc"],
                            "properties": {"otlp-grpc": {"required": ["endpoint"]}},
                        },
                    ]
                }
            }
        }
    }
}
"""What Codex CLI 0.169.0 refuses to start without; it knows no bare names but these."""


@pytest.mark.parametrize("toml", blocks("toml", README), ids=ids)
def test_codex_starts_with_every_table(toml: str) -> None:
    jsonschema.validate(loads(toml), CODEX_REQUIRES)


@pytest.mark.parametrize(
    "exporter", ["otlp-http", {"otlp-http": {"endpoint": "http://c/v1/logs"}}, {"otlp-grpc": {}}]
)
def test_codex_does_not_start_with_what_only_this_package_takes(exporter: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"otel": {"exporter": exporter}}, CODEX_REQUIRES)


def test_codex_starts_with_what_listen_prints() -> None:
    lines = list(views.how_to_send(["http://127.0.0.1:4318/v1/logs", "http://127.0.0.1:4317"]))
    toml = "\n".join(lines[lines.index("[otel.exporter.otlp-http]") :])
    jsonschema.validate(loads(toml), CODEX_REQUIRES)


def test_the_reserved_names_are_loggings() -> None:
    text = README.partition("<!-- reserved -->")[2].partition("<!-- end of reserved -->")[0]
    names = set(re.findall(r"`(\w+)`", text))
    record = logging.makeLogRecord({})
    assert names == {*vars(record), "message", "asctime", "taskName"}
    logger = logging.getLogger("codex_otel.reserved")
    for name in names & {*vars(record), "message", "asctime"}:
        with pytest.raises(KeyError):
            logger.error("codex.turn_ttft", extra={name: "shell"})


def test_a_fault_is_printed_with_its_place(run_python: RunPython, home: Path) -> None:
    (program,) = (code for code in PROGRAMS if "__cause__" in code)
    assert run_python(program).stdout == (
        "[otel] exporter: expected one of 'none', 'otlp-http', 'otlp-grpc'; got 'otlp'; "
        "did you mean 'otlp-http'?\n"
    )


def test_the_events_table_is_the_catalog() -> None:
    shown = README.partition("<!-- catalog -->\n")[2].partition("<!-- end of catalog -->")[0]
    assert shown == catalog.markdown()


def test_the_extras_table_names_every_extra() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"^\| `codex_otel_logging\[([\w-]+)\]`", README, re.MULTILINE)
    assert named == list(setup["options.extras_require"])


def test_the_commands_table_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = re.findall(r"^    (\w+) ", capsys.readouterr().err, re.MULTILINE)
    assert re.findall(r"^\| `codex-otel-logging (\w+)` \|", README, re.MULTILINE) == listed


def test_the_demos_output_is_what_the_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """But for times, the SDK's version, and how wide the terminal was."""
    from codex_otel_logging.cli import demo

    def comparable(text: str) -> list[str]:
        text = re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
        text = re.sub(r"(telemetry.sdk.version = |timestamp = ).*", "", text)
        return [line[:70].rstrip(".") for line in text.splitlines()]

    assert demo.run(["http", "grpc"]) == 0
    (shown,) = (text for text in blocks("text") if text.startswith("A recorded agent session"))
    assert comparable(shown) == comparable(capsys.readouterr().out)


def check_output(run_python: RunPython, receiver: Receiver) -> list[str]:
    """What `check --send` prints, as with a collector at its usual port; times are left out."""
    program = "from codex_otel_logging.__main__ import main; main(['check', '--send'])"
    output = run_python(program).stdout
    port = receiver.http_endpoint.rpartition(":")[2].partition("/")[0]
    return comparable_check(re.sub(rf"\b{port}\b", "4318", output))


def comparable_check(text: str) -> list[str]:
    text = re.sub(r" +[\d.]+ ms ", " TIME ", text)
    text = re.sub(r"check-[0-9a-f-]{36}", "ID", text)
    text = re.sub(r"localhost is .*|connected to .*,", "ADDRESS", text)
    return [re.sub("  +", "  ", line) for line in text.splitlines()]


def test_the_output_of_check_is_what_it_prints(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    settings = home / ".codex" / "config.toml"
    settings.write_text(settings.read_text().replace("127.0.0.1", "localhost"))
    good, bad, _ = (block.partition("\n")[2] for block in blocks("console"))
    assert check_output(run_python, receiver) == comparable_check(good)
    receiver.close()
    assert check_output(run_python, receiver)[-4:] == comparable_check(bad)


def test_the_output_of_check_logging_is_what_it_prints(run_python: RunPython, home: Path) -> None:
    (home / "settings.py").write_text("""
LOGGING = {
    "version": 1,
    "handlers": {
        "console": {"class": "logging.StreamHandler"},
        "codex_otel": {"()": "codex_otel_logging.from_toml"},
    },
    "root": {"handlers": ["console"]},
    "loggers": {"codex_otel": {"handlers": ["codex_otel"]}},
}
""")
    shown = blocks("console")[2]
    arguments = shown.partition("codex-otel-logging ")[2].partition(" | ")[0].split()
    program = "import sys; from codex_otel_logging.__main__ import main; main(sys.argv[1:])"
    printed = run_python(program, *arguments).stdout.splitlines()
    assert printed[-3:] == shown.splitlines()[1:]


def test_the_schema_is_printed_as_said(run_python: RunPython) -> None:
    (command,) = (code for code in blocks("sh") if "--schema" in code)
    arguments = command.partition("codex-otel-logging ")[2].partition(" > ")[0].split()
    program = "import sys; from codex_otel_logging.__main__ import main; main(sys.argv[1:])"
    assert json.loads(run_python(program, *arguments).stdout) == schema()


def test_the_output_of_listen_is_what_listen_prints(run_python: RunPython, home: Path) -> None:
    """But for times and ports. The smallest application sends, with its settings."""

    def comparable(text: str) -> str:
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
        text = re.sub(r"(\d{4}-\d\d-\d\d ?)?\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
        text = re.sub(r"(TIME: ).*", r"\1LASTED", text)
        return re.sub(r"^\d{4}-\d\d-\d\d$", "DAY", text, flags=re.MULTILINE)

    (program,) = (code for code in PROGRAMS if "codex.user_prompt" in code)
    settings = home / "otel.toml"
    with Command("listen", "--http-port", "0", "--grpc-port", "0", home=home) as command:
        port, _ = command.ports()
        toml = re.sub(r"http://[^/]*/", f"http://127.0.0.1:{port}/", settings.read_text())
        settings.write_text(toml)
        assert run_python(program, TERM="xterm").returncode == 0
        command.read_until("tool_result.*\n")
        assert command.end() == 0
        printed = command.output
    (shown,) = (text for text in blocks("text") if text.startswith("Listening"))
    assert comparable(shown) == comparable(printed)


def test_the_keys_of_a_json_line_are_named(receiver: Receiver) -> None:
    section = README.partition("## See what is sent")[2].partition("\n## ")[0]
    keys = [*summaries.ConversationSummary("", 0).as_json(), *json_view.EVENT_KEYS]
    assert [key for key in keys if f"`{key}`" not in section] == []
