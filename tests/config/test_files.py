"""Covers the files that settings name: only regular files of limited size are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import ConfigError, OtelConfig
from codex_otel_logging.__main__ import main
from codex_otel_logging.config.files import MAX_PEM_BYTES, MAX_TOML_BYTES, read_file

NOT_REGULAR = ["fifo", "folder", "/dev/zero", "/dev/null"]


@pytest.fixture(params=NOT_REGULAR)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An irregular file. Opening a FIFO would wait for a writer."""
    path = tmp_path / "odd.toml"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to(request.param)
    return path


def within(seconds: float, call: Callable[[], Any]) -> None:
    """Fail if a call takes longer, instead of waiting for it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_toml_file_must_be_a_regular_file(odd: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        within(10, lambda: OtelConfig.from_toml(odd, missing_ok=True))
    assert str(caught.value) == f"{odd}: cannot be read: not a regular file"


@pytest.mark.parametrize("key", ["ca-certificate", "client-certificate", "client-private-key"])
def test_certificates_and_keys_must_be_regular_files(odd: Path, key: str) -> None:
    tls = {key: str(odd)}
    if key != "ca-certificate":
        tls = {"client-certificate": str(odd), "client-private-key": str(odd)}
    table = {"exporter": {"otlp-grpc": {"endpoint": "https://c", "tls": tls}}}
    with pytest.raises(ConfigError) as caught:
        within(10, lambda: OtelConfig.from_table(table))
    assert caught.value.faults == tuple(
        f"[otel] exporter.otlp-grpc.tls.{key}: the file cannot be read: not a regular file"
        for key in tls
    )


@pytest.mark.parametrize("variable", ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"])
@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_files_of_variables_must_be_regular_files(odd: Path, variable: str, name: str) -> None:
    variable = f"OTEL_EXPORTER_OTLP_{variable}"
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c", variable: str(odd)}
    with pytest.raises(ConfigError) as caught:
        within(10, lambda: OtelConfig.from_table({"exporter": name}, environ=environ))
    assert caught.value.faults == (
        f"[otel] exporter: environment variable {variable}: "
        "the file cannot be read: not a regular file",
    )


def test_check_command_reports_an_irregular_file(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(odd)]) == 2
    assert "not a regular file" in capsys.readouterr().err


class TestSize:
    def test_settings_file_of_more_than_1_mib_is_a_fault(self, tmp_path: Path) -> None:
        file = tmp_path / "otel.toml"
        text = "[otel]\nenvironment = 'found'\n"
        file.write_text(text + "#" * (MAX_TOML_BYTES - len(text)))
        assert OtelConfig.from_toml(file).environment == "found"
        with file.open("a") as more:
            more.write("#")
        with pytest.raises(ConfigError, match="cannot be read: larger than 1 MiB"):
            OtelConfig.from_toml(file)

    def test_certificate_file_of_more_than_16_mib_is_a_fault(self, tmp_path: Path) -> None:
        with (tmp_path / "ca.pem").open("wb") as file:
            file.truncate(MAX_PEM_BYTES + 1)  # takes no space
        tls = {"ca-certificate": str(tmp_path / "ca.pem")}
        table = {"exporter": {"otlp-http": {"endpoint": "https://c", "tls": tls}}}
        with pytest.raises(ConfigError, match="the file cannot be read: larger than 16 MiB"):
            OtelConfig.from_table(table)


def test_fifo_that_replaces_a_file_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The FIFO takes the file's place after the check and before the file is opened."""
    path = tmp_path / "otel.toml"
    os.mkfifo(path)
    monkeypatch.setattr("codex_otel_logging.config.files.stat.S_ISREG", lambda _: True)
    within(10, lambda: read_file(path, 100))
