"""README and the pages: their programs run, their tables and outputs are the package's own."""

from __future__ import annotations

import configparser
import json
import logging
import re
import shlex
import shutil
from pathlib import Path

import jsonschema
import pytest

from codex_otel_logging import OtelConfig, Receiver
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli.listen import json_view, summaries, views
from codex_otel_logging.cli.main import build_parser
from codex_otel_logging.config.schema import schema
from codex_otel_logging.config.toml import loads
from support import generated
from support.commands import Command
from support.fixtures import RunPython, RunTests
from support.pages import BLOCKS, PAGES, README, Block, block, blocks, page
from support.paths import ROOT

TESTS = [each for each in blocks("python") if "\ndef test_" in each.code]
PROGRAMS = [each for each in blocks("python") if each not in TESTS]

QUICK_START = block("python", 'app_version="1.2.3"')


@pytest.fixture
def home(tmp_path: Path, receiver: Receiver) -> Path:
    """A home whose settings files are the quick start's, with the receiver as the collector."""
    settings = block("toml", "localhost:4318")
    (tmp_path / ".codex").mkdir()
    for file in (tmp_path / ".codex" / "config.toml", tmp_path / "otel.toml"):
        file.write_text(settings.replace("http://localhost:4318/v1/logs", receiver.http_endpoint))
    shutil.copy(ROOT / "logging.ini", tmp_path)
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
def test_tests_pass(run_tests: RunTests, test: Block) -> None:
    run_tests(test.code).assert_outcomes(passed=1)


def test_the_quick_start_delivers(run_python: RunPython, home: Path, receiver: Receiver) -> None:
    assert run_python(QUICK_START).returncode == 0
    prompt, result = receiver.wait_for(2)
    assert prompt.attributes["prompt"] == "[REDACTED]"
    assert prompt.attributes["app.version"] == "1.2.3"
    assert result.attributes["success"] == "true"
    assert prompt.resource["env"] == "staging"


def test_the_conversation_reaches_both_threads(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    threads = block("python", "import threading")
    setup = QUICK_START[: QUICK_START.index("with Conversation")]
    assert run_python(setup + threads).returncode == 0
    for event in receiver.wait_for(2):
        assert event.attributes["conversation.id"] == "conversation-1"
        assert event.attributes["auth_mode"] == "ApiKey"


@pytest.mark.parametrize("toml", blocks("toml"), ids=str)
def test_settings_parse(toml: Block) -> None:
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
"""What Codex CLI 0.169.0 refuses to start without; it knows no bare names but these."""


@pytest.mark.parametrize("toml", blocks("toml"), ids=str)
def test_codex_starts_with_every_table(toml: Block) -> None:
    jsonschema.validate(loads(toml.code), CODEX_REQUIRES)


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
    text = page("events").partition("<!-- reserved -->")[2].partition("<!-- end of reserved -->")[0]
    names = set(re.findall(r"`(\w+)`", text))
    record = logging.makeLogRecord({})
    assert names == {*vars(record), "message", "asctime", "taskName"}
    logger = logging.getLogger("codex_otel.reserved")
    for name in names & {*vars(record), "message", "asctime"}:
        with pytest.raises(KeyError):
            logger.error("codex.turn_ttft", extra={name: "shell"})


def test_a_fault_is_printed_with_its_place(run_python: RunPython, home: Path) -> None:
    shown = block("text", "did you mean 'otlp-http'")
    assert run_python(block("python", "__cause__")).stdout == shown


@pytest.mark.parametrize(("path", "name"), generated.TABLES)
def test_tables_are_those_the_code_generates(path: str, name: str) -> None:
    """If not, `python -m tests.support.generated` writes them again."""
    assert generated.replace(PAGES[path], name, generated.TABLES[path, name]()) == PAGES[path]


def test_the_extras_table_names_every_extra() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"^\| `codex_otel_logging\[([\w-]+)\]`", page("settings"), re.MULTILINE)
    assert named == list(setup["options.extras_require"])


def test_the_commands_table_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = re.findall(r"^    (\w+) ", capsys.readouterr().err, re.MULTILINE)
    rows = re.findall(r"^\| `codex-otel-logging (\w+)` \|", page("commands"), re.MULTILINE)
    assert rows == listed


def test_the_demos_output_is_what_the_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """But for times, the SDK's version, how wide the terminal was, and lines left out (`...`)."""
    from codex_otel_logging.cli import demo

    def comparable(text: str) -> list[str]:
        text = re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
        text = re.sub(r"(telemetry.sdk.version = |timestamp = ).*", "", text)
        return [line[:70].rstrip(".") for line in text.splitlines()]

    assert demo.run(["http", "grpc"]) == 0
    printed = comparable(capsys.readouterr().out)
    shown = [each.code for each in blocks("text") if each.code.startswith("A recorded agent")]
    assert len(shown) == 2
    for text in shown:
        rest = printed
        for part in text.split("\n...\n"):
            lines = comparable(part)
            assert lines in [rest[i : i + len(lines)] for i in range(len(rest))]
            start = next(i for i in range(len(rest)) if rest[i : i + len(lines)] == lines)
            rest = rest[start + len(lines) :]
        assert rest == []


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
    good = block("console", "check --send\n").partition("\n")[2]
    bad = block("console", "check --send | tail").partition("\n")[2]
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
    shown = block("console", "--logging settings:LOGGING")
    arguments = shown.partition("codex-otel-logging ")[2].partition(" | ")[0].split()
    program = "import sys; from codex_otel_logging.__main__ import main; main(sys.argv[1:])"
    printed = run_python(program, *arguments).stdout.splitlines()
    assert printed[-3:] == shown.splitlines()[1:]


def test_the_schema_is_printed_as_said(run_python: RunPython) -> None:
    command = block("sh", "--schema")
    arguments = command.partition("codex-otel-logging ")[2].partition(" > ")[0].split()
    program = "import sys; from codex_otel_logging.__main__ import main; main(sys.argv[1:])"
    assert json.loads(run_python(program, *arguments).stdout) == schema()


def test_the_output_of_listen_is_what_listen_prints(run_python: RunPython, home: Path) -> None:
    """But for times and ports. The quick start sends, with its settings."""

    def comparable(text: str) -> str:
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
        text = re.sub(r"(\d{4}-\d\d-\d\d ?)?\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
        text = re.sub(r"(TIME: ).*", r"\1LASTED", text)
        return re.sub(r"^\d{4}-\d\d-\d\d$", "DAY", text, flags=re.MULTILINE)

    settings = home / "otel.toml"
    with Command("listen", "--http-port", "0", "--grpc-port", "0", home=home) as command:
        port, _ = command.ports()
        toml = re.sub(r"http://[^/]*/", f"http://127.0.0.1:{port}/", settings.read_text())
        settings.write_text(toml)
        assert run_python(QUICK_START, TERM="xterm").returncode == 0
        command.read_until("tool_result.*\n")
        assert command.end() == 0
        printed = command.output
    shown = block("text", "Listening for events")
    assert comparable(shown) == comparable(printed)


def test_the_quick_start_shows_what_listen_prints_on_a_terminal(
    run_python: RunPython, home: Path
) -> None:
    """But for times, at 80 columns and without milliseconds."""
    settings = home / "otel.toml"
    arguments = ("listen", "--http-port", "0", "--grpc-port", "0")
    with Command(*arguments, home=home, columns=80, NO_COLOR="1") as command:
        port, _ = command.ports()
        toml = re.sub(r"http://[^/]*/", f"http://127.0.0.1:{port}/", settings.read_text())
        settings.write_text(toml)
        assert run_python(QUICK_START, TERM="xterm").returncode == 0
        command.read_until("tool_result.*\n")
        assert command.end() == 0
        # The status line is erased before each of the others is printed.
        printed = re.sub(r"[^\n]*\x1b\[2K", "", command.output)
        printed = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", printed)
    shown = block("text", "new conversation conversation.id")

    def comparable(text: str) -> str:
        return re.sub(r"\d\d:\d\d:\d\d", "TIME", text)

    assert comparable(shown) in comparable(printed)


def test_the_keys_of_a_json_line_are_named(receiver: Receiver) -> None:
    section = page("commands").partition("## listen\n")[2].partition("\n## ")[0]
    keys = [*summaries.ConversationSummary("", 0).as_json(), *json_view.EVENT_KEYS]
    assert [key for key in keys if f"`{key}`" not in section] == []


OUTPUTS = {
    "[otel] exporter: expected": "test_a_fault_is_printed_with_its_place",
    "new conversation": "test_the_quick_start_shows_what_listen_prints_on_a_terminal",
    "A recorded agent session": "test_the_demos_output_is_what_the_demo_prints",
    "Listening for events": "test_the_output_of_listen_is_what_listen_prints",
    "POST /v1/traces": "cli/test_refused_requests.py",
    "$ codex-otel-logging check --send": "test_the_output_of_check_is_what_it_prints",
    "$ codex-otel-logging check --logging": "test_the_output_of_check_logging_is_what_it_prints",
}
"""For a part of the first line of each block of output: what compares it with the real one.

That is a test of this module, or another module of tests that reads the page.
"""

READS_A_PAGE = re.compile(r'page\("\w+"\)|docs/\w+\.md')


def checked_by(block: Block) -> str:
    """Return what executes or checks a block, or nothing."""
    if block.file is not None:
        return "system/test_recipes.py"
    if block.language in ("text", "console"):
        first = block.code.partition("\n")[0]
        return next((test for part, test in OUTPUTS.items() if part in first), "")
    if block.language == "python":
        return (
            "test_tests_pass" if block in TESTS else "test_programs_run_and_write_nothing_to_stderr"
        )
    return {
        "toml": "test_settings_parse",
        "sh": "test_commands_are_right",
        "ini": "test_ini_files_are_right",
        "mermaid": "delivery/test_worker.py",
    }.get(block.language, "")


@pytest.mark.parametrize("each", BLOCKS, ids=str)
def test_every_block_is_executed_or_checked(each: Block) -> None:
    test = checked_by(each)
    if test.endswith(".py") and each.file is None:
        assert READS_A_PAGE.search((ROOT / "tests" / test).read_text(encoding="utf-8"))
    elif each.file is None:
        assert test in globals(), each.code


EXTRAS = configparser.ConfigParser()
EXTRAS.read(ROOT / "setup.cfg")


@pytest.mark.parametrize("shell", blocks("sh"), ids=str)
def test_commands_are_right(shell: Block) -> None:
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
    for command in re.findall(r"`codex-otel-logging( [^`]*)`", text)
}


@pytest.mark.parametrize(("path", "command"), sorted(INLINE_COMMANDS))
def test_commands_in_sentences_are_right(path: str, command: str) -> None:
    if not re.search(r"[A-Z]{4}", command):  # a placeholder, such as TOPIC
        assert "run" in build_parser("codex-otel-logging").parse_args(shlex.split(command))


def test_readme_shows_figures_of_the_benchmarks() -> None:
    _, _, section = README.partition("\n## Performance\n")
    rows = re.findall(r"^\| (?!handler).*?\|(.*)\|$", section.partition("\n## ")[0], re.MULTILINE)
    figures = [cell for row in rows for cell in re.findall(r"[\d.,]+", row)]
    assert len(figures) == 5
    assert [each for each in figures if f"| {each} |" not in page("benchmarks")] == []


@pytest.mark.parametrize("ini", blocks("ini"), ids=str)
def test_ini_files_are_right(ini: Block, run_tests: RunTests, pytester: pytest.Pytester) -> None:
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
def test_links_lead_to_pages_and_headings(path: str) -> None:
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
