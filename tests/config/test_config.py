"""Covers `OtelConfig`: keys, defaults, `${NAME}`, faults and warnings, files, TLS, Codex files."""

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import ConfigError, OtelConfig, Stats, from_toml, text
from codex_otel_logging.config.settings import BatchConfig, ExporterConfig, TlsConfig
from codex_otel_logging.config.toml import loads
from codex_otel_logging.config.toml_file import default_path
from support.tables import (
    BAD_TABLES,
    GRPC_EXAMPLE,
    HTTP_EXAMPLE,
    NONE_EXAMPLE,
    REAL_CODEX_CONFIG,
    grpc,
    http,
)


def parse(toml: str, **environ: str) -> OtelConfig:
    return OtelConfig.from_table(loads(toml)["otel"], environ=environ)


def faults(otel: str | Mapping[str, Any], **environ: str) -> list[str]:
    """Return the faults of a table, without the prefix `[otel] `."""
    table = loads(otel) if isinstance(otel, str) else otel
    return faults_of(lambda: OtelConfig.from_table(table, environ=environ))


def strict_faults(otel: Mapping[str, Any]) -> list[str]:
    """Return the faults of strict reading, with no variable set."""
    return faults_of(lambda: OtelConfig.from_table(otel, strict=True, environ={}))


def faults_of(read: Callable[[], OtelConfig]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read()
    assert str(caught.value) == "\n".join(caught.value.faults)
    assert all(fault.startswith("[otel] ") for fault in caught.value.faults)
    return [fault.removeprefix("[otel] ") for fault in caught.value.faults]


class TestDocumentedExamples:
    def test_example_without_exporter_is_parsed(self) -> None:
        assert parse(NONE_EXAMPLE) == OtelConfig(environment="staging")

    def test_http_example_with_multiline_inline_table_is_parsed(self) -> None:
        assert parse(HTTP_EXAMPLE, OTLP_TOKEN="t-1") == OtelConfig(
            exporter=ExporterConfig(
                "otlp-http",
                "https://otel.example.com/v1/logs",
                {"x-otlp-api-key": "t-1"},
                protocol="binary",
            )
        )

    def test_grpc_example_with_multiline_inline_table_is_parsed(self) -> None:
        assert parse(GRPC_EXAMPLE) == OtelConfig(
            exporter=ExporterConfig(
                "otlp-grpc", "https://otel.example.com:4317", {"x-otlp-meta": "abc123"}
            )
        )

    @pytest.mark.skipif(sys.version_info >= (3, 15), reason="tomllib reads TOML 1.1")
    @pytest.mark.parametrize("example", [HTTP_EXAMPLE, GRPC_EXAMPLE])
    def test_tomllib_rejects_the_examples_before_python_3_15(self, example: str) -> None:
        """They are TOML 1.1, which is why the package needs tomli."""
        tomllib = pytest.importorskip("tomllib", reason="tomllib is new in Python 3.11")
        with pytest.raises(tomllib.TOMLDecodeError):
            tomllib.loads(example)

    def test_codex_config_file_loads_and_its_other_tables_are_ignored(self, tmp_path: Path) -> None:
        file = tmp_path / "config.toml"
        file.write_text(REAL_CODEX_CONFIG)
        assert OtelConfig.from_toml(file, environ={"OTLP_TOKEN": "t-1"}) == OtelConfig(
            environment="prod",
            log_user_prompt=True,
            max_output_bytes=4096,
            exporter=ExporterConfig(
                "otlp-http", "https://otel.example.com/v1/logs", {"x-otlp-api-key": "t-1"}
            ),
        )


class TestDefaults:
    def test_empty_table_gives_the_documented_defaults(self) -> None:
        config = OtelConfig.from_table({})
        assert config == OtelConfig()
        assert config.environment == "dev"
        assert config.service_name == "codex-cli"
        assert config.exporter is None
        assert config.log_user_prompt is False
        assert config.log_tool_payloads is True
        assert config.max_attribute_length == 65_536
        assert config.batch == BatchConfig(
            schedule_delay_ms=1000,
            max_batch_size=1024,
            max_queue_size=131_072,
            max_queue_bytes=110 * 1024 * 1024,
            max_request_bytes=int(3.5 * 1024 * 1024),
            retry_for_ms=300_000,
            shutdown_timeout_ms=2000,
        )

    def test_exporter_table_with_endpoint_only_gives_the_documented_defaults(self) -> None:
        exporter = OtelConfig.from_table(http()).exporter
        assert exporter is not None
        assert (exporter.protocol, exporter.compression, exporter.timeout_ms, exporter.tls) == (
            "binary",
            "none",
            10_000,
            None,
        )

    def test_config_is_frozen_and_survives_pickling(self) -> None:
        config = OtelConfig.from_table(http(headers={"a": "b"}))
        assert config.exporter is not None
        with pytest.raises(AttributeError):
            config.environment = "other"  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(config)) == config


class TestKeys:
    def test_every_key_sets_its_field(self) -> None:
        config = parse(
            """
            [otel]
            environment = "prod"
            service_name = "my-agent"
            log_user_prompt = true
            log_tool_payloads = false
            resource_attributes = { "host.name" = "laptop", replicas = 3, tags = ["a", "b"] }
            max_attribute_length = 0
            tool_result = { max_bytes = 10 }
            [otel.batch]
            schedule_delay_ms = 0
            max_batch_size = 2
            max_queue_size = 3
            max_queue_bytes = 4
            max_request_bytes = 5
            retry_for_ms = 6
            shutdown_timeout_ms = 7
            [otel.exporter.otlp-http]
            endpoint = "http://localhost:4318/v1/logs"
            protocol = "json"
            compression = "gzip"
            timeout_ms = 8
            """
        )
        assert config == OtelConfig(
            environment="prod",
            service_name="my-agent",
            log_user_prompt=True,
            log_tool_payloads=False,
            resource_attributes={"host.name": "laptop", "replicas": 3, "tags": ["a", "b"]},
            max_attribute_length=0,
            max_output_bytes=10,
            batch=BatchConfig(0, 2, 3, 4, 5, 6, 7),
            exporter=ExporterConfig(
                "otlp-http",
                "http://localhost:4318/v1/logs",
                protocol="json",
                compression="gzip",
                timeout_ms=8,
            ),
        )

    def test_subtable_dotted_key_and_inline_table_are_equivalent(self) -> None:
        assert (
            parse('[otel.exporter.otlp-grpc]\nendpoint = "c:4317"')
            == parse('[otel]\nexporter.otlp-grpc.endpoint = "c:4317"')
            == parse('[otel]\nexporter = { otlp-grpc = { endpoint = "c:4317" } }')
        )

    @pytest.mark.parametrize("endpoint", ["https://c:4317", "http://c:4317/", "c:4317", "[::1]:1"])
    def test_grpc_endpoint_is_kept_as_written(self, endpoint: str) -> None:
        exporter = OtelConfig.from_table(grpc(endpoint=endpoint)).exporter
        assert exporter is not None
        assert exporter.endpoint == endpoint

    def test_grpc_header_names_become_lower_case(self) -> None:
        exporter = OtelConfig.from_table(grpc(headers={"X-Api-Key": "k"})).exporter
        assert exporter is not None
        assert exporter.headers == {"x-api-key": "k"}


class TestVariableExpansion:
    @pytest.mark.parametrize(
        ("text", "expanded"),
        [
            ("${TOKEN}", "t"),
            ("Bearer ${TOKEN}!", "Bearer t!"),
            ("${TOKEN}${TOKEN}", "tt"),
            ("${ABSENT:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${ABSENT:-}", ""),
            ("$${TOKEN}", "${TOKEN}"),
            ("$$", "$"),
            ("$TOKEN", "$TOKEN"),
            ("${NESTED}", "${TOKEN}"),
        ],
    )
    def test_variables_in_header_values_are_expanded(self, text: str, expanded: str) -> None:
        environ = {"TOKEN": "t", "EMPTY": "", "NESTED": "${TOKEN}"}
        config = OtelConfig.from_table(http(headers={"x": text}), environ=environ)
        assert config.exporter is not None
        assert config.exporter.headers == {"x": expanded}

    def test_variables_are_expanded_under_the_exporter_only(self) -> None:
        table = http(endpoint="${URL}", compression="${ZIP}", headers={"x": "${TOKEN}"})
        table["environment"] = "${ENV}"
        environ = {"URL": "http://c/v1/logs", "ZIP": "gzip", "TOKEN": "t"}
        config = OtelConfig.from_table(table, environ=environ)
        assert config == OtelConfig(
            environment="${ENV}",
            exporter=ExporterConfig(
                "otlp-http", "http://c/v1/logs", {"x": "t"}, compression="gzip"
            ),
        )

    def test_unset_variable_is_a_fault_that_names_it(self) -> None:
        assert faults(http(headers={"x-key": "${OTLP_TOKEN}"})) == [
            "exporter.otlp-http.headers.x-key: environment variable OTLP_TOKEN is not set; "
            "set it or give a default: ${OTLP_TOKEN:-...}"
        ]

    @pytest.mark.parametrize("text", ["${", "${}", "${A B}", "${A", "x${1}", "${A:-${B}}"])
    def test_invalid_variable_is_a_fault(self, text: str) -> None:
        (fault,) = faults(http(headers={"x": text}))
        assert fault == (
            "exporter.otlp-http.headers.x: "
            "invalid variable; write ${NAME}, or '$${' for a literal '${'"
        )


class TestFaults:
    @pytest.mark.parametrize(("table", "fault"), BAD_TABLES)
    def test_bad_table_has_exactly_its_own_fault(self, table: dict[str, Any], fault: str) -> None:
        """Some of these faults are warnings unless reading is strict."""
        assert strict_faults(table) == [fault]

    @pytest.mark.parametrize(
        "value", [f"0x{100_000 * 'f'}", "9223372036854775808", "[1, -9223372036854775809]"]
    )
    def test_resource_attribute_of_more_than_64_bits_is_a_fault(self, value: str) -> None:
        """Python refuses to format a long hexadecimal integer in decimal."""
        table = loads(f"resource_attributes = {{ a = {value} }}")
        assert strict_faults(table) == [
            "resource_attributes.a: integers must fit in 64 bits",
        ]

    def test_resource_attributes_of_64_bits_are_accepted(self) -> None:
        limits = [-(1 << 63), (1 << 63) - 1]
        config = OtelConfig.from_table({"resource_attributes": {"a": limits}})
        assert config.resource_attributes["a"] == limits

    def test_all_faults_are_reported_at_once_in_file_order(self) -> None:
        table = loads(
            """
            exportr = 1
            log_user_prompt = 1
            batch = { max_batch_size = "x", foo = 1 }
            exporter = { otlp-http = {
              endpoint = "otel.example.com",
              protocol = "${PROTOCOL}",
              headers = { "x-key" = "${TOKEN}", "a b" = "x" },
              retries = 4,
            } }
            environment = []
            """
        )
        assert strict_faults(table) == [
            "exportr: unknown key; did you mean 'exporter'?",
            "log_user_prompt: expected true or false, got an integer",
            "batch.max_batch_size: expected an integer, got a string",
            "batch.foo: unknown key; expected one of max_batch_size, max_queue_bytes, "
            "max_queue_size, max_request_bytes, retry_for_ms, schedule_delay_ms, "
            "shutdown_timeout_ms",
            "exporter.otlp-http.endpoint: must begin with https:// or http://",
            "exporter.otlp-http.protocol: environment variable PROTOCOL is not set; "
            "set it or give a default: ${PROTOCOL:-...}",
            "exporter.otlp-http.headers.x-key: environment variable TOKEN is not set; "
            "set it or give a default: ${TOKEN:-...}",
            "exporter.otlp-http.headers.a...: invalid header name; use letters, digits and hyphens",
            "exporter.otlp-http.retries: unknown key; expected one of compression, endpoint, "
            "headers, protocol, timeout_ms, tls",
            "environment: expected a string, got an array",
        ]

    def test_faults_contain_no_secret(self) -> None:
        secret = "s3cr3t"
        table = http(
            endpoint=f"ftp://user:{secret}@c/?key={secret}",
            headers={"x": f"{secret}\n", "y": "${TOKEN}\n", "z": f"{secret}☕", "b": ["s3cr3t"]},
            compression="${TOKEN}",
            protocol="${TOKEN}",
        )
        found = faults(table, TOKEN=secret)
        assert len(found) == 7
        assert secret not in "\n".join(found)

    @pytest.mark.parametrize("table", [http, grpc])
    @pytest.mark.parametrize("value", ["", "${NAME}", 5])
    def test_header_written_as_one_text_is_not_shown(
        self, table: Callable[..., dict[str, Any]], value: object
    ) -> None:
        found = faults(table(headers={"Authorization: Bearer s3cr3t": value, "=s3cr3t": value}))
        assert [fault.rpartition(".headers.")[2].partition(";")[0] for fault in found] in (
            ["Authorization...: invalid header name", "...: invalid header name"],
            ["Authorization...: invalid metadata key", "...: invalid metadata key"],
        )


class TestFiles:
    def test_home_and_variables_in_the_path_are_expanded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "otel.toml").write_text('[otel]\nenvironment = "found"')
        monkeypatch.setenv("FOLDER", str(tmp_path))
        assert OtelConfig.from_toml("~/otel.toml").environment == "found"
        assert OtelConfig.from_toml("$FOLDER/otel.toml").environment == "found"
        assert OtelConfig.from_toml(tmp_path / "otel.toml").environment == "found"

    def test_file_without_otel_table_gives_the_defaults(self, tmp_path: Path) -> None:
        (tmp_path / "otel.toml").write_text('model = "gpt-5"')
        assert OtelConfig.from_toml(tmp_path / "otel.toml") == OtelConfig()

    def test_missing_file_is_a_fault_unless_missing_ok(self, tmp_path: Path) -> None:
        file = tmp_path / "absent.toml"
        assert OtelConfig.from_toml(file, missing_ok=True) == OtelConfig()
        with pytest.raises(ConfigError, match="no such file; create it, or pass missing_ok=True"):
            OtelConfig.from_toml(file)

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"[otel", "invalid TOML: Expected ']' at the end of a table declaration"),
            (b'[otel]\nx = "\xff"', "invalid UTF-8 at byte 12; save the file as UTF-8"),
            (b"otel = 5", "otel: expected a table, got an integer"),
            (b"[otel]\nx = " + b"[" * 5000, "cannot be read: "),
            (b"[otel]\nx = " + b"9" * 5000, "cannot be read: "),
            (b"[otel]\nexportr = 1", "[otel] exportr: unknown key; did you mean 'exporter'?"),
        ],
    )
    def test_fault_of_a_file_begins_with_its_path(
        self, tmp_path: Path, content: bytes, fault: str
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            OtelConfig.from_toml(file)
        assert str(caught.value).replace("'", "").startswith(f"{file}: {fault}".replace("'", ""))
        assert len(caught.value.faults) == 1

    @pytest.mark.parametrize(
        "content",
        [
            'exporter = "otlp-http"\n[otel.exporter.otlp-http]\nendpoint = "http://c/v1/logs"',
            'exporter = "otlp-http"\n\n[ otel . "exporter" . otlp-http.tls ]',
            'exporter = "otlp-http"\nexporter.otlp-http.endpoint = "http://c/v1/logs"',
            'exporter = { otlp-http = { endpoint = "x" } }\n[otel.exporter.otlp-http]',
            'exporter = "none"\nexporter = "otlp-http"',
        ],
    )
    def test_exporter_set_twice_gets_a_hint(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "otel.toml"
        file.write_text(f"[otel]\n{content}")
        with pytest.raises(ConfigError) as caught:
            OtelConfig.from_toml(file)
        assert str(caught.value).endswith(
            "; the exporter is set twice: keep either the table, such as "
            "[otel.exporter.otlp-http], or the line exporter = ..., and delete the other"
        )

    def test_other_key_set_twice_gets_no_exporter_hint(self, tmp_path: Path) -> None:
        file = tmp_path / "otel.toml"
        file.write_text('[otel.exporter.otlp-http]\nendpoint = "a"\n[x]\ny = 1\ny = 2\n')
        with pytest.raises(ConfigError, match=r"a value \(at line 5, column \d+\)$"):
            OtelConfig.from_toml(file)

    def test_byte_order_mark_is_accepted(self, tmp_path: Path) -> None:
        file = tmp_path / "otel.toml"
        file.write_bytes(b'\xef\xbb\xbf[otel]\nenvironment = "found"')
        assert OtelConfig.from_toml(file).environment == "found"

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("a\0b", "a\\x00b: no such file (invalid path); "),
            ("a\ud800b", "a\\ud800b: no such file (invalid path); "),
            (
                "~nobody-has-this-name/x",
                "~nobody-has-this-name/x: no such file (unknown home directory); ",
            ),
            ("/dev/null/otel.toml", "/dev/null/otel.toml: no such file (Not a directory); "),
            ("x" * 5000, "x" * 5000 + ": no such file (File name too long); "),
        ],
        ids=["NUL", "surrogate", "home of nobody", "folder that is a file", "long name"],
    )
    def test_path_that_cannot_exist_counts_as_missing(self, path: str, why: str) -> None:
        assert OtelConfig.from_toml(path, missing_ok=True) == OtelConfig()
        with pytest.raises(ConfigError) as caught:
            OtelConfig.from_toml(path)
        assert str(caught.value).startswith(why)
        assert str(caught.value).endswith("create it, or pass missing_ok=True to run without it")

    @pytest.mark.parametrize("home", ["/nonexistent", "/dev/null", None])
    def test_default_file_counts_as_missing_without_a_home_directory(
        self, home: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Containers run as users with HOME=/dev/null, or without HOME and passwd entry."""

        def not_found(_uid: int) -> None:
            raise KeyError("uid not found")

        if home is None:
            monkeypatch.delenv("HOME")
            monkeypatch.setattr("pwd.getpwuid", not_found)
        else:
            monkeypatch.setenv("HOME", home)
        assert OtelConfig.from_toml(missing_ok=True) == OtelConfig()
        with pytest.raises(ConfigError, match=r"^~/\.codex/config\.toml: no such file"):
            OtelConfig.from_toml()

    def test_folder_is_a_fault_even_if_missing_ok(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: not a regular file"):
            OtelConfig.from_toml(tmp_path, missing_ok=True)


class TestTls:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        certificates = tmp_path / "certs"
        certificates.mkdir()
        (certificates / "odd.pem").write_text("this is no certificate")
        return tmp_path

    def test_file_without_certificate_is_a_fault(self, folder: Path) -> None:
        file = folder / "otel.toml"
        file.write_text(
            '[otel.exporter.otlp-http]\nendpoint = "https://c/v1/logs"\n'
            '[otel.exporter.otlp-http.tls]\nca-certificate = "certs/odd.pem"\n'
            'client-certificate = "certs/odd.pem"\nclient-private-key = "certs/odd.pem"\n'
        )
        with pytest.raises(ConfigError) as caught:
            OtelConfig.from_toml(file)
        assert [fault.partition("tls.")[2] for fault in caught.value.faults] == [
            "ca-certificate: the file contains no PEM certificate",
            "client-certificate: expected a PEM certificate and its unencrypted client-private-key",
        ]

    @pytest.mark.parametrize(
        ("given", "missing"),
        [
            ("client-certificate", "client-private-key"),
            ("client-private-key", "client-certificate"),
        ],
    )
    def test_client_certificate_without_key_or_key_without_certificate_is_a_fault(
        self, folder: Path, given: str, missing: str
    ) -> None:
        table = http(tls={given: str(folder / "certs" / "odd.pem")})
        assert faults(table) == [
            f"exporter.otlp-http.tls.{missing}: "
            "missing; set the client certificate and its key together"
        ]

    def test_empty_tls_table_trusts_the_systems_authorities(self) -> None:
        exporter = OtelConfig.from_table(http(tls={})).exporter
        assert exporter is not None
        assert exporter.tls == TlsConfig()


def test_repr_masks_header_values_and_secrets_of_the_endpoint() -> None:
    config = OtelConfig.from_table(
        http(endpoint="https://user:s3cr3t@c:1/v1/logs?key=s3cr3t", headers={"x-key": "s3cr3t"})
    )
    assert "s3cr3t" not in repr(config)
    assert "{'x-key': '***'}" in repr(config)
    assert "'https://c:1/v1/logs'" in repr(config)


def test_repr_shows_variables_unexpanded(tmp_path: Path) -> None:
    file = tmp_path / "s3cr3t.pem"
    table = http(endpoint="https://${HOST}/${KEY}/v1/logs", tls={"ca-certificate": "${FILE}"})
    file.write_text("")
    environ = {"HOST": "c", "KEY": "s3cr3t", "FILE": str(file)}
    with pytest.raises(ConfigError) as caught:
        OtelConfig.from_table(table, environ=environ)
    assert "s3cr3t" not in str(caught.value)
    del table["exporter"]["otlp-http"]["tls"]
    config = OtelConfig.from_table(table, environ=environ)
    assert config.exporter is not None
    assert config.exporter.endpoint == "https://c/s3cr3t/v1/logs"
    assert "'https://${HOST}/${KEY}/v1/logs'" in repr(config)
    assert "s3cr3t" not in repr(config)
    assert repr(TlsConfig("s3cr3t.pem")) == "TlsConfig(ca_certificate=...)"


def test_variables_are_looked_up_in_os_environ_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OTLP_TOKEN", "from the process")
    config = OtelConfig.from_table(http(headers={"x": "${OTLP_TOKEN}"}))
    assert config.exporter is not None
    assert config.exporter.headers == {"x": "from the process"}


CODEX_KEYS = {
    "environment": "dev",
    "exporter": "none",
    "trace_exporter": {"otlp-http": {"endpoint": "http://c/v1/traces", "protocol": "binary"}},
    "metrics_exporter": "statsig",
    "log_user_prompt": True,
    "tool_result": {"max_bytes": 100},
    "log_agent_responses": True,
    "log_guardian_assessments": True,
    "log_sse_deltas": False,
    "span_attributes": {"team": "x"},
    "tracestate": {"vendor": {"key": "value"}},
}
"""Every key of the `[otel]` table of Codex CLI 0.169.0, with values other than the defaults."""


class TestCodexFiles:
    @pytest.mark.parametrize("exporter", ["none", "otlp-http", "otlp-grpc", "statsig"])
    def test_every_codex_key_loads_with_any_exporter(self, exporter: str) -> None:
        config = OtelConfig.from_table({**CODEX_KEYS, "exporter": exporter}, environ={})
        assert (config.log_user_prompt, config.max_output_bytes) == (True, 100)
        assert (config.log_agent_responses, config.log_guardian_assessments) == (True, True)
        assert config.log_sse_deltas is False
        assert len(config.warnings) == (exporter == "statsig")

    @pytest.mark.parametrize("key", ["log_agent_responses", "log_sse_deltas"])
    def test_codex_key_of_wrong_type_is_a_fault(self, key: str) -> None:
        assert faults({key: 1}) == [f"{key}: expected true or false, got an integer"]

    @pytest.mark.parametrize(
        ("table", "warning"),
        [
            ({"log_foo": True}, "log_foo: unknown key, ignored"),
            ({"batch": {"a_new_limit": 1}}, "batch.a_new_limit: unknown key, ignored"),
            (http(retries=4), "exporter.otlp-http.retries: unknown key, ignored"),
            ({"tool_result": {"unit": "x"}}, "tool_result.unit: unknown key, ignored"),
            (
                {"log_user_prompt_lengths": True},
                "log_user_prompt_lengths: unknown key, ignored; did you mean 'log_user_prompt'?",
            ),
        ],
    )
    def test_unknown_key_is_one_warning(self, table: dict[str, Any], warning: str) -> None:
        config = OtelConfig.from_table(table, environ={})
        assert config.warnings == (f"[otel] {warning}",)
        without = http() if "exporter" in table else {}
        assert config == OtelConfig.from_table(without, environ={})

    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("exportr", "exporter"),
            ("expotrer", "exporter"),
            ("log-user-prompt", "log_user_prompt"),
            ("logUserPrompt", "log_user_prompt"),
            ("log_sse_delta", "log_sse_deltas"),
            ("log_agent_response", "log_agent_responses"),
            ("enviroment", "environment"),
            ("trace_exportr", "trace_exporter"),
        ],
    )
    def test_misspelt_key_is_a_fault(self, key: str, meant: str) -> None:
        assert faults({key: 1}) == [f"{key}: unknown key; did you mean {meant!r}?"]

    @pytest.mark.parametrize(
        ("table", "fault"),
        [
            (
                {"exporter": "otlp-http", "endpoint": "http://c/"},
                "endpoint: belongs in the exporter's table: exporter = { otlp-http = { ... } }",
            ),
            (
                {"exporter": "otlp-http", "headers": {}},
                "headers: belongs in the exporter's table: exporter = { otlp-http = { ... } }",
            ),
            ({"max_queue_size": 1}, "max_queue_size: belongs in [otel.batch]"),
            ({"max_bytes": 1}, "max_bytes: belongs in [otel.tool_result]"),
            (
                {"batch": {"environment": "x"}},
                "batch.environment: belongs in [otel]",
            ),
            (
                http(**{"ca-certificate": "x"}),
                "exporter.otlp-http.ca-certificate: belongs in the tls table of the exporter",
            ),
        ],
    )
    def test_misplaced_key_is_a_fault_that_names_its_table(
        self, table: dict[str, Any], fault: str
    ) -> None:
        assert faults(table) == [fault]

    def test_keys_of_headers_and_resource_attributes_are_not_checked_for_typos(self) -> None:
        table = {**http(headers={"enviroment": "x"}), "resource_attributes": {"exportr": "y"}}
        assert OtelConfig.from_table(table, environ={}).warnings == ()

    def test_huge_key_is_not_compared_with_known_keys(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Comparing takes time in proportion to both lengths."""
        monkeypatch.setattr(text, "_edit_distance", lambda *_: pytest.fail("compared"))
        assert len(OtelConfig.from_table({"x" * 1_000_000: 1}, environ={}).warnings) == 1


class TestDefaultPath:
    def test_default_path_is_in_the_home_directory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("CODEX_HOME", raising=False)
        assert default_path() == "~/.codex/config.toml"
        (tmp_path / ".codex").mkdir()
        (tmp_path / ".codex" / "config.toml").write_text('[otel]\nenvironment = "home"')
        assert OtelConfig.from_toml().environment == "home"

    def test_codex_home_replaces_the_default_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("CODEX_HOME", str(tmp_path))
        assert default_path() == f"{tmp_path}/config.toml"
        (tmp_path / "config.toml").write_text('[otel]\nenvironment = "moved"')
        assert OtelConfig.from_toml().environment == "moved"
        assert from_toml().stats() == Stats()

    def test_empty_codex_home_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CODEX_HOME", "")
        assert default_path() == "~/.codex/config.toml"

    def test_variables_with_defaults_in_the_path_are_expanded(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "otel.toml").write_text('[otel]\nenvironment = "there"')
        monkeypatch.setenv("THERE", str(tmp_path))
        for path in ("${THERE:-/nowhere}/otel.toml", "${NOT_SET:-~}/otel.toml", "$THERE/otel.toml"):
            assert OtelConfig.from_toml(path).environment == "there"
        with pytest.raises(ConfigError, match="no such file"):
            OtelConfig.from_toml("${NOT_SET}/otel.toml")

    def test_handler_logs_warnings_and_raises_them_if_strict(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "otel.toml"
        file.write_text("[otel]\nlog_foo = true")
        from_toml(file)
        assert caplog.messages == [f"{file}: [otel] log_foo: unknown key, ignored"]
        with pytest.raises(ConfigError, match="log_foo: unknown key; expected one of"):
            from_toml(file, strict=True)
