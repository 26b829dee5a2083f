"""Compares the outputs that README and the pages show with what the commands print."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from codex_otel_logging import Receiver
from codex_otel_logging.cli import demo
from codex_otel_logging.cli.listen import json_view, summaries
from codex_otel_logging.config.schema import schema
from support.commands import Command
from support.fixtures import RunPython
from support.leftovers import Application
from support.pages import BLOCKS, QUICK_START, Block, block, blocks, lay_out_quick_start, page

MAIN = "import sys; from codex_otel_logging.__main__ import main; main(sys.argv[1:])"
LISTEN = ("listen", "--http-port", "0", "--grpc-port", "0")


@pytest.fixture
def home(tmp_path: Path, receiver: Receiver) -> Path:
    """A home that the quick start can run in, with the receiver as its collector."""
    lay_out_quick_start(tmp_path, receiver.http_endpoint)
    return tmp_path


def test_config_error_is_printed_as_the_page_shows(run_python: RunPython, home: Path) -> None:
    shown = block("text", "did you mean 'otlp-http'")
    assert run_python(block("python", "__cause__")).stdout == shown


def test_demo_prints_what_the_pages_show(capsys: pytest.CaptureFixture[str]) -> None:
    """Except times, the SDK's version, the ends of long lines, and lines that a page elides."""

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
            found = [i for i in range(len(rest)) if rest[i : i + len(lines)] == lines]
            assert found, part
            rest = rest[found[0] + len(lines) :]
        assert rest == []


def check_output(run_python: RunPython, receiver: Receiver) -> list[str]:
    """Return what `check --send` prints, as if the collector had its usual port."""
    output = run_python(MAIN, "check", "--send").stdout
    port = receiver.http_endpoint.rpartition(":")[2].partition("/")[0]
    return comparable_check(re.sub(rf"\b{port}\b", "4318", output))


def comparable_check(text: str) -> list[str]:
    text = re.sub(r" +[\d.]+ ms ", " TIME ", text)
    text = re.sub(r"check-[0-9a-f-]{36}", "ID", text)
    text = re.sub(r"localhost is .*|connected to .*,", "ADDRESS", text)
    return [re.sub("  +", "  ", line) for line in text.splitlines()]


def test_check_send_prints_what_the_page_shows(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    settings = home / ".codex" / "config.toml"
    settings.write_text(settings.read_text().replace("127.0.0.1", "localhost"))
    good = block("console", "check --send\n").partition("\n")[2]
    bad = block("console", "check --send | tail").partition("\n")[2]
    assert check_output(run_python, receiver) == comparable_check(good)
    receiver.close()
    with socket.socket() as reserved:  # another program could get the port, and listen
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", urlsplit(receiver.http_endpoint).port))
        assert check_output(run_python, receiver)[-4:] == comparable_check(bad)


def test_check_logging_prints_what_the_page_shows(run_python: RunPython, home: Path) -> None:
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
    printed = run_python(MAIN, *arguments).stdout.splitlines()
    assert printed[-3:] == shown.splitlines()[1:]


def test_check_schema_prints_the_schema(run_python: RunPython) -> None:
    command = block("sh", "--schema")
    arguments = command.partition("codex-otel-logging ")[2].partition(" > ")[0].split()
    assert json.loads(run_python(MAIN, *arguments).stdout) == schema()


def add_spool(settings: Path) -> None:
    settings.write_text(f'{settings.read_text()}\n[otel.spool]\npath = "spool"\n')


def test_spool_file_looks_as_the_page_shows(run_python: RunPython, home: Path) -> None:
    """Except checksums, times, the id of the owner, and the ends of lines."""

    def comparable(text: str) -> list[str]:
        text = re.sub(r"[0-9a-f]{8}$|^[0-9a-f]{8}", "CRC", text, flags=re.MULTILINE)
        text = re.sub(r'"owner": "[0-9a-f]{16}"', "OWNER", text)
        text = re.sub(r'("created"|"observed_ns"):[\d.]+', r"\1:TIME", text)
        text = re.sub(r"http://[\w.]+:\d+", "ADDRESS", text)
        return text.splitlines()

    shown = comparable(block("text", "codex-otel-spool 1"))
    add_spool(home / "otel.toml")
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_python(f"{QUICK_START}\n{kill}").returncode == -signal.SIGKILL
    (file,) = (home / "spool").iterdir()
    written = comparable(file.read_text())
    assert len(written) == len(shown)
    for line, part in zip(written, shown, strict=True):
        beginning = part.removesuffix("...")
        assert line[: len(beginning)] == beginning
        assert (line == part) != part.endswith("...")


def test_drain_and_check_print_what_the_page_shows_of_a_spool(
    run_python: RunPython, home: Path, receiver: Receiver
) -> None:
    """Except addresses, sizes and ages."""

    def comparable(text: str) -> list[str]:
        text = re.sub(r"http://[\w.]+:\d+", "ADDRESS", text)
        text = re.sub(r"[\d,]+  \d+ (s|min) *$", "SIZE AGE", text, flags=re.MULTILINE)
        text = re.sub(r"[\d,]+ of at most", "SIZE of at most", text)
        text = text.replace(str(home / ".codex"), "/home/agent")
        return [re.sub("  +", "  ", line) for line in text.splitlines()]

    def printed(shown: str) -> str:
        text = ""
        for line in re.findall(r"^\$ .*$", shown, re.MULTILINE):
            command, _, tail = line.removeprefix("$ codex-otel-logging ").partition(" | tail -n ")
            lines = run_python(MAIN, *command.split()).stdout.splitlines(keepends=True)
            text += f"{line}\n{''.join(lines[-int(tail or 0) :])}"
        return text

    def leave() -> None:
        for count in (25, 12):
            Application(home).leave(settings, count)

    settings = home / ".codex" / "config.toml"
    add_spool(settings)
    leave()
    for part in ("check | tail -n 6", "drain --list"):
        shown = block("console", part)
        assert comparable(printed(shown)) == comparable(shown)
    leave()
    shown = block("console", "drain --discard")
    assert comparable(printed(shown)) == comparable(shown)


def point_at_port(settings: Path, port: int) -> None:
    text = settings.read_text()
    settings.write_text(re.sub(r"http://[^/]*/", f"http://127.0.0.1:{port}/", text))


def test_listen_prints_what_the_page_shows(run_python: RunPython, home: Path) -> None:
    """Except times and ports. The program of the quick start sends the events."""

    def comparable(text: str) -> str:
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
        text = re.sub(r"(\d{4}-\d\d-\d\d ?)?\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
        text = re.sub(r"(TIME: ).*", r"\1LASTED", text)
        return re.sub(r"^\d{4}-\d\d-\d\d$", "DAY", text, flags=re.MULTILINE)

    with Command(*LISTEN, home=home) as command:
        point_at_port(home / "otel.toml", command.ports()[0])
        assert run_python(QUICK_START, TERM="xterm").returncode == 0
        command.read_until("tool_result.*\n")
        assert command.end() == 0
        printed = command.output
    shown = block("text", "Listening for events")
    assert comparable(shown) == comparable(printed)


def test_listen_prints_on_a_terminal_what_the_quick_start_shows(
    run_python: RunPython, home: Path
) -> None:
    """Except times. At 80 columns they have no milliseconds."""
    with Command(*LISTEN, home=home, columns=80, NO_COLOR="1") as command:
        point_at_port(home / "otel.toml", command.ports()[0])
        assert run_python(QUICK_START, TERM="xterm").returncode == 0
        command.read_until("tool_result.*\n")
        assert command.end() == 0
        # The status line is erased and printed again around every other line.
        printed = re.sub(r"[^\n]*\x1b\[2K", "", command.output)
        printed = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", printed)
    shown = block("text", "new conversation conversation.id")

    def comparable(text: str) -> str:
        return re.sub(r"\d\d:\d\d:\d\d", "TIME", text)

    assert comparable(shown) in comparable(printed)


def test_page_lists_the_keys_of_listen_json() -> None:
    section = page("commands").partition("## listen\n")[2].partition("\n## ")[0]
    keys = [*summaries.ConversationSummary("", 0).as_json(), *json_view.EVENT_KEYS]
    assert [key for key in keys if f"`{key}`" not in section] == []


OUTPUTS: dict[str, Callable[..., None] | str] = {
    "[otel] exporter: expected": test_config_error_is_printed_as_the_page_shows,
    "new conversation": test_listen_prints_on_a_terminal_what_the_quick_start_shows,
    "A recorded agent session": test_demo_prints_what_the_pages_show,
    "Listening for events": test_listen_prints_what_the_page_shows,
    "codex-otel-spool 1": test_spool_file_looks_as_the_page_shows,
    "$ codex-otel-logging drain": test_drain_and_check_print_what_the_page_shows_of_a_spool,
    "$ codex-otel-logging check | tail": test_drain_and_check_print_what_the_page_shows_of_a_spool,
    "POST /v1/traces": "test_refused_requests.py",
    "$ codex-otel-logging check --send": test_check_send_prints_what_the_page_shows,
    "$ codex-otel-logging check --logging": test_check_logging_prints_what_the_page_shows,
}
"""For a part of the first line of each block of output, what compares it with the real output."""


@pytest.mark.parametrize(
    "each", [each for each in BLOCKS if each.language in ("text", "console")], ids=str
)
def test_every_output_is_compared(each: Block) -> None:
    """A block that is not in the table above needs a test of its own."""
    first = each.code.partition("\n")[0]
    assert sum(part in first for part in OUTPUTS) == 1, first
