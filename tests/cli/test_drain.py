"""Covers `drain`: exporting and listing what killed processes left, its statuses, its limits."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from codex_otel_logging.__main__ import main
from codex_otel_logging.cli import console, leftovers
from codex_otel_logging.cli import drain as command
from codex_otel_logging.delivery.sender import BACKOFF_S
from codex_otel_logging.delivery.spool import discarding, disk, draining
from codex_otel_logging.receiver import ReceivedRequest, events_of
from support.collectors import OK, HttpCollector, Reply, Unless
from support.commands import Command, needs_rich
from support.fixtures import Scripted
from support.leftovers import BATCH, Application, numbers
from support.paths import PROGRAMS, ROOT

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

NOTHING_LEFT, LEFT, INVALID = 0, 1, 2


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(tmp_path)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes `drain` wait for nothing; returns how long it would have waited, each time."""
    waits: list[float] = []
    monkeypatch.setattr(draining, "sleep", waits.append)
    return waits


Drain = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def drain(application: Application, capsys: pytest.CaptureFixture[str]) -> Drain:
    """Runs the command with the application's settings; returns its status and its lines."""

    def drain(*options: str) -> tuple[int, list[str]]:
        status = main(["drain", str(application.settings), *options])
        captured = capsys.readouterr()
        return status, (captured.out + captured.err).splitlines()

    return drain


@pytest.mark.parametrize("transport", ["binary", "json", "grpc"])
def test_events_of_killed_processes_are_exported_as_these_logged_them(
    application: Application, receiver: Receiver, drain: Drain, transport: str
) -> None:
    if transport == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    if transport == "grpc":
        application.configure(receiver.grpc_endpoint, name="otlp-grpc")
    else:
        application.configure(receiver.http_endpoint, protocol=transport)
    application.die(25, 0, "1.0")
    application.die(12, 25, "2.0")
    status, lines = drain()
    assert status == NOTHING_LEFT
    assert lines[-2:] == ["Exported 37 events of 2 processes", "Nothing is left"]
    assert application.files == []
    events = receiver.wait_for(37)
    assert numbers(events) == list(range(37))
    versions = [event.attributes["app.version"] for event in events]
    assert versions == ["1.0"] * 25 + ["2.0"] * 12
    assert [event.resource["service.version"] for event in events] == versions
    assert {event.attributes["prompt"] for event in events} == {"[REDACTED]"}
    assert len(receiver.requests) == 5  # batches of at most `BATCH` events of one process


def test_stricter_redaction_applies_to_events_on_disk(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure(receiver.http_endpoint, prompts=True)
    application.die(1)
    (file,) = application.spool.iterdir()
    assert b"a secret" in file.read_bytes()
    application.configure(receiver.http_endpoint, prompts=False)
    assert drain()[0] == NOTHING_LEFT
    (event,) = receiver.wait_for(1)
    assert event.attributes["prompt"] == "[REDACTED]"


def test_list_shows_what_is_left_and_changes_nothing(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure(receiver.http_endpoint)
    assert drain("--list") == (NOTHING_LEFT, [str(application.spool), "Nothing is left"])
    assert not application.spool.exists()
    application.die(25)
    application.die(12, 25)
    damage_header(newest(application))
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(3)
    (application.spool / "0-a.spool.new").touch()
    (application.spool / "a note").touch()
    before = contents(application)
    status, lines = drain("--list")
    assert status == LEFT
    rows = [re.split("  +", line) for line in lines[2:]]
    size = {name: f"{len(data):,}" for name, data in before.items()}
    first, damaged, last = [name for name in application.files if name.endswith(".spool")]
    assert [row[:5] for row in rows] == [
        ["state", "destination", "files", "events", "bytes"],
        ["left", f"otlp-http {receiver.http_endpoint}", "1", "25", size[first]],
        ["left", "otlp-http http://127.0.0.1:9/v1/logs", "1", "3", size[last]],
        ["damaged", "unknown", "1", "12", size[damaged]],
        ["Left: 40 events in 3 files"],
    ]
    assert all(re.fullmatch(r"\d+ s", row[5]) for row in rows[1:-1])
    assert contents(application) == before
    assert receiver.events == []


@pytest.mark.parametrize(
    ("age_s", "shown"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (86_399, "23 h"), (259_200, "3 d")],
)
def test_ages_are_shown_in_their_largest_unit(
    age_s: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 1_796_073_006_435_333_048
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    assert leftovers.age(now_ns - age_s * 1_000_000_000) == shown


@needs_rich
@pytest.mark.parametrize("columns", [80, 140])
def test_list_fits_a_terminal(application: Application, columns: int) -> None:
    application.configure("http://collector.example.com:4318/a/rather/long/path/v1/logs")
    application.die(2)
    arguments = ("drain", str(application.settings), "--list")
    with Command(*arguments, home=application.folder, columns=columns) as running:
        assert running.wait() == LEFT
        assert "\x1b[1mstate" in running.output
        lines = re.sub(r"\x1b\[[\d;]*m", "", running.output).splitlines()
    assert max(map(len, lines[1:])) <= columns
    assert lines[-1] == "Left: 2 events in 1 file"


def test_events_for_another_destination_are_exported_only_with_redirect(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(3)
    application.configure(receiver.http_endpoint)
    application.die(2, 3)
    status, lines = drain()
    assert status == LEFT
    assert lines[1:] == [
        "events for otlp-http http://127.0.0.1:9/v1/logs are ignored; to export them to "
        f"otlp-http {receiver.http_endpoint}, run: codex-otel-logging drain --redirect [PATH]",
        "Exported 2 events of 1 process",
        "Left: 3 events in 1 file",
    ]
    assert numbers(receiver.wait_for(2)) == [3, 4]
    assert drain("--redirect")[0] == NOTHING_LEFT
    assert numbers(receiver.wait_for(5)) == [3, 4, 0, 1, 2]
    assert application.files == []


def test_files_of_a_newer_format_stay_as_they_are(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure(receiver.http_endpoint)
    application.die(2)
    (file,) = application.spool.iterdir()
    newer = b"codex-otel-spool 2 00000000000000000000 "
    checksum = b"%08x" % zlib.crc32(newer[:-1])
    file.write_bytes(newer + checksum + b"\nsomething else\n")
    before = contents(application)
    status, lines = drain()
    assert status == LEFT
    assert f"{file.name}: written by a newer release; ignored" in lines
    assert lines[-2:] == ["Exported 0 events of 0 processes", "Left: 0 events in 1 file"]
    assert re.split("  +", drain("--list")[1][-2])[0] == "newer format"
    assert contents(application) == before


def test_a_damaged_header_keeps_the_file_and_the_status(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure(receiver.http_endpoint)
    application.die(2)
    file = newest(application)
    damage_header(file)
    application.die(3, 2)
    status, lines = drain()
    assert status == LEFT
    assert f"{file.name}: damaged header; renamed, 2 events not exported" in lines
    assert lines[-2:] == [
        "Exported 3 events of 1 process; 2 events rejected, expired or damaged",
        "Left: 2 events in 1 file",
    ]
    assert application.files == [f"{file.name}.damaged"]
    assert numbers(receiver.wait_for(3)) == [2, 3, 4]
    assert drain()[1][1:] == ["Exported 0 events of 0 processes", "Left: 2 events in 1 file"]
    assert re.split("  +", drain("--list")[1][-2])[:4] == ["damaged", "unknown", "1", "2"]


def test_a_damaged_record_costs_only_itself(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure(receiver.http_endpoint)
    application.die(3)
    file = newest(application)
    file.write_bytes(file.read_bytes().replace(b'"[REDACTED]",1,', b'"[REDACTED]",7,'))
    status, lines = drain()
    assert status == NOTHING_LEFT
    assert lines[1:] == [
        f"{file.name}: 1 damaged record",
        "Exported 2 events of 1 process; 1 event rejected, expired or damaged",
        "Nothing is left",
    ]
    assert numbers(receiver.wait_for(2)) == [0, 2]


def test_links_are_not_followed_and_fifos_not_opened(
    application: Application, receiver: Receiver, drain: Drain, fast: list[float]
) -> None:
    application.configure(receiver.http_endpoint)
    application.die(2)
    file = newest(application)
    moved = application.folder / "elsewhere"
    file.rename(moved)
    file.symlink_to(moved)
    os.mkfifo(application.spool / "0-a.spool")
    status, lines = drain()
    assert status == LEFT
    assert any(line.startswith(f"{file.name}: cannot be read (") for line in lines)
    row = re.split("  +", drain("--list")[1][-2])
    assert row == ["unreadable", "unknown", "2", "0", "0", "unknown"]
    assert receiver.events == []


def test_files_of_running_processes_are_not_touched(
    application: Application, receiver: Receiver, drain: Drain
) -> None:
    application.configure(receiver.http_endpoint)
    program = [sys.executable, str(PROGRAMS / "log_and_wait.py"), str(application.settings)]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(application.folder)}
    with subprocess.Popen(
        program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == b"logged\n"
            before = contents(application)
            status, lines = drain()
            assert status == NOTHING_LEFT
            in_use = "In use by running processes: 3 events in 1 file"
            assert lines[-3:] == ["Exported 0 events of 0 processes", in_use, "Nothing is left"]
            status, lines = drain("--list")
            assert status == NOTHING_LEFT
            assert re.split("  +", lines[-3])[0] == "in use"
            assert contents(application) == before
            assert receiver.events == []
        finally:
            running.kill()


def test_rejected_events_are_counted_and_removed(
    application: Application, scripted: Scripted, drain: Drain
) -> None:
    rejection = Reply(400, code=Reply().code.INVALID_ARGUMENT)
    collector = scripted(Unless(lambda request: bool(request.resource_logs), rejection))
    configure_for(application, collector)
    application.die(2)
    status, lines = drain()
    assert status == NOTHING_LEFT
    assert lines[1].startswith("leftover events rejected: ")
    assert lines[2:] == [
        "Exported 0 events of 0 processes; 2 events rejected, expired or damaged",
        "Nothing is left",
    ]


def test_rejection_without_a_reason_is_reported_as_such(
    application: Application, scripted: Scripted, drain: Drain
) -> None:
    """OTLP does not require a message in a partial success."""
    configure_for(application, scripted(Reply(rejected=1)))
    application.die(2)
    status, lines = drain()
    assert status == NOTHING_LEFT
    assert lines[1:] == [
        "leftover events rejected: no reason given",
        "Exported 1 event of 1 process; 1 event rejected, expired or damaged",
        "Nothing is left",
    ]


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(401, code=Reply().code.UNAUTHENTICATED),
        Reply(400, code=Reply().code.INVALID_ARGUMENT),
    ],
    ids=["credentials", "everything"],
)
def test_refusals_that_are_not_about_the_events_keep_them(
    application: Application, scripted: Scripted, drain: Drain, fast: list[float], refusal: Reply
) -> None:
    """An expired token, and a proxy that rejects even an empty request."""
    configure_for(application, scripted(refusal))
    application.die(2)
    status, lines = drain()
    assert status == LEFT
    assert lines[-1] == "Left: 2 events in 1 file"


def configure_for(application: Application, collector: Any) -> None:
    ((name, exporter),) = collector.exporter.items()
    application.configure(exporter["endpoint"], name=name)


UNAVAILABLE = Reply(503, code=Reply().code.UNAVAILABLE)


def test_a_failing_collector_gets_a_few_attempts_and_the_events_stay(
    application: Application, scripted: Scripted, drain: Drain, fast: list[float]
) -> None:
    configure_for(application, scripted(OK, UNAVAILABLE))
    application.die(12)
    status, lines = drain()
    assert status == LEFT
    assert lines[1] == "Exported 10 events of 1 process"
    assert lines[2].startswith("Export failing: ")
    assert lines[3:] == ["Left: 2 events in 1 file"]
    assert fast == list(BACKOFF_S[: draining.MAX_ATTEMPTS - 1])
    configure_for(application, scripted(UNAVAILABLE, UNAVAILABLE, OK))
    assert drain("--redirect")[1][-2:] == ["Exported 2 events of 1 process", "Nothing is left"]


def test_half_of_a_batch_is_not_exported_again(
    application: Application, scripted: Scripted, drain: Drain, fast: list[float]
) -> None:
    """The collector rejects a batch as invalid, accepts its first half, and fails."""
    invalid = Reply(400, code=Reply().code.INVALID_ARGUMENT)
    collector = scripted(invalid, OK, *[UNAVAILABLE] * draining.MAX_ATTEMPTS, OK)
    configure_for(application, collector)
    application.die(BATCH)
    assert drain()[1][-1] == f"Left: {BATCH // 2} events in 1 file"
    assert drain()[1][1:] == ["Exported 5 events of 1 process", "Nothing is left"]
    assert numbers(collector.events) == list(range(BATCH))


@needs_rich
def test_terminal_shows_progress_and_keeps_only_the_result(
    application: Application, receiver: Receiver
) -> None:
    application.configure(receiver.http_endpoint)
    application.die(2 * BATCH)
    arguments = ("drain", str(application.settings))
    with Command(*arguments, home=application.folder, columns=100) as running:
        assert running.wait() == NOTHING_LEFT
        assert "\x1b[2mExported 10 events of 1 process\x1b[0m" in running.output
        assert "\u2501" * 11 in running.output  # the bar
        result = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", running.output).splitlines()
    assert result[-2:] == ["Exported 20 events of 1 process", "Nothing is left"]


def test_retry_after_is_respected_or_ends_the_command(
    application: Application, scripted: Scripted, drain: Drain, fast: list[float]
) -> None:
    def throttled(seconds: int) -> Reply:
        return Reply(429, code=Reply().code.UNAVAILABLE, retry_after_s=seconds)

    configure_for(application, scripted(throttled(60), OK))
    application.die(2)
    assert drain()[0] == LEFT
    assert fast == []
    configure_for(application, scripted(throttled(2), OK))
    assert drain("--redirect")[0] == NOTHING_LEFT
    assert fast == [2.0]


def test_a_collector_that_does_not_answer_gets_one_attempt(
    application: Application,
    http_collector: Callable[..., HttpCollector],
    drain: Drain,
    fast: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request takes `timeout_ms`, here by a clock that makes large steps."""
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(draining, "monotonic", lambda: next(times))
    configure_for(application, http_collector(Reply(503), OK))
    application.die(2)
    assert drain()[0] == LEFT
    assert fast == []


def test_events_that_a_process_leaves_meanwhile_are_exported_too(
    application: Application, drain: Drain, fast: list[float]
) -> None:
    saved = application.folder / "saved"

    def keep(request: ReceivedRequest) -> None:
        received.extend(numbers(events_of(request)))
        for file in saved.iterdir():
            file.rename(application.spool / file.name)

    received: list[int] = []
    with Receiver(on_request=keep) as receiver:
        application.configure(receiver.http_endpoint)
        application.die(2)
        shutil.copytree(application.spool, saved)
        shutil.rmtree(application.spool)
        application.die(2, 2)
        assert drain()[0] == NOTHING_LEFT
    assert received == [2, 3, 0, 1]
    assert application.files == []


def test_a_web_page_is_reported(
    application: Application, http_collector: Callable[..., HttpCollector], drain: Drain
) -> None:
    page = (200, {"Content-Type": "text/html"}, b"<!doctype html>")
    configure_for(application, http_collector(page))
    application.die(1)
    assert any("the endpoint is probably not a collector" in line for line in drain()[1])


def test_drains_at_the_same_time_export_every_event_once(
    application: Application, receiver: Receiver
) -> None:
    application.configure(receiver.http_endpoint)
    for process in range(4):
        application.die(35, 35 * process)
    with ExitStack() as stack:
        drains = [
            stack.enter_context(
                Command("drain", str(application.settings), home=application.folder)
            )
            for _ in range(3)
        ]
        statuses = [each.wait() for each in drains]
        exported = [
            int(re.findall(r"^Exported (\d+) ", each.output, re.MULTILINE)[0]) for each in drains
        ]
    assert statuses == [NOTHING_LEFT] * 3
    assert sum(exported) == 140
    assert sorted(numbers(receiver.events)) == list(range(140))
    assert application.files == []


@pytest.mark.parametrize(
    ("number", "transport"),
    [
        (signal.SIGKILL, "otlp-http"),
        (signal.SIGKILL, "otlp-grpc"),
        (signal.SIGINT, "otlp-grpc"),
        (signal.SIGTERM, "otlp-http"),
    ],
)
def test_a_drain_that_is_ended_half_way_repeats_at_most_one_batch(
    application: Application, drain: Drain, number: signal.Signals, transport: str
) -> None:
    def keep(request: ReceivedRequest) -> None:
        received.extend(numbers(events_of(request)))
        if len(received) == 3 * BATCH:
            third.set()
            assert ended.wait(20)

    received: list[int] = []
    third, ended = threading.Event(), threading.Event()
    with Receiver(on_request=keep) as receiver:
        over_http = transport == "otlp-http"
        endpoint = receiver.http_endpoint if over_http else receiver.grpc_endpoint
        application.configure(endpoint, name=transport, timeout_ms=20_000)
        application.die(5 * BATCH)
        with Command("drain", str(application.settings), home=application.folder) as running:
            assert third.wait(20)
            status = running.end(number)
            output, errors = running.output, running.errors
        ended.set()
        assert status == (130 if number == signal.SIGINT else -number)
        assert errors == ""
        assert ("Exported 20 events of 1 process before the interruption\n" in output) == (
            number == signal.SIGINT
        )
        assert "40 " not in output
        assert application.files != []
        status, lines = drain()
    assert status == NOTHING_LEFT
    assert "Exported 30 events of 1 process" in lines
    expected = [*range(3 * BATCH), *range(2 * BATCH, 5 * BATCH)]
    assert received == expected
    assert application.files == []


def test_attempts_count_anew_after_each_batch(
    application: Application, scripted: Scripted, drain: Drain, fast: list[float]
) -> None:
    configure_for(application, scripted(*[UNAVAILABLE, OK] * 5))
    application.die(5 * BATCH)
    assert drain()[0] == NOTHING_LEFT
    assert fast == [BACKOFF_S[0]] * 5


def test_a_file_that_cannot_be_removed_is_exported_once(
    application: Application,
    receiver: Receiver,
    drain: Drain,
    fast: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a directory that was made read-only."""
    application.configure(receiver.http_endpoint)
    application.die(2)
    monkeypatch.setattr(disk, "remove", lambda _: None)
    for exported in ("2 events of 1 process", "0 events of 0 processes"):
        status, lines = drain()
        assert status == LEFT
        assert lines[1:] == [f"Exported {exported}", "Left: 0 events in 1 file"]
    assert numbers(receiver.events) == [0, 1]
    assert fast == []


def test_list_skips_files_that_are_exported_meanwhile(
    application: Application, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(1)
    monkeypatch.setattr(disk, "names", lambda _: [*application.files, "0-gone.spool"])
    assert drain("--list")[1][-1] == "Left: 1 event in 1 file"


def test_list_says_damaged_as_long_as_the_name_does(application: Application, drain: Drain) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(1)
    file = newest(application)
    file.rename(f"{file}.damaged")
    row = re.split("  +", drain("--list")[1][-2])
    assert row[:4] == ["damaged", "otlp-http http://127.0.0.1:9/v1/logs", "1", "1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_another_user_are_not_read(application: Application, drain: Drain) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(1)
    os.chown(newest(application), 12345, -1)
    assert re.split("  +", drain("--list")[1][-2])[:4] == ["unreadable", "unknown", "1", "0"]


def test_a_directory_that_cannot_be_read_is_reported(
    application: Application, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    application.configure("http://127.0.0.1:9/v1/logs")
    monkeypatch.setattr(disk, "names", fail)
    message = f"{application.spool}: cannot be read: Permission denied"
    for options in ((), ("--list",)):
        status, lines = drain(*options)
        assert (status, lines[-1]) == (LEFT, message)


def test_closed_pipe_prints_no_error(application: Application) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(1)
    arguments = ("drain", str(application.settings), "--list")
    with Command(*arguments, home=application.folder) as running:
        running.close_output()
        assert running.wait() == 1
        assert running.errors == ""


def test_settings_without_a_spool_are_an_error(
    application: Application, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "no such file; create it, or add the path of another file to the command"
    assert drain() == (INVALID, [f"{application.settings}: {missing}"])
    monkeypatch.setenv("CODEX_HOME", str(application.folder))
    assert main(["drain"]) == INVALID
    for text in ("", "[otel]\nexporter = 'none'\n"):
        application.settings.write_text(text)
        message = "[otel.spool]: missing; it names the directory to export"
        for options in ((), ("--list",)):
            assert drain(*options)[1][-1] == f"{application.settings}: {message}"
            assert drain(*options)[0] == INVALID
    application.settings.write_text("[otel.spool]\npath = 1\n")
    assert drain() == (
        INVALID,
        [f"{application.settings}: [otel] spool.path: expected a string, got an integer"],
    )


def test_without_an_exporter_only_list_works(
    application: Application, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.settings.write_text("[otel.spool]\npath = 'spool'\n")
    status, lines = drain()
    assert status == INVALID
    assert lines == [
        f"{application.settings}: [otel] exporter: nothing is exported, because exporter is none"
    ]
    assert drain("--list")[0] == NOTHING_LEFT
    application.configure("http://127.0.0.1:9/v1/logs")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert drain() == (INVALID, ["OTEL_SDK_DISABLED: the variable turns off all exports"])
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setattr(command, "missing_package", lambda _: "not installed")
    assert drain() == (LEFT, ["not installed"])


def test_a_directory_open_to_others_is_an_error(application: Application, drain: Drain) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.spool.mkdir()
    application.spool.chmod(0o755)
    status, lines = drain("--list")
    assert status == INVALID
    assert lines == [
        f"{application.settings}: [otel] spool.path: the directory is open to other users; "
        "run: chmod 700"
    ]


def document(lines: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("\n".join(lines))
    return found


class TestJson:
    def test_object_has_the_facts_of_an_export(
        self, application: Application, receiver: Receiver, drain: Drain
    ) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(3)
        left = application.files[0]
        application.configure(receiver.http_endpoint)
        application.die(25)
        status, lines = drain("--json")
        found = document(lines)
        (remaining,) = found.pop("remaining")
        (message,) = found.pop("messages")
        assert status == LEFT
        assert found == {
            "path": str(application.spool),
            "destination": f"otlp-http {receiver.http_endpoint}",
            "exported": 25,
            "processes": 1,
            "discarded": 0,
            "discarded_files": 0,
            "failure": None,
            "timed_out": False,
            "interrupted": False,
        }
        assert message.startswith("events for otlp-http http://127.0.0.1:9/v1/logs are ignored")
        oldest = remaining.pop("oldest")
        assert remaining == {
            "state": "left",
            "destination": "otlp-http http://127.0.0.1:9/v1/logs",
            "files": 1,
            "events": 3,
            "bytes": (application.spool / left).stat().st_size,
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", oldest)

    def test_list_prints_the_same_object_and_changes_nothing(
        self, application: Application, receiver: Receiver, drain: Drain
    ) -> None:
        application.configure(receiver.http_endpoint)
        assert document(drain("--list", "--json")[1])["remaining"] == []
        application.die(2)
        damage_header(newest(application))
        os.mkfifo(application.spool / "0-a.spool")
        before = application.files
        status, lines = drain("--list", "--json")
        assert status == LEFT
        assert [
            (each["state"], each["destination"], each["events"], each["oldest"] is None)
            for each in document(lines)["remaining"]
        ] == [("damaged", None, 2, False), ("unreadable", None, 0, True)]
        assert application.files == before

    def test_failure_is_in_the_object(
        self, application: Application, drain: Drain, fast: list[float], monkeypatch: Any
    ) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(2)
        status, lines = drain("--json")
        assert status == LEFT
        assert "refused" in document(lines)["failure"]
        monkeypatch.setattr(command, "missing_package", lambda _: "not installed")
        status, lines = drain("--json")
        assert (status, document(lines)["failure"]) == (LEFT, "not installed")

    def test_invalid_settings_print_no_object(self, application: Application, drain: Drain) -> None:
        application.settings.write_text("")
        status, lines = drain("--json")
        assert status == INVALID
        assert lines[0].endswith("missing; it names the directory to export")

    def test_interrupted_export_prints_what_was_done(
        self,
        application: Application,
        receiver: Receiver,
        drain: Drain,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        application.configure(receiver.http_endpoint)
        application.die(2 * BATCH)

        def interrupt(drain: draining.Drain, *_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("codex_otel_logging.cli.main._discard_output", lambda: None)
        monkeypatch.setattr(command._Command, "_show_progress", interrupt)
        status, lines = drain("--json")
        found = document(lines)
        assert status == 130
        assert (found["exported"], found["interrupted"]) == (BATCH, True)
        assert [each["events"] for each in found["remaining"]] == [BATCH]


class TestTimeout:
    @pytest.mark.parametrize("slow", ["answer", "retry"])
    def test_command_ends_in_time_and_keeps_the_rest(
        self, application: Application, scripted: Scripted, drain: Drain, slow: str
    ) -> None:
        if slow == "answer":
            collector = scripted(OK, delay_s=6.0)
        else:
            collector = scripted(Reply(429, code=Reply().code.UNAVAILABLE, retry_after_s=2))
        configure_for(application, collector)
        application.die(2)
        started = time.monotonic()
        status, lines = drain("--timeout", "0.5")
        assert time.monotonic() - started < 5  # less than the answer takes
        assert status == LEFT
        assert lines[-2:] == ["Stopped after 0.5 s", "Left: 2 events in 1 file"]
        assert document(drain("--timeout", ".5", "--json")[1])["timed_out"]

    def test_no_batch_begins_after_the_time(
        self,
        application: Application,
        receiver: Receiver,
        drain: Drain,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        times = iter(range(1000))
        monkeypatch.setattr(draining, "monotonic", lambda: next(times))
        application.configure(receiver.http_endpoint)
        application.die(9 * BATCH)
        status, lines = drain("--timeout", "10")
        assert status == LEFT
        assert 0 < len(receiver.requests) < 9
        left = 9 * BATCH - len(receiver.events)
        assert lines[-3:] == [
            f"Exported {len(receiver.events)} events of 1 process",
            "Stopped after 10 s",
            f"Left: {left} events in 1 file",
        ]

    def test_events_do_not_expire_because_time_is_up(
        self, application: Application, scripted: Scripted, drain: Drain
    ) -> None:
        """A request that is cut short is no failure of the collector."""
        configure_for(application, scripted(OK, delay_s=6.0))
        text = application.settings.read_text()
        application.settings.write_text(text.replace('"spool"', '"spool"\nkeep_for_ms = 1'))
        application.die(2)
        assert drain("--timeout", "0.3")[1][-1] == "Left: 2 events in 1 file"

    def test_time_that_suffices_changes_nothing(
        self, application: Application, receiver: Receiver, drain: Drain
    ) -> None:
        application.configure(receiver.http_endpoint)
        application.die(25)
        status, lines = drain("--timeout", "60")
        assert status == NOTHING_LEFT
        assert lines[1:] == ["Exported 25 events of 1 process", "Nothing is left"]

    @pytest.mark.parametrize("text", ["0", "0.0", "-1", "x", "", "nan", "inf", "1e3", "1" * 10])
    def test_other_times_are_invalid(self, text: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["drain", f"--timeout={text}"])
        message = f"invalid time {text!r}: expected a number of seconds greater than 0"
        assert message in capsys.readouterr().err


class TestDiscard:
    def test_only_leftovers_of_this_destination_and_damaged_files_are_removed(
        self, application: Application, receiver: Receiver, drain: Drain
    ) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(3)
        (other,) = application.files
        application.configure(receiver.http_endpoint)
        for count in (4, 5, 6):
            application.die(count)
        (application.spool / "0-a.spool.new").touch()
        damage_header(newest(application))
        file = sorted(application.spool.glob("*.spool"))[1]
        damage_header(file)
        file.rename(f"{file}.damaged")
        status, lines = drain("--discard", "--yes")
        assert status == LEFT
        assert lines == [
            f"In {application.spool}, for otlp-http {receiver.http_endpoint}",
            "Discarded 15 events in 3 files",
            "Left: 3 events in 1 file",
        ]
        assert application.files == [other]
        status, lines = drain("--discard", "--redirect", "--yes", "--json")
        found = document(lines)
        assert status == NOTHING_LEFT
        assert (found["discarded"], found["discarded_files"], found["remaining"]) == (3, 1, [])
        assert application.files == []
        assert receiver.events == []

    def test_files_in_use_newer_and_foreign_ones_stay(
        self, application: Application, drain: Drain
    ) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        for _ in range(3):
            application.die(2)
        newer, link, used = sorted(application.spool.iterdir())
        header = b"codex-otel-spool 2 00000000000000000000 "
        newer.write_bytes(header + b"%08x\nsomething else\n" % zlib.crc32(header[:-1]))
        moved = application.folder / "elsewhere"
        link.rename(moved)
        link.symlink_to(moved)
        before = application.files
        with used.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            status, lines = drain("--discard", "--redirect", "--yes")
        assert status == LEFT
        assert lines[1:] == [
            "Discarded 0 events in 0 files",
            "In use by running processes: 2 events in 1 file",
            "Left: 0 events in 2 files",
        ]
        assert application.files == before

    def test_file_that_is_adopted_after_the_survey_stays(
        self, application: Application, drain: Drain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(2)
        locks = iter([True, True])  # twice in surveys
        monkeypatch.setattr(disk, "lock", lambda _: next(locks, False))
        status, lines = drain("--discard", "--yes")
        assert status == NOTHING_LEFT
        assert lines[1] == "Discarded 0 events in 0 files"
        assert len(application.files) == 1

    def test_file_that_cannot_be_removed_is_reported(
        self, application: Application, drain: Drain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: str) -> None:
            raise PermissionError(13, "Permission denied", path)

        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(2)
        monkeypatch.setattr(disk, "remove", fail)
        status, lines = drain("--discard", "--yes")
        assert status == LEFT
        assert lines[1:] == [
            f"{application.files[0]}: cannot be removed (Permission denied)",
            "Discarded 0 events in 0 files",
            "Left: 2 events in 1 file",
        ]

    def test_needs_a_confirmation(self, application: Application, drain: Drain) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(2)
        message = "--discard: not on a terminal; confirm with --yes"
        assert drain("--discard") == (INVALID, [message])
        assert len(application.files) == 1

    @pytest.mark.parametrize(("answer", "count"), [("y", 0), ("YES", 0), ("", 1), ("n", 1)])
    def test_asks_on_a_terminal(self, application: Application, answer: str, count: int) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(2)
        ours, its = pty.openpty()
        program = [sys.executable, "-m", "codex_otel_logging", "drain", str(application.settings)]
        with (
            os.fdopen(ours, "r+b", buffering=0) as terminal,
            subprocess.Popen(
                [*program, "--discard"],
                env={"PYTHONPATH": str(ROOT), "HOME": str(application.folder), "TERM": "dumb"},
                stdin=its,
                stdout=subprocess.PIPE,
                stderr=its,
            ) as running,
        ):
            os.close(its)
            question = b""
            while b"[y/N] " not in question:
                question += terminal.read(1000)
            assert question == b"Discard 2 events in 1 file? [y/N] "
            terminal.write(answer.encode() + b"\n")
            output, _ = running.communicate(timeout=20)
        assert running.returncode == (LEFT if count else NOTHING_LEFT)
        assert f"Discarded {0 if count else 2} events in {1 - count} file" in output.decode()
        assert len(application.files) == count

    def test_without_an_exporter_only_everything_can_be_discarded(
        self, application: Application, drain: Drain
    ) -> None:
        application.configure("http://127.0.0.1:9/v1/logs")
        application.die(2)
        application.settings.write_text("[otel.spool]\npath = 'spool'\n")
        assert drain("--discard", "--yes") == (
            INVALID,
            [
                f"{application.settings}: [otel] exporter: exporter is none; to discard the "
                "events for every destination, add --redirect"
            ],
        )
        status, lines = drain("--discard", "--yes", "--redirect")
        assert status == NOTHING_LEFT
        assert lines[0] == f"In {application.spool}, for every destination"

    @pytest.mark.parametrize("end", [None, "0.5"])
    def test_interrupted_or_timed_out_it_counts_what_it_removed(
        self,
        application: Application,
        drain: Drain,
        monkeypatch: pytest.MonkeyPatch,
        end: str | None,
    ) -> None:
        def remove(path: str) -> None:
            if end is None and removed:
                raise KeyboardInterrupt
            Path(path).unlink()
            removed.append(path)

        removed: list[str] = []
        application.configure("http://127.0.0.1:9/v1/logs")
        for _ in range(3):
            application.die(2)
        monkeypatch.setattr("codex_otel_logging.cli.main._discard_output", lambda: None)
        monkeypatch.setattr(disk, "remove", remove)
        monkeypatch.setattr(discarding, "monotonic", lambda: float(len(removed)))
        status, lines = drain("--discard", "--yes", *([] if end is None else ["--timeout", end]))
        assert status == (130 if end is None else LEFT)
        assert len(application.files) == 2
        if end is None:
            assert lines[1:] == ["Discarded 2 events in 1 file before the interruption"]
        else:
            stopped = ["Stopped after 0.5 s", "Left: 4 events in 2 files"]
            assert lines[1:] == ["Discarded 2 events in 1 file", *stopped]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--yes"], "option '--yes' requires '--discard'"),
            (["--list", "--discard"], "not allowed with argument"),
        ],
    )
    def test_options_that_contradict_each_other(
        self, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["drain", *options])
        assert message in capsys.readouterr().err


def test_discards_and_drains_at_the_same_time_share_the_events(
    application: Application, receiver: Receiver
) -> None:
    application.configure(receiver.http_endpoint)
    for process in range(6):
        application.die(15, 15 * process)
    with ExitStack() as stack:
        drains = [
            stack.enter_context(
                Command(
                    "drain", str(application.settings), "--json", *more, home=application.folder
                )
            )
            for more in ((), ("--discard", "--yes"), ("--discard", "--yes"), ())
        ]
        assert [each.wait() for each in drains] == [NOTHING_LEFT] * 4
        found = [json.loads(each.output) for each in drains]
    exported = sum(each["exported"] for each in found)
    assert exported + sum(each["discarded"] for each in found) == 90
    assert len(set(numbers(receiver.events))) == len(receiver.events) == exported
    assert application.files == []


def test_a_discard_that_is_killed_leaves_whole_files(
    application: Application, drain: Drain
) -> None:
    application.configure("http://127.0.0.1:9/v1/logs")
    application.die(2)
    (file,) = application.spool.iterdir()
    data = file.read_bytes()
    for number in range(600):
        file.with_name(f"{number:020d}-a.spool").write_bytes(data)
    chance = random.Random(1)
    counts = [len(application.files)]
    while application.files:
        arguments = ("drain", str(application.settings), "--discard", "--yes")
        with Command(*arguments, home=application.folder) as running:
            wait_until(lambda: len(application.files) < counts[-1])
            time.sleep(chance.uniform(0.0, 0.02))
            assert running.end(signal.SIGKILL) in (-signal.SIGKILL, NOTHING_LEFT)
        counts.append(len(application.files))
        assert {path.read_bytes() for path in application.spool.iterdir()} <= {data}
    assert len(counts) > 2


def test_without_a_bar_progress_is_printed_now_and_then(
    application: Application, receiver: Receiver, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PROGRESS_S", 0.0)
    application.configure(receiver.http_endpoint)
    application.die(2 * BATCH)
    assert drain()[1][1:] == [
        "Exported 10 events of 1 process",
        "Exported 20 events of 1 process",
        "Exported 20 events of 1 process",
        "Nothing is left",
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_each_interruption_at_a_random_moment_repeats_at_most_one_batch(
    application: Application, number: signal.Signals
) -> None:
    def keep(request: ReceivedRequest) -> None:
        received.extend(numbers(events_of(request)))
        time.sleep(0.005)

    received: list[int] = []
    chance = random.Random(number)
    interruptions = 0
    with Receiver(on_request=keep) as receiver:
        application.configure(receiver.http_endpoint)
        for process in range(5):
            application.die(5 * BATCH, 5 * BATCH * process)

        def more_than(seen: int) -> Callable[[], bool]:
            return lambda: len(received) > seen or not application.files

        while application.files:
            assert interruptions < 100
            arguments = ("drain", str(application.settings))
            with Command(*arguments, home=application.folder) as running:
                running.read_until("From ")
                if chance.random() < 0.75:  # the others end while they import the exporter
                    wait_until(more_than(len(received)))
                time.sleep(chance.uniform(0.0, 0.05))
                status = running.end(number)
                # Python's warnings are errors here, also those of an import that is interrupted.
                assert "KeyboardInterrupt" not in running.errors
            assert status in (130, -number, NOTHING_LEFT)
            interruptions += status != NOTHING_LEFT
    assert interruptions > 1
    assert set(received) == set(range(25 * BATCH))
    assert len(received) - 25 * BATCH <= interruptions * BATCH


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def newest(application: Application) -> Path:
    return max(application.spool.glob("*.spool"))


def damage_header(file: Path) -> None:
    """Make the second line of a file, its header, unreadable."""
    file.write_bytes(file.read_bytes().replace(b'"owner"', b'"ownes"'))


def contents(application: Application) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in application.spool.iterdir()}


def test_terminal_without_rich_shows_progress_in_plain_lines(
    application: Application, receiver: Receiver
) -> None:
    without_rich = """
import sys
sys.modules["rich"] = None
from codex_otel_logging.cli import console
console.PROGRESS_S = 0.0
from codex_otel_logging.__main__ import main
sys.exit(main())
"""
    application.configure(receiver.http_endpoint)
    application.die(2 * BATCH)
    arguments = ("drain", str(application.settings))
    with Command(*arguments, program=without_rich, home=application.folder, columns=80) as running:
        assert running.wait() == NOTHING_LEFT
        assert "\x1b" not in running.output
        assert "\r" not in running.output
        lines = running.output.splitlines()
    assert lines[-4:] == [
        "Exported 10 events of 1 process",
        "Exported 20 events of 1 process",
        "Exported 20 events of 1 process",
        "Nothing is left",
    ]
