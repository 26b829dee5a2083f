"""Covers the settings under `[otel.spool]`: where the directory is, and which one is accepted."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from codex_otel_logging import CodexOtelHandler, ConfigError, OtelConfig, Receiver
from codex_otel_logging.__main__ import main
from codex_otel_logging.config.schema import schema
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery.spool import disk
from support.collectors import over_http
from support.fixtures import RunPython
from support.paths import read_program


def path_of(table: object, environ: Mapping[str, str] | None = None) -> str:
    spool = OtelConfig.from_table({"spool": table}, environ=environ, strict=True).spool
    assert spool is not None
    return spool.path


def faults(table: object, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        OtelConfig.from_table({"spool": table}, environ=environ, strict=True)
    return [fault.removeprefix("[otel] ") for fault in caught.value.faults]


class TestPath:
    def test_no_table_is_no_spool(self) -> None:
        assert OtelConfig.from_table({}).spool is None

    def test_path_is_relative_to_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "etc"
        folder.mkdir()
        (folder / "otel.toml").write_text('[otel.spool]\npath = "../var/./events/"')
        monkeypatch.chdir(tmp_path)
        for file in ("etc/otel.toml", folder / "otel.toml"):
            spool = OtelConfig.from_toml(file).spool
            assert spool is not None
            assert spool.path == str(tmp_path / "var" / "events")

    def test_path_of_a_table_is_relative_to_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = path_of({"path": "events"})
        monkeypatch.chdir("/")
        assert path == str(tmp_path / "events")

    def test_home_and_variables_are_expanded(self, tmp_path: Path) -> None:
        home = str(tmp_path)
        assert path_of({"path": "~/events"}) == f"{home}/events"
        assert path_of({"path": "~"}) == home
        assert path_of({"path": "${DIR}/e"}, {"DIR": "/var/spool"}) == "/var/spool/e"
        assert path_of({"path": "/a/${DIR:-b}"}, {}) == "/a/b"
        assert path_of({"path": "${DIR}/e"}, {"DIR": "~"}) == f"{home}/e"
        assert path_of({"path": "/a/$${DIR}"}, {}) == "/a/${DIR}"

    def test_directory_is_not_created_when_a_handler_is_built(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "events"
        exporter = {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}
        CodexOtelHandler({"exporter": exporter, "spool": {"path": str(path)}}).close()
        assert not path.parent.exists()

    def test_settings_with_a_spool_are_no_others_settings(self, tmp_path: Path) -> None:
        one = OtelConfig.from_table({"spool": {"path": str(tmp_path / "a")}})
        assert one == OtelConfig.from_table({"spool": {"path": str(tmp_path / "x" / ".." / "a")}})
        assert one != OtelConfig()
        assert str(tmp_path) in repr(one)


class TestFaults:
    @pytest.mark.parametrize(
        ("table", "fault"),
        [
            ({}, "spool.path: missing; the directory for queued events"),
            ({"path": ""}, "spool.path: must not be empty"),
            ({"path": 5}, "spool.path: expected a string, got an integer"),
            ({"path": ["a"]}, "spool.path: expected a string, got an array"),
            ({"path": True}, "spool.path: expected a string, got a boolean"),
            ("/var/spool", "spool: expected a table, got a string"),
            (True, "spool: expected a table, got a boolean"),
            ([], "spool: expected a table, got an array"),
            ({"path": "a\0b"}, "spool.path: invalid path"),
            (
                {"path": "~nobody-of-this-name/x"},
                "spool.path: unknown home directory; write the path without ~",
            ),
            ({"path": "/dev/null"}, "spool.path: not a directory"),
            ({"path": "/dev/null/x"}, "spool.path: cannot be used: Not a directory"),
            (
                {"path": "${ABSENT}/x"},
                "spool.path: environment variable ABSENT is not set; "
                "set it or give a default: ${ABSENT:-...}",
            ),
            ({"path": "${EMPTY}"}, "spool.path: must not be empty"),
            (
                {"path": "${"},
                "spool.path: invalid variable; write ${NAME}, or '$${' for a literal '${'",
            ),
            (
                {"path": "/a", "max_byte": 5},
                "spool.max_byte: unknown key; did you mean 'max_bytes'?",
            ),
        ],
    )
    def test_bad_table_has_exactly_its_own_fault(self, table: Any, fault: str) -> None:
        assert faults(table, {"EMPTY": ""}) == [fault]

    def test_unknown_key_suggests_the_one_that_is_meant(self) -> None:
        assert faults({"pth": "/a"}) == [
            "spool.pth: unknown key; did you mean 'path'?",
            "spool.path: missing; the directory for queued events",
        ]

    def test_misspelled_table_suggests_the_one_that_is_meant(self) -> None:
        with pytest.raises(ConfigError, match="spol: unknown key; did you mean 'spool'"):
            OtelConfig.from_table({"spol": {"path": "a"}}, strict=True)

    def test_home_directory_that_is_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # without HOME and passwd
        assert faults({"path": "~/x"}) == [
            "spool.path: unknown home directory; write the path without ~"
        ]

    def test_working_directory_that_was_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "gone"
        folder.mkdir()
        monkeypatch.chdir(folder)
        folder.rmdir()
        assert faults({"path": "events"}) == [
            "spool.path: unknown working directory; write an absolute path"
        ]
        assert path_of({"path": "/events"}) == "/events"
        assert path_of({"path": "~/events"}) == f"{tmp_path}/events"

    @pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o770, 0o777, 0o1777])
    def test_directory_that_is_open_to_others(self, tmp_path: Path, mode: int) -> None:
        folder = tmp_path / "spool"
        folder.mkdir()
        folder.chmod(mode)
        fault = "spool.path: the directory is open to other users; run: chmod 700"
        assert faults({"path": str(folder)}) == [fault]
        link = tmp_path / "link"
        link.symlink_to(folder)
        assert faults({"path": str(link)}) == [fault]
        folder.chmod(0o700)
        assert path_of({"path": str(link)}) == str(link)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    def test_directory_of_another_user(self, tmp_path: Path) -> None:
        folder = tmp_path / "spool"
        folder.mkdir(0o700)
        os.chown(folder, 12345, 12345)
        assert faults({"path": str(folder)}) == [
            "spool.path: the directory belongs to another user"
        ]

    @pytest.mark.parametrize("kind", ["file", "FIFO", "socket"])
    def test_other_file_in_its_place(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "spool"
        if kind == "file":
            path.touch()
        elif kind == "FIFO":
            os.mkfifo(path)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(path))
        assert faults({"path": str(path)}) == ["spool.path: not a directory"]

    def test_handler_raises_the_fault_when_it_is_built(self, tmp_path: Path) -> None:
        (tmp_path / "spool").touch()
        with pytest.raises(ConfigError, match=r"spool\.path: not a directory"):
            CodexOtelHandler({"spool": {"path": str(tmp_path / "spool")}})


class TestSchema:
    @pytest.mark.parametrize(
        "table", [{"path": "a"}, {"path": "~/a"}, {"path": "${A}/b"}, {"path": "$${A}"}]
    )
    def test_schema_accepts_every_form_of_path(self, table: Any) -> None:
        jsonschema.validate({"otel": {"spool": table}}, schema())

    @pytest.mark.parametrize(
        "table", [{}, {"path": ""}, {"path": 5}, {"path": "${"}, {"path": "a", "b": 1}, "a", []]
    )
    def test_schema_rejects_invalid_tables(self, table: Any) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"otel": {"spool": table}}, schema())


class TestCheck:
    def test_check_lists_the_path_as_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WHERE", str(tmp_path))
        file = tmp_path / "otel.toml"
        file.write_text('[otel.spool]\npath = "${WHERE}/events"')
        assert main(["check", str(file), "--json"]) == 0
        listed = {each["key"]: each for each in json.loads(capsys.readouterr().out)["settings"]}
        assert listed["spool.path"] == {
            "key": "spool.path",
            "value": "${WHERE}/events",
            "source": "file",
            "variables": ["WHERE"],
        }
        assert "spool" not in listed
        assert main(["check", str(file)]) == 0
        assert "spool.path" in capsys.readouterr().out
        assert not (tmp_path / "events").exists()

    def test_check_lists_nothing_without_a_spool(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_text("[otel]")
        assert main(["check", str(file), "--json"]) == 0
        assert "spool" not in capsys.readouterr().out

    def test_check_reports_a_directory_that_is_open_to_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "events").mkdir()
        (tmp_path / "events").chmod(0o755)
        file = tmp_path / "otel.toml"
        file.write_text('[otel.spool]\npath = "events"')
        assert main(["check", str(file)]) == 2
        assert "open to other users; run: chmod 700" in capsys.readouterr().err


def destination(endpoint: str, environ: Mapping[str, str] | None = None, **table: Any) -> str:
    config = OtelConfig.from_table(
        {"exporter": {"otlp-http": {"endpoint": endpoint, **table}}}, environ=environ or {}
    )
    assert config.exporter is not None
    return config.exporter.destination


class TestDestination:
    """What a segment says about where its events were to be sent."""

    def test_address_that_is_written_in_several_ways_is_the_same(self) -> None:
        plain = "http://c.example.com:4318/v1/logs"
        expected = f"otlp-http {plain}"
        assert destination(plain) == expected
        assert destination("${URL}", {"URL": plain}) == expected
        assert destination("http://${HOST}/v1/logs", {"HOST": "c.example.com:4318"}) == expected
        assert destination(f"{plain}?token=x") == expected
        assert destination("http://u:p%40@c.example.com:4318/v1/logs") == expected
        assert destination(plain, headers={"x": "y"}, protocol="json") == expected

    def test_bare_exporter_has_the_address_of_its_variables(self) -> None:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.example.com:4318"}
        config = OtelConfig.from_table({"exporter": "otlp-http"}, environ=environ)
        assert config.exporter is not None
        assert config.exporter.destination == "otlp-http http://c.example.com:4318/v1/logs"
        config = OtelConfig.from_table({"exporter": "otlp-grpc"}, environ=environ)
        assert config.exporter is not None
        assert config.exporter.destination == "otlp-grpc http://c.example.com:4318"

    @pytest.mark.parametrize(
        ("endpoint", "key"),
        [
            ("http://c/${KEY}/v1/logs", "s3cr3t"),
            ("http://c/${KEY}", "v1/logs/s3cr3t"),
            ("${KEY}", "http://c/s3cr3t/v1/logs"),
            ("${KEY}/v1/logs", "http://c/s3cr3t"),
        ],
    )
    def test_path_of_a_variable_is_a_hash(self, endpoint: str, key: str) -> None:
        one = destination(endpoint, {"KEY": key})
        other = destination(endpoint, {"KEY": key.replace("s3cr3t", "0th3r")})
        assert one.startswith("otlp-http http://c/(")
        assert "s3cr3t" not in one
        assert one != other
        assert one == destination(endpoint, {"KEY": key})

    def test_path_as_written_is_shown(self) -> None:
        assert destination("https://c/otlp/v1/logs") == "otlp-http https://c/otlp/v1/logs"
        assert destination("https://${H}/otlp/v1/logs", {"H": "c"}) == (
            "otlp-http https://c/otlp/v1/logs"
        )

    @pytest.mark.parametrize("target", ["c:4317", "http://c:4317", "[::1]:1", "https://c"])
    def test_target_of_grpc(self, target: str) -> None:
        assert ExporterConfig("otlp-grpc", target).destination == f"otlp-grpc {target}"


class TestWithoutEffect:
    """A spool of a handler that exports nothing."""

    @pytest.mark.parametrize(
        ("exporter", "variable"), [("none", ""), ("otlp-http", "OTEL_SDK_DISABLED")]
    )
    @pytest.mark.processes
    def test_spool_of_a_handler_that_exports_nothing_does_nothing(
        self, run_python: RunPython, tmp_path: Path, exporter: str, variable: str
    ) -> None:
        table = f'[otel]\nexporter = "{exporter}"\nspool.path = "events"'
        (tmp_path / "otel.toml").write_text(table)
        result = run_python(read_program("spool_modules"), **{variable or "X": "true"})
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "no module of the spool\n"
        assert not (tmp_path / "events").exists()

    @pytest.mark.processes
    def test_handler_without_a_spool_imports_nothing_of_it(
        self, run_python: RunPython, tmp_path: Path
    ) -> None:
        table = '[otel]\nexporter.otlp-http.endpoint = "http://127.0.0.1:9/v1/logs"\n'
        batch = "batch.shutdown_timeout_ms = 0\n"
        (tmp_path / "otel.toml").write_text(table + batch)
        result = run_python(read_program("spool_modules"))
        assert result.stdout == "no module of the spool\n"
        (tmp_path / "otel.toml").write_text(f'{table}{batch}spool.path = "events"')
        result = run_python(read_program("spool_modules"))
        assert "codex_otel_logging.delivery.spool.journal" in result.stdout


class TestPlatformWithoutLocks:
    def test_events_are_kept_in_memory_and_one_warning_says_so(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        receiver: Receiver,
    ) -> None:
        monkeypatch.setattr(disk, "fcntl", None)
        path = tmp_path / "events"
        settings = {"exporter": over_http(receiver), "spool": {"path": str(path)}}
        handler = CodexOtelHandler(settings)
        logger = logging.getLogger("codex_otel.spool")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            for number in range(3):
                logger.info(
                    "codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"}
                )
            assert handler.flush(10)
        finally:
            logger.removeHandler(handler)
            handler.close()
        stats = handler.stats()
        assert (stats.exported, stats.spooled) == (3, 0)
        assert not path.exists()
        assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == [
            f"spool {path}: not supported on this platform; events are kept in memory only"
        ]
