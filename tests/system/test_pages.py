"""Checks README and the pages: code blocks, tables, commands, links."""

from __future__ import annotations

import configparser
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from codex_otel_logging import OtelConfig, Receiver
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli.listen import views
from codex_otel_logging.cli.main import build_parser
from codex_otel_logging.config.toml import loads
from support import generated
from support.fixtures import RunPython, RunTests
from support.pages import (
    BLOCKS,
    PAGES,
    QUICK_START,
    README,
    Block,
    block,
    blocks,
    lay_out_quick_start,
    page,
)
from support.paths import ROOT

TESTS = [each for each in blocks("python") if "\ndef test_" in each.code]
PROGRAMS = [each for each in blocks("python") if each not in TESTS]


@pytest.fixture
def home(tmp_path: Path, receiver: Receiver) -> Path:
    """A home that the quick start can run in, with the receiver as its collector."""
    lay_out_quick_start(tmp_path, receiver.http_endpoint)
    return tmp_path


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_programs_run_and_write_nothing_to_stderr(
    run_python: RunPython, home: Path, program: Block
) -> None:
    done = run_python(program.code)
    assert done.returncode == 0, done.stderr
    own = [line for line in done.stderr.splitlines() if "everything else goes" not in line]
    assert own == []


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_tests_of_the_pages_pass(run_tests: RunTests, test: Block) -> None:
    run_tests(test.code).assert_outcomes(passed=1)


def test_quick_start_exports_its_events(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    assert run_python(QUICK_START).returncode == 0
    prompt, result = receiver.wait_for(2)
    assert prompt.attributes["prompt"] == "[REDACTED]"
    assert prompt.attributes["app.version"] == "1.2.3"
    assert result.attributes["success"] == "true"
    assert prompt.resource["env"] == "staging"


def test_conversation_is_on_the_events_of_both_threads(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    threads = block("python", "import threading")
    setup = QUICK_START[: QUICK_START.index("with Conversation")]
    assert run_python(setup + threads).returncode == 0
    for event in receiver.wait_for(2):
        assert event.attributes["conversation.id"] == "conversation-1"
        assert event.attributes["auth_mode"] == "ApiKey"


@pytest.mark.parametrize("toml", blocks("toml"), ids=str)
def test_settings_of_the_pages_are_valid(toml: Block) -> None:
    config = OtelConfig.from_table(loads(toml.code)["otel"], environ={"OTLP_TOKEN": "t"})
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
"""The exporters that Codex CLI 0.169.0 accepts; it does not start with any other."""


@pytest.mark.parametrize("toml", blocks("toml"), ids=str)
def test_codex_accepts_every_table(toml: Block) -> None:
    jsonschema.validate(loads(toml.code), CODEX_REQUIRES)


@pytest.mark.parametrize(
    "exporter", ["otlp-http", {"otlp-http": {"endpoint": "http://c/v1/logs"}}, {"otlp-grpc": {}}]
)
def test_codex_rejects_exporters_that_only_this_package_accepts(exporter: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"otel": {"exporter": exporter}}, CODEX_REQUIRES)


def test_codex_accepts_the_settings_that_listen_prints() -> None:
    lines = list(views.how_to_send(["http://127.0.0.1:4318/v1/logs", "http://127.0.0.1:4317"]))
    toml = "\n".join(lines[lines.index("[otel.exporter.otlp-http]") :])
    jsonschema.validate(loads(toml), CODEX_REQUIRES)


def test_reserved_names_are_those_of_logging() -> None:
    text = page("events").partition("<!-- reserved -->")[2].partition("<!-- end of reserved -->")[0]
    names = set(re.findall(r"`(\w+)`", text))
    record = logging.makeLogRecord({})
    assert names == {*vars(record), "message", "asctime", "taskName"}
    logger = logging.getLogger("codex_otel.reserved")
    for name in names & {*vars(record), "message", "asctime"}:
        with pytest.raises(KeyError):
            logger.error("codex.turn_ttft", extra={name: "shell"})


@pytest.mark.parametrize(("path", "name"), generated.TABLES)
def test_tables_equal_those_generated_from_the_code(path: str, name: str) -> None:
    """If this fails, run `python -m support.generated` in `tests`."""
    assert generated.replace(PAGES[path], name, generated.TABLES[path, name]()) == PAGES[path]


def test_extras_table_lists_every_extra() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"^\| `codex_otel_logging\[([\w-]+)\]`", page("settings"), re.MULTILINE)
    assert named == list(setup["options.extras_require"])


def test_commands_table_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = re.findall(r"^    (\w+) ", capsys.readouterr().err, re.MULTILINE)
    rows = re.findall(r"^\| `codex-otel-logging (\w+)` \|", page("commands"), re.MULTILINE)
    assert rows == listed


EXTRAS = configparser.ConfigParser()
EXTRAS.read(ROOT / "setup.cfg")


@pytest.mark.parametrize("shell", blocks("sh"), ids=str)
def test_commands_of_the_pages_exist(shell: Block) -> None:
    """Commands exist, and take the options; what pip installs is this package with its extras."""
    for line in shell.code.splitlines():
        for command in re.split(r" && | \| | > .*", line):
            if command:
                check_command(shlex.split(command))


def check_command(words: list[str]) -> None:
    program, *arguments = [word.removeprefix(".venv/bin/") for word in words]
    if program == "codex-otel-logging":
        assert "run" in build_parser(program).parse_args(arguments)
    elif program == "pip":
        command, *packages = arguments
        assert command == "install"
        for package in packages:
            if package != "--quiet":
                match = re.fullmatch(r"\.\[([\w,-]+)\]", package)
                assert match, package
                extras = EXTRAS["options.extras_require"]
                assert all(extra in extras for extra in match[1].split(","))
    elif program.startswith("python") and arguments[0] == "-m":
        assert arguments in (["-m", "venv", ".venv"], ["-m", "pytest", "--quiet"]), arguments
    elif program.startswith("python"):
        code = (ROOT / arguments[0]).read_text(encoding="utf-8")
        assert all(f'"{option}"' in code for option in arguments[1:])
    else:
        pytest.fail(f"{program}: no test checks this command")


INLINE_COMMANDS = {
    (path, command)
    for path, text in PAGES.items()
    for command in re.findall(r"`(?:\.venv/bin/)?codex-otel-logging( [^`]*)`", text)
}


@pytest.mark.parametrize(("path", "command"), sorted(INLINE_COMMANDS))
def test_commands_in_sentences_exist(path: str, command: str) -> None:
    if not re.search(r"[A-Z]{4}", command):  # a placeholder, such as TOPIC
        assert "run" in build_parser("codex-otel-logging").parse_args(shlex.split(command))


def test_readme_shows_figures_of_the_benchmarks() -> None:
    _, _, section = README.partition("\n## Performance\n")
    rows = re.findall(r"^\| (?!handler).*?\|(.*)\|$", section.partition("\n## ")[0], re.MULTILINE)
    figures = [cell for row in rows for cell in re.findall(r"[\d.,]+", row)]
    assert len(figures) == 5
    assert [each for each in figures if f"| {each} |" not in page("benchmarks")] == []


@pytest.mark.parametrize("ini", blocks("ini"), ids=str)
def test_ini_files_of_the_pages_are_valid(
    ini: Block, run_tests: RunTests, pytester: pytest.Pytester
) -> None:
    """One with `[logging]` sections is a recipe's; the others are pytest's."""
    parser = configparser.RawConfigParser()
    parser.read_string(ini.code)
    if "logger_codex_otel" in parser:
        return
    assert parser.sections() == ["pytest"]
    pytester.makeini(ini.code)
    run_tests("def test(): pass", "--strict-config").assert_outcomes(passed=1)


LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_to_existing_pages_and_headings(path: str) -> None:
    for target in LINK.findall(PAGES[path]):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            found = (ROOT / path).parent.joinpath(file).resolve() if file else ROOT / path
            assert found.is_file(), target
            if anchor:
                assert anchor in anchors(found.read_text(encoding="utf-8")), target


def test_readme_links_to_every_page() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(README)}
    assert PAGES.keys() - {"README.md"} <= linked


CHECKED: dict[str, Callable[..., None] | str] = {
    "python": test_programs_run_and_write_nothing_to_stderr,
    "toml": test_settings_of_the_pages_are_valid,
    "sh": test_commands_of_the_pages_exist,
    "ini": test_ini_files_of_the_pages_are_valid,
    "text": "test_page_outputs.py",
    "console": "test_page_outputs.py",
    "mermaid": "test_worker.py",
}
"""For each language, the test here or the module that executes or checks its blocks.

`test_tests_of_the_pages_pass` runs the tests in `python` blocks, `test_recipes.py` the files of
recipes.
"""


@pytest.mark.parametrize("each", BLOCKS, ids=str)
def test_every_block_is_executed_or_checked(each: Block) -> None:
    """A block in another language needs a test of its own, and a line in the table above."""
    assert each.file is not None or each.language in CHECKED
