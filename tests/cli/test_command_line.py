"""The command line: how the program is started, and the errors of invalid arguments."""

from __future__ import annotations

import configparser
import json
import re
from argparse import ArgumentTypeError
from importlib import import_module
from pathlib import Path

import pytest

from codex_otel_logging import catalog
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli.arguments import port
from codex_otel_logging.cli.main import program
from support.commands import Command
from support.fixtures import RunPython
from support.paths import ROOT

NAME = "codex-otel-logging"
COMMANDS = ["demo", "check", "listen", "drain", "catalog", "docs"]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of an invalid command line, which must exit with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    usage, _, message = output.err.partition("error: ")
    assert usage.startswith(f"usage: {NAME} ")
    return message.rstrip("\n")


def console_script() -> tuple[str, str]:
    """Return the name of the console script and the function it calls."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, function = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    return name, function


def test_console_script_runs_the_program() -> None:
    name, function = console_script()
    module, _, attribute = function.partition(":")
    assert name == NAME
    assert getattr(import_module(module), attribute) is program


@pytest.mark.parametrize("started", ["script", "module"])
def test_usage_shows_how_the_program_was_started(tmp_path: Path, started: str) -> None:
    script = "import sys; from codex_otel_logging.cli.main import program; sys.exit(program())"
    program = script if started == "script" else None
    shown = NAME if started == "script" else "python -m codex_otel_logging"
    with Command("check", "--help", program=program, home=tmp_path) as command:
        assert command.wait() == 0
        assert command.output.startswith(f"usage: {shown} check [-h]")
    with Command(program=program, home=tmp_path) as command:
        assert command.wait() == 2
        assert command.errors.startswith(f"usage: {shown} [-h]")


def test_call_without_a_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.findall(r"^    (\w+) ", output.err, re.MULTILINE) == COMMANDS


def test_version_is_that_of_the_installed_package(run_python: RunPython, tmp_path: Path) -> None:
    program = """
import sys
from codex_otel_logging.__main__ import main
sys.path.insert(0, ".")
sys.exit(main(["--version"]))
"""
    assert run_python(program).stdout.startswith(NAME)
    installed = tmp_path / "codex_otel_logging-1.2.3.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: codex_otel_logging\nVersion: 1.2.3\n")
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{NAME} 1.2.3\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "unknown command 'chek'; did you mean 'check'?"),
        (["lisen", "--json"], "unknown command 'lisen'; did you mean 'listen'?"),
        (["x"], "unknown command 'x'; expected one of catalog, check, demo, docs, drain, listen"),
        (
            ["\x1b[31m"],
            r"unknown command '\x1b[31m'; expected one of catalog, check, demo, docs, drain, "
            "listen",
        ),
    ],
)
def test_unknown_command_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert error_of(capsys, *arguments) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verison"], "unknown option '--verison'; did you mean '--version'?"),
        (["check", "--jsn"], "unknown option '--jsn'; did you mean '--json'?"),
        (["check", "--send", "a", "--x"], "unknown option '--x'; expected one of "),
        (["check", "a", "--password=s3cr3t"], "unknown option '--password'; expected one of "),
        (["check", "-s"], "unknown option '-s'; expected one of "),
        (["check", "a", "b"], "unexpected argument 'b'"),
        (["listen", "4318"], "unexpected argument '4318'"),
        (["listen", "x", "--jsn"], "unknown option '--jsn'; did you mean '--json'?"),
        (["--json", "check"], "option '--json' must follow the command: codex-otel-logging check"),
    ],
)
def test_unknown_option_gets_a_suggestion_and_hides_its_value(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    found = error_of(capsys, *arguments)
    assert found.startswith(message)
    assert "s3cr3t" not in found


def test_error_in_a_command_shows_the_usage_of_that_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["listen", "--jsn"])
    assert capsys.readouterr().err.startswith(f"usage: {NAME} listen [-h] [--http-port PORT]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["listen", "--http", "x"], "unknown option '--http'; did you mean '--http-port'?"),
        (["check", "--s"], "unknown option '--s'; did you mean '--send' or '--schema'?"),
        (["catalog", "--m"], "unknown option '--m'; did you mean '--markdown'?"),
        (["--vers"], "unknown option '--vers'; did you mean '--version'?"),
    ],
)
def test_abbreviated_option_is_unknown(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """An abbreviation would become ambiguous when a new option begins like it."""
    assert error_of(capsys, *arguments) == message


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
@pytest.mark.parametrize("value", ["80x", "-1", "65536"])
def test_invalid_port_is_quoted_with_the_accepted_range(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert error_of(capsys, "listen", option, value) == (
        f"argument {option}: invalid port {value!r}: expected an integer from 0 to 65535"
    )


def test_port_accepts_only_ascii_digits_up_to_65535() -> None:
    assert [port(text) for text in ("0", "80", "0080", "65535")] == [0, 80, 80, 65_535]
    for text in ("x", "", " 80", "+80", "8_0", "65536", "٤٣", "²", "1e3", 5000 * "9"):
        with pytest.raises(ArgumentTypeError, match=f"invalid port {re.escape(repr(text))}: "):
            port(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["listen", "--http-port"], "argument --http-port: expected one argument"),
        (["demo", "--http", "--grpc"], "argument --grpc: not allowed with argument --http"),
        (["check", "--send=yes"], "argument --send: expected no value, got 'yes'"),
        (["check", ""], "argument PATH: expected a file path, got an empty argument"),
    ],
)
def test_invalid_option_values_are_explained(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert error_of(capsys, *arguments) == message


def test_two_dashes_end_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--"]) == 2
    assert capsys.readouterr().err.startswith(f"usage: {NAME} ")
    assert main(["check", "--", "--send"]) == 2
    assert capsys.readouterr().err.startswith("--send: no such file")


def test_catalog_prints_the_named_event_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "codex.tool_result"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "| event | field | type | present |",
        "|---|---|---|---|",
        "| `codex.tool_result` | `tool_name` | string | always |",
    ]
    event = catalog.find("codex.tool_result")
    assert event is not None
    assert len(lines) == 2 + len(event.fields)
    assert set(lines) < set(catalog.markdown().splitlines())
    assert main(["catalog", "codex.tool_result", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [event["name"] for event in document["events"]] == ["codex.tool_result"]
    assert document["common"][0]["name"] == "event.name"


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("codex.tool_reslt", "did you mean 'codex.tool_result'?"),
        ("tool_result", "did you mean 'codex.tool_result'?"),
        ("", "expected one of codex.api_request, "),
    ],
)
def test_catalog_suggests_a_name_for_an_unknown_event(
    capsys: pytest.CaptureFixture[str], form: list[str], name: str, hint: str
) -> None:
    assert main(["catalog", name, *form]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"unknown event {name!r}; {hint}")


def test_an_interruption_while_an_object_is_finalized_ends_the_command(tmp_path: Path) -> None:
    program = """
import signal, sys, threading
from codex_otel_logging.cli.main import program
from codex_otel_logging.cli import docs

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def interrupted(topic):
    Interrupted()
    threading.Event().wait(20)
    return 0

docs.run = interrupted
sys.exit(program())
"""
    with Command("docs", program=program, home=tmp_path) as command:
        assert command.wait() == 130
        assert command.errors == ""


def test_other_exceptions_of_finalizers_are_reported(tmp_path: Path) -> None:
    program = """
import sys
from codex_otel_logging.cli.main import program
from codex_otel_logging.cli import docs

class Broken:
    def __del__(self):
        raise ValueError("of the finalizer")

docs.run = lambda topic: Broken() is None
sys.exit(program())
"""
    with Command("docs", program=program, home=tmp_path) as command:
        assert command.wait() == 0
        assert "ValueError: of the finalizer" in command.errors


def test_an_interruption_after_the_command_prints_no_traceback(tmp_path: Path) -> None:
    program = """
import atexit, signal, sys
from codex_otel_logging.cli.main import program

atexit.register(lambda: signal.raise_signal(signal.SIGINT))
sys.exit(program())
"""
    with Command("docs", program=program, home=tmp_path) as command:
        assert command.wait() == 0
        assert command.errors == ""
