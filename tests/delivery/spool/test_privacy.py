"""Covers who may read what a spool holds, and what it never holds: secrets, and redacted text."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver
from codex_otel_logging.delivery import worker
from codex_otel_logging.delivery.spool import disk, journal
from support.collectors import Gate, over_http
from support.fixtures import RunPython
from support.parts import worker_of
from support.paths import read_program
from support.secrets import GRPC, HTTP, SECRETS, Secret, fits

LOGGER = logging.getLogger("codex_otel.spool")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "spool"


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


Attach = Callable[..., CodexOtelHandler]


@pytest.fixture
def attach_spool(directory: Path) -> Iterator[Attach]:
    """Attach a handler that has a spool; end it like a process that found its collector down."""
    attached: list[CodexOtelHandler] = []

    def attach(exporter: Any, **settings: Any) -> CodexOtelHandler:
        table = {
            "exporter": exporter,
            "spool": {"path": str(directory)},
            "batch": {"schedule_delay_ms": 20, "shutdown_timeout_ms": 300},
            **settings,
        }
        handler = CodexOtelHandler(table)
        LOGGER.setLevel(logging.INFO)
        LOGGER.addHandler(handler)
        attached.append(handler)
        return handler

    yield attach
    for handler in attached:
        LOGGER.removeHandler(handler)
        handler.close()


def leave(handler: CodexOtelHandler) -> None:
    """Detach a handler whose collector is down, and wait until it has left its events."""
    LOGGER.removeHandler(handler)
    thread = worker_of(handler).thread
    handler.close()
    if thread is not None:
        thread.join(20)
        assert not thread.is_alive()


def down(port: int, name: str = "otlp-http") -> dict[str, Any]:
    path = "/v1/logs" if name == "otlp-http" else ""
    return {name: {"endpoint": f"http://127.0.0.1:{port}{path}"}}


def log(number: int = 0, **fields: Any) -> None:
    LOGGER.info(
        "codex.user_prompt", extra={"prompt": f"pr0mpt-{number}", "conversation.id": "c", **fields}
    )


def contents(directory: Path) -> bytes:
    """Return all names and bytes in a directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return b"\n".join(os.fsencode(path.name) + b"\n" + path.read_bytes() for path in files)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "codex_otel_logging" and "spool" in record.getMessage()
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestModes:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177, 0o777])
    def test_directory_and_files_are_their_owners_whatever_the_umask(
        self, attach_spool: Attach, directory: Path, dead_port: int, umask: int
    ) -> None:
        before = os.umask(umask)
        try:
            handler = attach_spool(down(dead_port))
            log()
        finally:
            os.umask(before)
        assert handler.stats().spooled == 1
        assert [mode(directory), mode(directory.parent)] == [0o700, 0o700]
        files = [*directory.iterdir()]
        assert [mode(file) for file in files] == [0o600] * len(files)
        assert files

    @pytest.mark.processes
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
    def test_umask_that_takes_rights_from_the_owner(self, run_python: RunPython) -> None:
        """Unlike root, another user cannot open a file or a directory without these rights."""
        with tempfile.TemporaryDirectory() as folder:  # that of pytest is closed to other users
            Path(folder).chmod(0o777)
            done = run_python(read_program("spool_of_another_user"), folder)
        assert done.returncode == 0, done.stderr

    def test_parents_that_exist_keep_their_mode(self, directory: Path) -> None:
        directory.parent.mkdir()
        directory.parent.chmod(0o755)
        disk.make_directory(str(directory))
        assert [mode(directory), mode(directory.parent)] == [0o700, 0o755]
        directory.chmod(0o750)
        disk.make_directory(str(directory))
        assert mode(directory) == 0o750


class TestSecrets:
    @pytest.mark.parametrize(
        ("name", "secret"),
        [
            pytest.param(name, secret, id=f"{name}, {title}")
            for title, secret in SECRETS.items()
            for name in (HTTP, GRPC)
            if fits(secret, name)
        ],
    )
    def test_no_secret_of_the_exporter_is_written(
        self,
        attach_spool: Attach,
        directory: Path,
        dead_port: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        name: str,
        secret: Secret,
    ) -> None:
        address = f"127.0.0.1:{dead_port}"
        for variable, value in secret.environ.items():
            monkeypatch.setenv(variable, value.replace("{}", address))
        endpoint = (secret.endpoint or "http://{}").replace("{}", address)
        exporter: Any = name if secret.bare else {name: {"endpoint": endpoint}}
        if not secret.bare:
            exporter[name]["headers"] = secret.headers
        handler = attach_spool(exporter)
        log()
        written = contents(directory)
        assert b"codex.user_prompt" in written
        assert address.encode() in written
        leave(handler)
        written += contents(directory)
        for form in secret.repeated:
            assert form.encode() not in written
            assert json.dumps(form)[1:-1].encode() not in written

    def test_redacted_text_is_not_written(
        self, attach_spool: Attach, directory: Path, dead_port: int
    ) -> None:
        handler = attach_spool(down(dead_port), log_tool_payloads=False)
        log(text="plain")
        LOGGER.info(
            "codex.tool_result",
            extra={
                "arguments": "arg-s3cret",
                "output": {"a": ["0ut-s3cret"]},
                "tool_name": "shell",
                "list": [{"prompt": "1ns1de-s3cret", "d": {"arguments": ["d33p-s3cret"]}}],
            },
        )
        odd: dict[Any, Any] = {"prompt": b"byt3s-s3cret", b"output": "k3y-s3cret"}
        LOGGER.info("codex.tool_result", extra=odd)
        assert handler.stats().spooled == 3
        written = contents(directory)
        assert b"plain" in written
        assert b"[REDACTED]" in written
        assert b"s3cret" not in written
        assert b"pr0mpt" not in written
        for text in ("byt3s-s3cret", "0ut-s3cret"):
            assert text.encode().hex().encode() not in written


class TestDirectoryThatChanges:
    """What is a `ConfigError` when a handler is built is one warning later, and memory only."""

    def change(self, kind: str, directory: Path) -> None:
        directory.parent.mkdir(exist_ok=True)
        if kind == "open to others":
            directory.mkdir()
            directory.chmod(0o755)
        elif kind == "file":
            directory.touch()
        elif kind == "dangling link":
            directory.symlink_to("nowhere")
        else:
            directory.mkdir(0o700)
            os.chown(directory, 12345, 12345)

    @pytest.mark.parametrize(
        ("kind", "problem"),
        [
            ("open to others", "the directory is open to other users; run: chmod 700"),
            ("file", "not a directory"),
            pytest.param(
                "another user's",
                "the directory belongs to another user",
                marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
            ),
        ],
    )
    def test_wrong_directory_is_one_warning_and_memory_only(
        self,
        attach_spool: Attach,
        directory: Path,
        receiver: Receiver,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        problem: str,
    ) -> None:
        monkeypatch.setattr(journal, "RETRY_S", 0.0)
        handler = attach_spool(over_http(receiver))
        self.change(kind, directory)
        for number in range(5):
            log(number)
            assert handler.flush(10)
        assert handler.stats()[:5] == (5, 5, 0, 0, 0)
        assert len(receiver.events) == 5
        assert warnings(caplog) == [
            f"spool {directory}: cannot write events ({problem}); they are kept in memory only"
        ]
        assert not directory.is_dir() or not [*directory.iterdir()]

    def test_link_to_nothing_is_memory_only(
        self,
        attach_spool: Attach,
        directory: Path,
        receiver: Receiver,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        handler = attach_spool(over_http(receiver))
        self.change("dangling link", directory)
        log()
        assert handler.flush(10)
        assert handler.stats().exported == 1
        assert len(warnings(caplog)) == 1


class TestLeftovers:
    def test_leftovers_for_another_destination_are_never_sent(
        self,
        attach_spool: Attach,
        directory: Path,
        receiver: Receiver,
        dead_port: int,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(worker, "RESCAN_S", 0.0)
        for name in ("otlp-http", "otlp-grpc"):
            for number in range(2):
                handler = attach_spool(down(dead_port, name))
                log(number)
                leave(handler)
        before = contents(directory)
        caplog.clear()
        handler = attach_spool(over_http(receiver))
        for number in range(3):
            log(10 + number)
            assert handler.flush(10)
        assert len(receiver.events) == 3
        assert (handler.stats().recovered, handler.stats().discarded) == (0, 0)
        (name,) = over_http(receiver)
        here = f"otlp-http {over_http(receiver)[name]['endpoint']}"
        found = warnings(caplog)
        assert sorted(found) == sorted(
            f"spool {directory}: events for {there} are ignored; to export them to {here}, "
            "run: codex-otel-logging drain --redirect [PATH]"
            for there in (
                f"otlp-http http://127.0.0.1:{dead_port}/v1/logs",
                f"otlp-grpc http://127.0.0.1:{dead_port}",
            )
        )
        handler.close()
        for line in before.splitlines():
            assert line in contents(directory)

    def test_redaction_of_this_process_applies_to_leftovers(
        self,
        attach_spool: Attach,
        directory: Path,
        gated: dict[str, Any],
        gate: Gate,
        receiver: Receiver,
    ) -> None:
        gate.refuse()
        handler = attach_spool(gated, log_user_prompt=True)
        log(1, nested=[{"prompt": "nest3d"}], other="kept")
        log(2, prompt_length=99)
        leave(handler)
        assert b"pr0mpt-1" in contents(directory)
        assert b"nest3d" in contents(directory)
        gate.open()
        handler = attach_spool(gated, log_user_prompt=False)
        log(3)
        wait_until(lambda: handler.stats().recovered == 2)
        events = {event.attributes["prompt_length"]: event for event in receiver.wait_for(3)}
        assert len(receiver.events) == 3
        assert {event.attributes["prompt"] for event in receiver.events} == {"[REDACTED]"}
        assert 99 in events
        (first,) = [event for event in receiver.events if "other" in event.attributes]
        assert first.attributes["nested"] == [{"prompt": "[REDACTED]", "prompt_length": 6}]
        wait_until(lambda: not [*directory.glob("*.spool")])

    def test_text_that_was_redacted_before_stays_as_it_is(
        self,
        attach_spool: Attach,
        directory: Path,
        gated: dict[str, Any],
        gate: Gate,
        receiver: Receiver,
    ) -> None:
        """Redacting it again must not add the length of the replacement."""
        gate.refuse()
        handler = attach_spool(gated)
        log(prompt=5, nested={"prompt": 5})
        log(prompt="12345", nested={"prompt": "12345"})
        leave(handler)
        gate.open()
        handler = attach_spool(gated)
        LOGGER.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
        wait_until(lambda: handler.stats().recovered == 2)
        first, second = [
            event.attributes for event in receiver.wait_for(3) if event.name == "codex.user_prompt"
        ]
        assert first["prompt"] == "[REDACTED]"
        assert "prompt_length" not in first
        assert first["nested"] == {"prompt": "[REDACTED]"}
        assert second["prompt_length"] == 5
        assert second["nested"] == {"prompt": "[REDACTED]", "prompt_length": 5}
