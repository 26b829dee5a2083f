"""Covers what `check` says about the spool: path, size, leftovers, obstacles."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging.__main__ import main
from codex_otel_logging.delivery.spool import disk
from support.commands import Command, needs_rich
from support.leftovers import Application

pytestmark = pytest.mark.processes

ENDPOINTS = ["http://a.example.com:4318/v1/logs", "http://b.example.com:4318/v1/logs"]
MAX_BYTES = 512 << 20


@pytest.fixture
def application(tmp_path: Path) -> Application:
    application = Application(tmp_path)
    application.configure(ENDPOINTS[0])
    return application


@pytest.fixture
def with_leftovers(application: Application) -> Application:
    for endpoint in ENDPOINTS:
        application.configure(endpoint)
        application.die(2)
        application.die(3)
    return application


def printed(application: Application, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines about the spool."""
    assert main(["check", str(application.settings)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = [index for index, line in enumerate(lines) if line.startswith("Spool: ")]
    return lines[first:]


def spool_of(application: Application, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["check", str(application.settings), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["spool"]


def test_directory_that_is_not_there_yet_is_not_created(
    application: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"Spool: {application.spool}, created at the first event."
    assert printed(application, capsys) == [line]
    assert spool_of(application, capsys) == {
        "path": str(application.spool),
        "exists": False,
        "bytes": 0,
        "max_bytes": MAX_BYTES,
        "files": [],
        "problem": None,
    }
    assert not application.spool.exists()


def test_leftovers_are_shown_by_destination_and_age(
    with_leftovers: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    size = sum(file.stat().st_size for file in with_leftovers.spool.iterdir())
    lines = printed(with_leftovers, capsys)
    assert lines[0] == (
        f"Spool: {with_leftovers.spool}, {size:,} of at most {MAX_BYTES:,} bytes in 4 files."
    )
    rows = [re.split("  +", line) for line in lines[2:5]]
    assert [row[:4] for row in rows] == [
        ["state", "destination", "files", "events"],
        *(["left", f"otlp-http {endpoint}", "2", "5"] for endpoint in ENDPOINTS),
    ]
    assert all(re.fullmatch(r"\d+ s", row[5]) for row in rows[1:])
    assert lines[6:] == [
        "Leftover events are exported by the next process that logs, or by: "
        f"codex-otel-logging drain {with_leftovers.settings}",
        "To export events for another destination to this one, run: "
        f"codex-otel-logging drain --redirect {with_leftovers.settings}",
    ]
    found = spool_of(with_leftovers, capsys)
    assert (found["bytes"], found["problem"]) == (size, None)
    assert [(each["destination"], each["events"]) for each in found["files"]] == [
        (f"otlp-http {endpoint}", 5) for endpoint in ENDPOINTS
    ]


def test_advice_names_what_exports_the_leftovers(
    application: Application,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next process that logs leaves the events of another destination alone."""
    application.die(2)
    advice = "Leftover events are exported by the next process that logs, or by: "
    settings = application.settings.rename(application.folder / "my settings.toml")
    assert main(["check", str(settings)]) == 0
    assert capsys.readouterr().out.endswith(f"{advice}codex-otel-logging drain '{settings}'\n")

    default = settings.rename(application.folder / "config.toml")
    monkeypatch.setenv("CODEX_HOME", str(application.folder))
    assert main(["check"]) == 0
    assert capsys.readouterr().out.endswith(f"{advice}codex-otel-logging drain\n")

    default.rename(application.settings)
    application.configure(ENDPOINTS[1])
    assert printed(application, capsys)[5:] == [
        "To export events for another destination to this one, run: "
        f"codex-otel-logging drain --redirect {application.settings}"
    ]
    application.settings.write_text("[otel.spool]\npath = 'spool'\n")
    assert printed(application, capsys)[5:] == []


@needs_rich
def test_spool_fits_a_terminal(with_leftovers: Application) -> None:
    arguments = ("check", str(with_leftovers.settings))
    with Command(*arguments, home=with_leftovers.folder, columns=80) as running:
        assert running.wait() == 0
        lines = re.sub(r"\x1b\[[\d;]*m", "", running.output).splitlines()
    shown = lines[[line.startswith("Spool: ") for line in lines].index(True) + 1 :]
    assert max(map(len, shown)) <= 80


def problem(application: Application, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what keeps the spool from working; it is the same in the text and the object."""
    found: str = spool_of(application, capsys)["problem"]
    warning = f"Warning: {found}; events are kept in memory only."
    assert printed(application, capsys)[1] == warning
    return found


class TestProblems:
    def test_directory_that_is_not_writable(
        self,
        application: Application,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        application.spool.mkdir(0o700)
        monkeypatch.setattr(os, "access", lambda path, mode: path != str(application.spool))
        assert problem(application, capsys) == "the directory is not writable"

    def test_parent_that_is_not_writable(
        self,
        application: Application,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        text = application.settings.read_text()
        application.settings.write_text(text.replace('"spool"', '"a/b/spool"'))
        monkeypatch.setattr(os, "access", lambda path, mode: path != str(application.folder))
        parent = application.folder
        assert problem(application, capsys) == f"cannot be created: {parent} is not writable"

    def test_directory_that_is_full(
        self, with_leftovers: Application, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = with_leftovers.settings.read_text()
        with_leftovers.settings.write_text(text.replace('"spool"', '"spool"\nmax_bytes = 1000'))
        size = sum(file.stat().st_size for file in with_leftovers.spool.iterdir())
        assert problem(with_leftovers, capsys) == f"full: {size:,} bytes of max_bytes = 1,000"

    def test_platform_without_locks(
        self,
        with_leftovers: Application,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(disk, "fcntl", None)
        assert problem(with_leftovers, capsys) == "not supported on this platform"

    def test_directory_that_cannot_be_read(
        self,
        with_leftovers: Application,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(path: str) -> list[str]:
            raise OSError(5, "Input/output error", path)

        monkeypatch.setattr(disk, "names", fail)
        text = "the directory cannot be read: Input/output error"
        assert problem(with_leftovers, capsys) == text
