"""Covers the `OTEL_*` variables: their meaning, invalid values, and agreement with the exporters.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
    OTLPLogExporter as OfficialGrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http._log_exporter import (
    OTLPLogExporter as OfficialHttpExporter,
)

from codex_otel_logging import ConfigError, OtelConfig, Receiver, from_table
from codex_otel_logging.config.environment import is_disabled
from codex_otel_logging.config.settings import MAX_INTEGER, BatchConfig, ExporterConfig, TlsConfig
from codex_otel_logging.events.event import SharedAttributes
from codex_otel_logging.otlp.factory import connect
from support.collectors import HttpCollector
from support.events import log
from support.fixtures import HandlerFactory

HTTP, GRPC = "otlp-http", "otlp-grpc"

SECRET = "s3cr3t"


def read(name: str, environ: Mapping[str, str]) -> OtelConfig:
    """Return the settings for an exporter that is only a name."""
    return OtelConfig.from_table({"exporter": name}, environ=environ)


def bare(name: str, environ: Mapping[str, str]) -> ExporterConfig:
    """Return the exporter of these settings."""
    exporter = read(name, environ).exporter
    assert exporter is not None
    return exporter


def expand(*rows: tuple[str, str, Any]) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return rows of (variables, {setting: value}); `*` stands for both prefixes of a variable."""
    return [
        (
            dict(pair.split("=", 1) for pair in text.replace("*", prefix).split(" | ") if pair),
            {setting: value} if setting else {},
        )
        for text, setting, value in rows
        for prefix in dict.fromkeys(
            ("OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_LOGS_") if "*" in text else ("",)
        )
    ]


VALID = expand(
    ("", "", None),
    *((f"*{name}={value}", "", None) for name in (
        "ENDPOINT", "HEADERS", "COMPRESSION", "TIMEOUT", "INSECURE",
        "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY", "PROTOCOL",
    ) for value in ("", "  ", "\t\n")),
    ("*TIMEOUT=1000", "timeout_ms", 1000),
    ("*TIMEOUT=12000", "timeout_ms", 12_000),
    ("*TIMEOUT=100", "timeout_ms", 100),
    ("*TIMEOUT=99", "timeout_ms", 99_000),
    ("*TIMEOUT=10", "timeout_ms", 10_000),
    ("*TIMEOUT= 3 ", "timeout_ms", 3000),
    ("*TIMEOUT=0.5", "timeout_ms", 500),
    ("*TIMEOUT=.0001", "timeout_ms", 1),
    ("*TIMEOUT=0", "timeout_ms", MAX_INTEGER),
    ("OTEL_EXPORTER_OTLP_TIMEOUT=3 | OTEL_EXPORTER_OTLP_LOGS_TIMEOUT=5", "timeout_ms", 5000),
    ("OTEL_EXPORTER_OTLP_TIMEOUT=3 | OTEL_EXPORTER_OTLP_LOGS_TIMEOUT=", "timeout_ms", 3000),
    ("*COMPRESSION=gzip", "compression", "gzip"),
    ("*COMPRESSION= GZip ", "compression", "gzip"),
    ("*COMPRESSION=none", "compression", "none"),
    (
        "OTEL_EXPORTER_OTLP_COMPRESSION=gzip | OTEL_EXPORTER_OTLP_LOGS_COMPRESSION=none",
        "compression",
        "none",
    ),
    ("*HEADERS=a=1,b=x%20y, C = d ,", "headers", {"a": "1", "b": "x y", "c": "d"}),
    ("*HEADERS=a=1,A=2", "headers", {"a": "2"}),
    ("*HEADERS=authorization=Bearer 100%25", "headers", {"authorization": "Bearer 100%25"}),
    ("*HEADERS=authorization=Basic dXNlcjpwYXNzd29yZA==", "headers",
     {"authorization": "Basic dXNlcjpwYXNzd29yZA=="}),
    ("*HEADERS=a=,b=c=d", "headers", {"a": "", "b": "c=d"}),
    ("*HEADERS= , ,", "headers", {}),
    ("OTEL_EXPORTER_OTLP_HEADERS=a=1 | OTEL_EXPORTER_OTLP_LOGS_HEADERS=b=2", "headers", {"b": "2"}),
)  # fmt: skip

IGNORED = expand(
    *((f"*TIMEOUT={value}", "timeout_ms", 10_000) for value in (
        "soon", "-1", "1s", "1_000", "nan", "inf", "1e3", "9" * 5000, "٣",
    )),
    ("OTEL_EXPORTER_OTLP_TIMEOUT=3 | OTEL_EXPORTER_OTLP_LOGS_TIMEOUT=soon", "timeout_ms", 3000),
    ("*COMPRESSION=deflate", "compression", "none"),
    ("*COMPRESSION=zip", "compression", "none"),
    (
        "OTEL_EXPORTER_OTLP_COMPRESSION=gzip | OTEL_EXPORTER_OTLP_LOGS_COMPRESSION=zip",
        "compression",
        "gzip",
    ),
    *((f"*HEADERS=a=1,{pair},b=2", "headers", {"a": "1", "b": "2"}) for pair in (
        SECRET, f"authorization: Bearer {SECRET}", f"={SECRET}", f"x y={SECRET}", f"x={SECRET}%0A1",
        f"x={SECRET}%00", f"x={SECRET}%E2%82%AC", f"x={SECRET}%FF%FF",
    )),
)  # fmt: skip
"""Invalid variables, and the setting that results."""

HARMLESS = [
    *(each for each, _ in VALID if {"", "0"} & {*each.values()}),
    *(each for each, _ in IGNORED),
]

over_each_exporter = pytest.mark.parametrize("name", [HTTP, GRPC])


class TestBareNames:
    @over_each_exporter
    @pytest.mark.parametrize(("environ", "expected"), VALID, ids=str)
    def test_valid_variable_decides_its_setting(
        self, name: str, environ: dict[str, str], expected: dict[str, Any]
    ) -> None:
        config = read(name, environ)
        defaults = bare(name, {})
        for setting in ("endpoint", "headers", "compression", "timeout_ms", "insecure", "tls"):
            value = getattr(config.exporter, setting)
            assert value == expected.get(setting, getattr(defaults, setting))
        assert config.warnings == ()

    @over_each_exporter
    @pytest.mark.parametrize(("environ", "expected"), IGNORED, ids=lambda value: str(value)[:80])
    def test_invalid_variable_is_ignored_with_a_warning_that_names_it(
        self, name: str, environ: dict[str, str], expected: dict[str, Any]
    ) -> None:
        config = read(name, environ)
        ((setting, value),) = expected.items()
        assert getattr(config.exporter, setting) == value
        (warning,) = config.warnings
        variable = max(environ, key=len)
        assert warning.startswith(f"[otel] exporter: environment variable {variable}")
        assert " ignored: " in warning
        assert SECRET not in warning

    def test_header_outside_ascii_is_sent_over_http_and_ignored_over_grpc(self) -> None:
        environ = {"OTEL_EXPORTER_OTLP_HEADERS": "team=caf%C3%A9"}
        assert bare(HTTP, environ).headers == {"team": "café"}
        assert read(HTTP, environ).warnings == ()
        assert bare(GRPC, environ).headers == {}
        assert len(read(GRPC, environ).warnings) == 1

    @over_each_exporter
    @pytest.mark.parametrize("header", ["content-type=x", "Content-Length=1", "grpc-timeout=1S"])
    def test_headers_reserved_by_the_protocol_are_ignored(self, name: str, header: str) -> None:
        headers = bare(name, {"OTEL_EXPORTER_OTLP_HEADERS": f"{header},a=1"}).headers
        assert "content-type" not in headers or name == GRPC
        assert "content-length" not in headers or name == GRPC
        assert "grpc-timeout" not in headers or name == HTTP

    @over_each_exporter
    @pytest.mark.parametrize(
        "environ", [each for each, _ in (*VALID, *IGNORED)], ids=lambda value: str(value)[:80]
    )
    def test_exporter_table_ignores_variables(self, name: str, environ: dict[str, str]) -> None:
        table = {"exporter": {name: {"endpoint": "http://c.example.com:1"}}}
        config = OtelConfig.from_table(table, environ=environ)
        assert config == OtelConfig.from_table(table, environ={})
        assert (config.warnings, config.variables) == ((), {})

    def test_handler_warns_of_ignored_variables(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")
        from_table({"exporter": HTTP})
        assert caplog.messages == [
            "[otel] exporter: environment variable OTEL_EXPORTER_OTLP_COMPRESSION ignored: "
            "expected none or gzip"
        ]
        with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_COMPRESSION ignored"):
            from_table({"exporter": HTTP}, strict=True)


class TestEndpoint:
    @pytest.mark.parametrize(
        ("environ", "endpoint"),
        [
            ({}, "http://localhost:4318/v1/logs"),
            ({"ENDPOINT": "http://c:1"}, "http://c:1/v1/logs"),
            ({"ENDPOINT": "https://c:1/"}, "https://c:1/v1/logs"),
            ({"ENDPOINT": " HTTP://c:1/base/ "}, "http://c:1/base/v1/logs"),
            ({"ENDPOINT": "http://u:p@c/x?a=b"}, "http://u:p@c/x/v1/logs?a=b"),
            ({"LOGS_ENDPOINT": "http://c:1/x/"}, "http://c:1/x/"),
            ({"LOGS_ENDPOINT": "http://c:1"}, "http://c:1"),
            ({"LOGS_ENDPOINT": "http://c:1/x", "ENDPOINT": "http://d"}, "http://c:1/x"),
            ({"LOGS_ENDPOINT": "", "ENDPOINT": "http://d"}, "http://d/v1/logs"),
            ({"ENDPOINT": "http://c:1", "INSECURE": "false"}, "http://c:1/v1/logs"),
            ({"ENDPOINT": "https://c:1", "INSECURE": "true"}, "https://c:1/v1/logs"),
        ],
        ids=str,
    )
    def test_http_endpoint_follows_from_the_variables(
        self, environ: dict[str, str], endpoint: str
    ) -> None:
        prefixed = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()}
        assert bare(HTTP, prefixed).endpoint == endpoint

    @pytest.mark.parametrize(
        ("environ", "endpoint", "uses_tls"),
        [
            ({}, "http://localhost:4317", False),
            ({"INSECURE": "false"}, "http://localhost:4317", False),
            ({"ENDPOINT": "http://c:1"}, "http://c:1", False),
            ({"ENDPOINT": "http://c:1", "INSECURE": "false"}, "http://c:1", False),
            ({"ENDPOINT": "http://c:1", "LOGS_INSECURE": "false"}, "http://c:1", False),
            ({"ENDPOINT": "https://c:1", "INSECURE": "true"}, "https://c:1", True),
            ({"ENDPOINT": "HTTPS://c:1/", "LOGS_INSECURE": "true"}, "https://c:1", True),
            ({"ENDPOINT": "https://c:1/v1/logs?x"}, "https://c:1", True),
            ({"ENDPOINT": "c:1"}, "https://c:1", True),
            ({"ENDPOINT": "c:1", "INSECURE": ""}, "https://c:1", True),
            ({"ENDPOINT": "c:1", "INSECURE": "True"}, "http://c:1", False),
            ({"ENDPOINT": "c:1", "INSECURE": "false"}, "https://c:1", True),
            (
                {"ENDPOINT": "c:1", "INSECURE": "true", "LOGS_INSECURE": "false"},
                "https://c:1",
                True,
            ),
            ({"ENDPOINT": "c:1", "INSECURE": "true", "LOGS_INSECURE": " "}, "http://c:1", False),
            ({"ENDPOINT": "unix:c.sock"}, "unix:c.sock", True),
            ({"ENDPOINT": "unix:c.sock", "INSECURE": "true"}, "unix:c.sock", False),
            ({"ENDPOINT": "dns:///c:1", "INSECURE": "true"}, "dns:///c:1", False),
        ],
        ids=str,
    )
    def test_grpc_endpoint_and_tls_follow_from_the_variables(
        self, environ: dict[str, str], endpoint: str, uses_tls: bool
    ) -> None:
        prefixed = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()}
        exporter = bare(GRPC, prefixed)
        assert (exporter.endpoint, exporter.uses_tls) == (endpoint, uses_tls)

    def test_boolean_other_than_true_is_false_with_a_warning(self) -> None:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:1", "OTEL_EXPORTER_OTLP_INSECURE": "1"}
        assert bare(GRPC, environ).uses_tls
        assert read(GRPC, environ).warnings == (
            "[otel] exporter: environment variable OTEL_EXPORTER_OTLP_INSECURE ignored: "
            "expected true or false",
        )

    @pytest.mark.parametrize("variable", ["ENDPOINT", "LOGS_ENDPOINT"])
    @pytest.mark.parametrize(
        ("name", "endpoint", "problem"),
        [
            (HTTP, f"ftp://user:{SECRET}@c", "must begin with https://"),
            (HTTP, f"user:{SECRET}@c:4318", "must begin with https://"),
            (HTTP, f"http://user:{SECRET}@127.0.0.1:99999", "invalid host or port"),
            (HTTP, f"http://user:{SECRET}/x@c", "invalid host or port"),
            (HTTP, f"http://user:{SECRET}@", "missing host"),
            (HTTP, f"http://c/?key={SECRET}#x", "must not have a fragment"),
            (HTTP, f"http://c /{SECRET}", "must not contain whitespace"),
            (HTTP, f"http://[{SECRET}", "invalid host or port"),
            (GRPC, f"ftp://user:{SECRET}@c", "expected https://host:port"),
            (GRPC, f"https://user:{SECRET}@c:1", "must not contain a user or password"),
            (GRPC, f"user:{SECRET}@c:1", "must not contain a user or password"),
            (GRPC, f"https://c:{SECRET}", "invalid host or port"),
            (GRPC, f"https://?{SECRET}", "missing host"),
        ],
    )
    def test_invalid_endpoint_is_a_fault_that_names_the_variable(
        self, variable: str, name: str, endpoint: str, problem: str
    ) -> None:
        variable = f"OTEL_EXPORTER_OTLP_{variable}"
        with pytest.raises(ConfigError) as caught:
            bare(name, {variable: endpoint})
        (fault,) = caught.value.faults
        assert fault.startswith(f"[otel] exporter: environment variable {variable}: ")
        assert problem in fault
        assert SECRET not in fault


class TestCertificates:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, str]:
        """PEM files: an authority, a certificate, its key, and a file with the last two."""
        authority = trustme.CA()
        client = authority.issue_cert("client@example.com")
        files = {
            "authority": tmp_path / "authority.pem",
            "certificate": tmp_path / "certificate.pem",
            "key": tmp_path / "key.pem",
            "both": tmp_path / "both.pem",
        }
        authority.cert_pem.write_to_path(str(files["authority"]))
        client.cert_chain_pems[0].write_to_path(str(files["certificate"]))
        client.private_key_pem.write_to_path(str(files["key"]))
        client.private_key_and_cert_chain_pem.write_to_path(str(files["both"]))
        return {name: str(path) for name, path in files.items()}

    @over_each_exporter
    @pytest.mark.parametrize("prefix", ["", "LOGS_"])
    def test_tls_files_are_read_from_the_variables(
        self, files: dict[str, str], name: str, prefix: str
    ) -> None:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1",
            f"OTEL_EXPORTER_OTLP_{prefix}CERTIFICATE": files["authority"],
            f"OTEL_EXPORTER_OTLP_{prefix}CLIENT_CERTIFICATE": files["certificate"],
            f"OTEL_EXPORTER_OTLP_{prefix}CLIENT_KEY": files["key"],
        }
        expected = TlsConfig(files["authority"], files["certificate"], files["key"])
        assert bare(name, environ).tls == expected

    @over_each_exporter
    def test_one_client_file_may_hold_certificate_and_key(
        self, files: dict[str, str], name: str
    ) -> None:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": files["both"],
        }
        assert bare(name, environ).tls == TlsConfig(None, files["both"], files["both"])

    @over_each_exporter
    def test_key_without_certificate_is_ignored_with_a_warning(
        self, files: dict[str, str], name: str
    ) -> None:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": files["key"],
        }
        assert bare(name, environ).tls == TlsConfig()
        assert read(name, environ).warnings == (
            "[otel] exporter: environment variable OTEL_EXPORTER_OTLP_CLIENT_KEY ignored: "
            "missing client certificate",
        )

    @over_each_exporter
    def test_tls_files_are_not_read_for_a_plaintext_endpoint(self, name: str) -> None:
        environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": "absent.pem"}
        assert bare(name, environ).tls is None

    @over_each_exporter
    @pytest.mark.parametrize(
        ("variable", "path", "problem"),
        [
            ("CERTIFICATE", "absent.pem", "the file cannot be read: No such file or directory"),
            ("LOGS_CERTIFICATE", ".", "the file cannot be read: not a regular file"),
            ("CERTIFICATE", "\0", "invalid path"),
            ("CERTIFICATE", "odd.pem", "the file contains no PEM certificate"),
            ("CLIENT_CERTIFICATE", "odd.pem", "expected a PEM certificate and its unencrypted"),
        ],
    )
    def test_unusable_file_is_a_fault_that_names_the_variable(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        variable: str,
        path: str,
        problem: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "odd.pem").write_text("this is no certificate")
        variable = f"OTEL_EXPORTER_OTLP_{variable}"
        with pytest.raises(ConfigError) as caught:
            bare(name, {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1", variable: path})
        (fault,) = caught.value.faults
        assert fault.startswith(f"[otel] exporter: environment variable {variable}: {problem}")


class TestResource:
    @pytest.mark.parametrize(
        ("text", "attributes"),
        [
            ("", {}),
            ("  ", {}),
            ("a=1, b=2,c=x%20y,", {"a": "1", "b": "2", "c": "x y"}),
            ("a=b=c,d=", {"a": "b=c", "d": ""}),
            ("a%2Cb=1", {"a,b": "1"}),
        ],
    )
    def test_resource_attributes_are_decoded(self, text: str, attributes: dict[str, str]) -> None:
        config = read(HTTP, {"OTEL_RESOURCE_ATTRIBUTES": text})
        assert config.resource_attributes == attributes
        assert config.warnings == ()

    def test_table_overrides_resource_attributes_of_the_environment(self) -> None:
        table = {"exporter": HTTP, "resource_attributes": {"b": "table's"}}
        environ = {"OTEL_RESOURCE_ATTRIBUTES": "a=1,b=2"}
        config = OtelConfig.from_table(table, environ=environ)
        assert config.resource_attributes == {"a": "1", "b": "table's"}

    @pytest.mark.parametrize("text", [f"a=1,{SECRET}", f"={SECRET},a=1", f"a=1, ={SECRET}"])
    def test_invalid_variable_is_ignored_as_a_whole(self, text: str) -> None:
        config = read(HTTP, {"OTEL_RESOURCE_ATTRIBUTES": text})
        assert config.resource_attributes == {}
        (warning,) = config.warnings
        prefix = "[otel] resource_attributes: environment variable OTEL_RESOURCE_ATTRIBUTES ignored"
        assert warning.startswith(prefix)
        assert SECRET not in warning

    @pytest.mark.parametrize(
        ("table", "value", "name"),
        [
            ({}, "from-environment", "from-environment"),
            ({}, " ", "codex-cli"),
            ({}, "", "codex-cli"),
            ({"service_name": "own"}, "from-environment", "own"),
        ],
    )
    def test_service_name_of_the_table_overrides_the_environment(
        self, table: dict[str, Any], value: str, name: str
    ) -> None:
        environ = {"OTEL_SERVICE_NAME": value}
        config = OtelConfig.from_table({"exporter": HTTP, **table}, environ=environ)
        assert config.service_name == name


class TestBatch:
    def test_batch_variables_replace_absent_keys_only(self) -> None:
        environ = {
            "OTEL_BLRP_SCHEDULE_DELAY": "50",
            "OTEL_BLRP_MAX_QUEUE_SIZE": "100",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "10",
        }
        table = {"exporter": HTTP, "batch": {"max_batch_size": 20}}
        assert OtelConfig.from_table(table, environ=environ).batch == BatchConfig(
            schedule_delay_ms=50, max_queue_size=100, max_batch_size=20
        )

    @pytest.mark.parametrize("value", ["", "  "])
    def test_empty_variable_is_unset(self, value: str) -> None:
        config = read(HTTP, {"OTEL_BLRP_SCHEDULE_DELAY": value})
        assert (config.batch, config.warnings) == (BatchConfig(), ())

    @pytest.mark.parametrize(
        ("variable", "value", "smallest"),
        [
            ("OTEL_BLRP_SCHEDULE_DELAY", "soon", 0),
            ("OTEL_BLRP_SCHEDULE_DELAY", "-1", 0),
            ("OTEL_BLRP_SCHEDULE_DELAY", "1.5", 0),
            ("OTEL_BLRP_SCHEDULE_DELAY", "٣", 0),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "9" * 5000, 1),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "0", 1),
        ],
    )
    def test_invalid_variable_is_ignored_with_a_warning(
        self, variable: str, value: str, smallest: int
    ) -> None:
        config = read(HTTP, {variable: value})
        assert config.batch == BatchConfig()
        assert config.variables == {}
        assert config.warnings == (
            f"[otel] batch: environment variable {variable} ignored: "
            f"expected an integer from {smallest} to {MAX_INTEGER}",
        )

    @pytest.mark.parametrize(
        ("table", "queue", "batch", "expected"),
        [
            ({}, "100", "", (100, 100)),
            ({}, "100", "200", (100, 100)),
            ({}, "", "200000", (131_072, 131_072)),
            ({"max_batch_size": 20}, "10", "", (20, 20)),
            ({"max_queue_size": 10}, "", "20", (10, 10)),
            ({"max_queue_size": 10}, "", "", (10, 10)),
        ],
    )
    def test_batch_size_and_queue_size_are_adjusted_to_each_other(
        self, table: dict[str, int], queue: str, batch: str, expected: tuple[int, int]
    ) -> None:
        environ = {"OTEL_BLRP_MAX_QUEUE_SIZE": queue, "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": batch}
        config = OtelConfig.from_table({"exporter": HTTP, "batch": table}, environ=environ).batch
        assert (config.max_queue_size, config.max_batch_size) == expected

    def test_variables_are_not_read_without_an_exporter(self) -> None:
        environ = {"OTEL_BLRP_SCHEDULE_DELAY": "soon", "OTEL_RESOURCE_ATTRIBUTES": "odd"}
        config = OtelConfig.from_table({}, environ=environ)
        assert config == OtelConfig()
        assert (config.warnings, config.variables) == ((), {})


@pytest.mark.parametrize(
    ("value", "disabled"),
    [("true", True), (" True ", True), ("", False), ("false", False), ("1", False), ("yes", False)],
)
def test_sdk_disabled_turns_export_off_only_if_true(value: str, disabled: bool) -> None:
    assert is_disabled({"OTEL_SDK_DISABLED": value}) == disabled


@pytest.fixture
def deliver(attach: HandlerFactory) -> Callable[[Any], None]:
    """Exports one event with the given `exporter` setting."""

    def deliver(exporter: Any) -> None:
        handler = attach({"exporter": exporter, "batch": {"retry_for_ms": 0}})
        log()
        assert handler.flush(10)
        assert handler.stats().exported == 1

    return deliver


class TestDelivery:
    @over_each_exporter
    @pytest.mark.parametrize("is_bare", [True, False], ids=["bare", "table"])
    @pytest.mark.parametrize("environ", HARMLESS, ids=lambda value: str(value)[:80])
    def test_no_variable_keeps_events_from_being_exported(
        self,
        deliver: Callable[[Any], None],
        receiver: Receiver,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        is_bare: bool,
        environ: dict[str, str],
    ) -> None:
        endpoint = receiver.http_endpoint if name == HTTP else receiver.grpc_endpoint
        base = endpoint.removesuffix("/v1/logs")
        if is_bare:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
        for variable, value in environ.items():
            if variable != "OTEL_EXPORTER_OTLP_ENDPOINT" or not is_bare:
                monkeypatch.setenv(variable, value)
        deliver(name if is_bare else {name: {"endpoint": endpoint}})
        assert len(receiver.events) == 1

    @over_each_exporter
    def test_headers_and_compression_of_variables_reach_the_request(
        self,
        deliver: Callable[[Any], None],
        receiver: Receiver,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        base = receiver.http_endpoint.removesuffix("/v1/logs")
        endpoint = base if name == HTTP else receiver.grpc_endpoint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-A=b%20c")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        deliver(name)
        (request,) = receiver.requests
        assert request.headers["x-a"] == "b c"
        assert name == GRPC or request.headers["content-encoding"] == "gzip"

    def test_timeout_of_100_or_more_is_milliseconds(
        self, http_collector: Callable[..., HttpCollector]
    ) -> None:
        collector = http_collector((200, {}, b""), delay_s=5)
        environ = {
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "150",
        }
        exporter = connect(bare(HTTP, environ), SharedAttributes({}, {}))
        try:
            assert exporter.export([]).reason == "no answer within 0.15 s"
        finally:
            exporter.shutdown()


WELL_FORMED: list[dict[str, str]] = [
    {},
    {"ENDPOINT": "https://c.example.com:1/base/"},
    {"ENDPOINT": "https://c.example.com"},
    {"ENDPOINT": "http://c.example.com:1", "HEADERS": "A=b"},
    {"LOGS_ENDPOINT": "http://logs.example.com:1/x", "ENDPOINT": "http://c.example.com:1"},
    {"ENDPOINT": "http://c.example.com:1", "TIMEOUT": "3", "COMPRESSION": "gzip"},
    {"ENDPOINT": "https://c.example.com:1", "TIMEOUT": "3", "LOGS_TIMEOUT": "0.5"},
    {"HEADERS": "a=1,b=x%20y, C = d ", "LOGS_HEADERS": "e=f"},
    {"HEADERS": "a=1,b=x%20y, C = d ,f=%25 g,", "COMPRESSION": "gzip"},
]


@pytest.mark.parametrize("environ", WELL_FORMED, ids=str)
class TestOfficialExporters:
    """Valid variables mean the same as to OpenTelemetry's exporters for Python."""

    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)

    def test_http_variables_mean_the_same_to_the_official_exporter(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[tuple[Any, float]] = []

        def send(_: Any, request: Any, *, timeout: float, **__: Any) -> Any:
            sent.append((request, timeout))
            response = requests.Response()
            response.status_code = 400
            return response

        monkeypatch.setattr(requests.Session, "send", send)
        official = OfficialHttpExporter()
        official.export([])
        exporter = OtelConfig.from_table({"exporter": HTTP}).exporter
        assert exporter is not None
        ((request, timeout),) = sent
        assert request.url == exporter.endpoint
        assert timeout == pytest.approx(exporter.timeout_ms / 1000, abs=0.4)  # some is spent
        assert request.headers.get("Content-Encoding", "none") == exporter.compression
        own = {"accept", "accept-encoding", "connection", "user-agent"}
        names = {name.lower() for name in request.headers if name.lower()[:8] != "content-"}
        assert names - own == exporter.headers.keys()
        assert {name: request.headers[name] for name in exporter.headers} == exporter.headers

    def test_grpc_variables_mean_the_same_to_the_official_exporter(self) -> None:
        official: Any = OfficialGrpcExporter()
        try:
            exporter = OtelConfig.from_table({"exporter": GRPC}).exporter
            assert exporter is not None
            assert official._insecure == (not exporter.uses_tls)
            assert official._endpoint == exporter.endpoint.partition("://")[2]
            assert official._timeout * 1000 == exporter.timeout_ms
            names = {"NoCompression": "none", "Gzip": "gzip"}
            assert names[official._compression.name] == exporter.compression
            assert dict(official._headers) == exporter.headers
        finally:
            official.shutdown()
