"""`docs` prints the pages that the package ships."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from codex_otel_logging.__main__ import main
from codex_otel_logging.cli import docs
from support.commands import Command, needs_rich
from support.environments import make_environment
from support.fixtures import RunPython
from support.pages import DOCS, page
from support.paths import ROOT

TOPICS = sorted(path.stem for path in DOCS.glob("*.md"))


def test_lists_topics_with_the_first_sentence_of_each_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["docs"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["topic", "description"]
    rows = [line.split("  ", 1) for line in lines]
    assert [topic for topic, _ in rows] == TOPICS
    for topic, description in rows:
        assert page(topic).splitlines()[2] == description.strip()


@pytest.mark.parametrize("topic", TOPICS)
def test_every_page_begins_with_a_title_and_one_line_of_description(topic: str) -> None:
    title, blank, description, rest = page(topic).split("\n", 3)
    assert re.fullmatch("# [A-Z][a-z]+", title)
    assert blank == ""
    assert description.endswith((".", "?"))
    assert len(description) <= 100
    assert rest.startswith("\n")


@pytest.mark.parametrize("topic", TOPICS)
def test_prints_a_page_as_markdown_in_a_pipe(
    capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    assert main(["docs", topic]) == 0
    assert capsys.readouterr().out == page(topic)


@needs_rich
@pytest.mark.parametrize("topic", TOPICS)
def test_renders_a_page_on_a_terminal_with_rich(tmp_path: Path, topic: str) -> None:
    with Command("docs", topic, home=tmp_path, columns=80, NO_COLOR="1") as command:
        assert command.wait() == 0
        assert command.errors == ""
        lines = re.sub(r"\x1b\[[\d;]*m", "", command.output).splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if re.match(r"```|#+ |<!--", line)]
    title = page(topic).partition("\n")[0].removeprefix("# ")
    assert title in [line.strip(" ┃│║") for line in lines]


def test_prints_markdown_on_a_terminal_without_rich(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["rich"] = None
from codex_otel_logging.__main__ import main
sys.exit(main())
"""
    with Command("docs", "privacy", program=program, home=tmp_path, columns=80) as command:
        assert command.wait() == 0
        assert command.output == page("privacy")


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("setings", "; did you mean 'settings'?"),
        ("settings.md", "; did you mean 'settings'?"),
        ("x", f"; expected one of {', '.join(TOPICS)}"),
        ("../../README", f"; expected one of {', '.join(TOPICS)}"),
    ],
)
def test_unknown_topic_is_an_error_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], topic: str, hint: str
) -> None:
    assert main(["docs", topic]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"unknown topic {topic!r}{hint}\n"


def test_help_names_the_argument_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["docs", "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: codex-otel-logging docs [-h] [TOPIC]")
    assert "2 for an unknown topic or an invalid command line" in shown


def test_docs_command_needs_no_extra(run_python: RunPython, tmp_path: Path) -> None:
    core = str(make_environment(tmp_path / "core"))
    program = "from codex_otel_logging.__main__ import main; main(['docs', 'settings'])"
    done = run_python(program, python=core, PYTHONPATH="")
    assert (done.stdout, done.stderr) == (page("settings"), "")


def test_reads_pages_from_a_zip_archive(run_python: RunPython, tmp_path: Path) -> None:
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in (ROOT / "codex_otel_logging").rglob("*"):
            if path.suffix in (".py", ".md"):
                packed.write(path, path.relative_to(ROOT))
    program = "from codex_otel_logging.__main__ import main; main(['docs', 'privacy'])"
    done = run_python(program, PYTHONPATH=str(archive))
    assert (done.stdout, done.stderr) == (page("privacy"), "")


def test_descriptions_may_wrap_in_the_page() -> None:
    assert docs.description_of("# Title\n\nOne\ntwo.\n\nThree.\n") == "One two."
    assert docs.description_of("no title") == ""
