"""No log record, message or output shows a secret of the settings or of the environment.

Not even if a collector, a proxy or a library repeats it, whole, in parts, or encoded.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from codex_otel_logging import CodexOtelHandler, ConfigError, OtelConfig
from codex_otel_logging.__main__ import main
from codex_otel_logging.config.settings import ExporterConfig, ExporterName, TlsConfig
from codex_otel_logging.events.event import SharedAttributes
from codex_otel_logging.otlp.factory import connect
from codex_otel_logging.otlp.masking import mask
from codex_otel_logging.otlp.reasons import safe_reason
from support.collectors import JSON, PROTOBUF, TEXT, GrpcCollector, HttpCollector, Reply, abort
from support.secrets import ENDPOINT, GRPC, HTTP, SECRETS, Secret, fits


class StatusLine(threading.Thread):
    """A collector that repeats a text in its status line."""

    def __init__(self, text: str) -> None:
        super().__init__(daemon=True)
        self._answer = f"HTTP/1.1 400 {text}\r\nContent-Length: 0\r\n\r\n".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (data := connection.recv(65_536)):
                    head += data
                connection.sendall(self._answer)

    def stop(self) -> None:
        self._listener.close()


def partial(text: str) -> bytes:
    success = ExportLogsPartialSuccess(rejected_log_records=1, error_message=text)
    return ExportLogsServiceResponse(partial_success=success).SerializeToString()


def partial_json(text: str) -> bytes:
    return json.dumps({"partialSuccess": {"errorMessage": text}}).encode()


COLLECTORS: dict[str, Callable[[str], Any]] = {
    "status line": StatusLine,
    "text": lambda text: HttpCollector((400, TEXT, text.encode())),
    "unavailable": lambda text: HttpCollector((503, TEXT, text.encode())),
    "JSON": lambda text: HttpCollector((401, JSON, json.dumps({"message": text}).encode())),
    "protobuf": lambda text: HttpCollector(
        (403, PROTOBUF, Status(message=text).SerializeToString())
    ),
    "partial success": lambda text: HttpCollector((200, PROTOBUF, partial(text))),
    "partial success in JSON": lambda text: HttpCollector((200, JSON, partial_json(text))),
    "gRPC details": lambda text: GrpcCollector(abort(grpc.StatusCode.UNAUTHENTICATED, text)),
    "gRPC unavailable": lambda text: GrpcCollector(abort(grpc.StatusCode.UNAVAILABLE, text)),
    "gRPC partial success": lambda text: GrpcCollector(Reply(rejected=1, message=text)),
}
"""Collectors that repeat a text, each in another part of its answer."""


def exporter_of(kind: str) -> ExporterName:
    return GRPC if kind.startswith("gRPC") else HTTP


@dataclass
class Shown:
    """The settings file, and everything that was printed or logged."""

    file: Path
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture

    def text(self) -> str:
        output = self.capsys.readouterr()
        return "\n".join((output.out, output.err, *self.caplog.messages, self.caplog.text))


def export_one_event(settings: Path) -> CodexOtelHandler:
    """Log an event to a new handler, wait until it is settled, and return the handler."""
    handler = CodexOtelHandler(settings)
    logger = logging.getLogger("codex_otel.app")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
    assert handler.flush(10)
    logger.removeHandler(handler)
    return handler


@pytest.fixture
def prepare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[[Secret, str, str], Shown]:
    """Write the settings with a secret for the collector at a host and port, and set variables."""

    def prepare(secret: Secret, name: str, address: str) -> Shown:
        for variable, value in secret.environ.items():
            monkeypatch.setenv(variable, value.replace("{}", address))
        endpoint = (secret.endpoint or "http://{}").replace("{}", address)
        if name == HTTP and not secret.endpoint:
            endpoint += "/v1/logs"
        headers = ", ".join(f"{name} = {json.dumps(v)}" for name, v in secret.headers.items())
        table = f"{{ {name} = {{ endpoint = '{endpoint}', headers = {{ {headers} }} }} }}"
        file = tmp_path / "otel.toml"
        exporter = f"'{name}'" if secret.bare else table
        file.write_text(f"[otel]\nexporter = {exporter}\nbatch.retry_for_ms = 0\n")
        caplog.set_level(logging.DEBUG)
        return Shown(file, capsys, caplog)

    return prepare


@pytest.fixture
def start() -> Iterator[Callable[[str, str], Any]]:
    """Start a collector that repeats a text."""
    started = []

    def start(kind: str, text: str) -> Any:
        started.append(COLLECTORS[kind](text))
        return started[-1]

    yield start
    for collector in started:
        collector.stop()


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        pytest.param(secret, kind, id=f"{name}, {kind}")
        for name, secret in SECRETS.items()
        for kind in COLLECTORS
        if fits(secret, exporter_of(kind))
    ],
)
def test_secret_that_a_collector_repeats_is_masked(
    prepare: Callable[[Secret, str, str], Shown],
    start: Callable[[str, str], Any],
    secret: Secret,
    kind: str,
) -> None:
    """In warnings, in the libraries' log records down to DEBUG, and in both outputs of `check`."""
    collector = start(kind, " | ".join(secret.repeated))
    address = collector.endpoint.removeprefix("http://").partition("/")[0]
    shown = prepare(secret, exporter_of(kind), address)
    handler = export_one_event(shown.file)
    warnings = shown.text()
    assert "***" in warnings
    reports = [warnings]
    for options in ((), ("--json",)):
        main(["check", str(shown.file), "--send", *options])
        reports.append(shown.text())
    reports += [repr(handler), repr(OtelConfig.from_toml(shown.file))]
    for report in reports:
        for form in secret.repeated:
            assert form not in report


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_configuration_faults_show_no_secret(
    prepare: Callable[[Secret, str, str], Shown], secret: Secret
) -> None:
    """The settings with the secret have several other faults."""
    shown = prepare(secret, HTTP, "127.0.0.1:99999 ")
    shown.file.write_text(
        shown.file.read_text().replace("headers = { ", "compression = '${TOK:-x}', headers = { ")
        + "exportr = 1\nlog_user_prompt = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        OtelConfig.from_toml(shown.file)
    assert main(["check", str(shown.file), "--json"]) == 2
    report = f"{caught.value}{caught.value!r}{shown.text()}"
    for form in secret.repeated:
        assert form not in report


@pytest.mark.parametrize(
    "address",
    [
        "http://us3r:{}@127.0.0.1:99999",
        "http://us3r:{}@",
        "http://us3r:pa/{}@127.0.0.1:4318",
        "http://us3r:pa#{}@127.0.0.1:4318",
        "ftp://us3r:{}@127.0.0.1:4318",
        "us3r:{}@127.0.0.1:4318",
        "http://[us3r:{}@127.0.0.1",
        "http://127.0.0.1:{}",
    ],
)
@pytest.mark.parametrize("name", [HTTP, GRPC])
def test_invalid_endpoint_in_the_environment_shows_no_password(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
    name: str,
) -> None:
    monkeypatch.setenv(ENDPOINT, address.replace("{}", "p4ss-w0rd"))
    (tmp_path / "otel.toml").write_text(f"[otel]\nexporter = '{name}'")
    for options in ((), ("--json",), ("--send",)):
        assert main(["check", str(tmp_path / "otel.toml"), *options]) == 2
        output = capsys.readouterr()
        assert f"environment variable {ENDPOINT}: " in output.err
        assert "p4ss-w0rd" not in output.out + output.err


@pytest.mark.parametrize(
    "proxy",
    [
        "http://us3r:{}@127.0.0.1:99999",
        "http://us3r:{}@:9",
        "http://us3r:{}[@127.0.0.1:9",
        "http://us3r:pa/{}@127.0.0.1:9",
        "http://us3r:pa#{}@127.0.0.1:9",
        "us3r:{}@127.0.0.1:99999",
        "http://us3r:{}@127.0.0.1:x",
        "socks5h://us3r:{}@127.0.0.1:9",
        "ftp://us3r:{}@127.0.0.1:9",
        "http://us3r:{}@host with blanks:9",
        "http://us3r:{}@" + "x" * 70 + ":9",
    ],
)
@pytest.mark.parametrize("name", [HTTP, GRPC])
def test_unusable_proxy_shows_no_password(
    prepare: Callable[[Secret, str, str], Shown],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
    name: str,
) -> None:
    """Libraries quote the URL of a proxy that they cannot parse or reach."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy"):
        monkeypatch.setenv(variable, proxy.replace("{}", "p4ss-w0rd"))
    shown = prepare(Secret((), endpoint="http://collector.invalid:1"), name, "")
    export_one_event(shown.file)
    report = shown.text()
    assert "1 event dropped" in report
    for options in ((), ("--json",)):
        assert main(["check", str(shown.file), "--send", *options]) == 1
        report += shown.text()
    assert "p4ss-w0rd" not in report


def test_answer_of_a_proxy_is_masked_before_it_is_shortened(
    prepare: Callable[[Secret, str, str], Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{'x' * 190} p4ss-w0rd-of-the-proxy"
    proxy = StatusLine(text)
    address = proxy.endpoint.removeprefix("http://")
    monkeypatch.setenv("HTTPS_PROXY", f"http://us3r:p4ss-w0rd-of-the-proxy@{address}")
    shown = prepare(Secret((), endpoint="https://collector.invalid:1/"), HTTP, "")
    assert main(["check", str(shown.file), "--send"]) == 1
    proxy.stop()
    report = shown.text()
    assert "the proxy refused to connect to the collector" in report
    assert "p4ss" not in report


def test_exporter_that_cannot_be_built_shows_no_secret() -> None:
    config = ExporterConfig(
        GRPC,
        "https://c/",
        tls=TlsConfig(ca_certificate="/absent/ten4nt/ca.pem"),
        variable_values=("ten4nt",),
    )
    with pytest.raises(RuntimeError) as caught:
        connect(config, SharedAttributes({}, {}))
    assert str(caught.value).endswith("No such file or directory: '/absent/***/ca.pem'")
    assert caught.value.__suppress_context__


class TestMask:
    def test_strings_shorter_than_four_characters_are_not_masked(self) -> None:
        config = ExporterConfig(HTTP, "http://u:pw@c/?a=b&c=def", {"org": "1", "x": "ab cd=efg"})
        text = "HTTP 404 for a pw of u: ab, cd, efg, def, org 1, %61%62"
        assert mask(text, config) == text

    def test_strings_of_four_characters_are_masked(self) -> None:
        config = ExporterConfig(HTTP, "http://u:pass@c/?a=b&c=defg", {"x": "abcd"})
        assert mask("HTTP 404: pass, defg, abcd", config) == "HTTP 404: ***, ***, ***"

    def test_public_words_in_a_secret_are_not_masked(self) -> None:
        config = ExporterConfig(
            HTTP,
            "http://c/v1/logs",
            {"authorization": "Bearer s3cr3t"},
            variable_values=("https://c/s3cr3t/v1/logs",),
        )
        text = "HTTP 401: no Bearer token at https://d/v1/logs"
        assert mask(text, config) == text

    @pytest.mark.parametrize(
        "notation",
        [
            'sl4sh/&<q"uote é',
            'SL4SH/&<Q"UOTE É',
            "sl4sh%2F%26%3Cq%22uote+%C3%A9",
            "sl4sh%2f%26%3Cq%22uote%20%E9",
            "sl4sh/&amp;&lt;q&quot;uote é",
            "sl4sh&#47;&#38;&#x3C;q&#34;uote&#x20;&#233;",
            'sl4sh/\\u0026\\u003cq\\"uote é',
            'sl4sh\\/&<q\\"uote \\u00e9',
            'sl4sh/&<q\\"uote \\xe9',
        ],
    )
    def test_secret_is_masked_in_every_notation(self, notation: str) -> None:
        """In any case, and as URLs, HTML, and the JSON of Go, PHP and others write it."""
        config = ExporterConfig(HTTP, "http://c", {"a": 'sl4sh/&<q"uote é'})
        assert mask(f"no such key: {notation}.", config) == "no such key: ***."

    def test_longest_secret_is_masked_first(self) -> None:
        config = ExporterConfig(HTTP, "http://c", {"a": "s3cr3t", "b": "s3cr3t-and-more"})
        assert mask("s3cr3t-and-more, s3cr3t", config) == "***, ***"

    def test_reason_is_masked_before_it_is_shortened(self) -> None:
        config = ExporterConfig(HTTP, "http://c", {"a": "s3cr3t-that-is-cut"})
        reason = safe_reason("x" * 190 + " s3cr3t-that-is-cut " + "y" * 100, config)
        assert "s3cr" not in reason
        assert len(reason) == 203

    def test_reason_is_one_line_without_control_characters(self) -> None:
        assert safe_reason("a\x1b[31m\n b\t", ExporterConfig(HTTP, "http://c")) == "a [31m b"


@pytest.mark.parametrize(
    ("endpoint", "safe"),
    [
        ("http://user:pw@c:1/x?key=v#f", "http://c:1/x"),
        ("http://user:p@w@c:1/x", "http://c:1/x"),
        ("http://user:p/w@c:1/x", "http://c:1/x"),
        ("http://user:p?w@c:1/x", "http://c:1/x"),
        ("http://c:1/x@y", "http://c:1/x@y"),
        ("http://c/x?to=http://user:pw@d", "http://c/x"),
        ("http://[::1]:1/x@y", "http://[::1]:1/x@y"),
        ("user:pw@c:1", "c:1"),
        ("c:1", "c:1"),
        ("https://${USER}:${PASS}@${HOST}/${TOKEN}/v1?x", "https://${HOST}/${TOKEN}/v1"),
    ],
)
def test_safe_endpoint_has_no_credentials_query_or_fragment(endpoint: str, safe: str) -> None:
    assert ExporterConfig(HTTP, endpoint).safe_endpoint == safe


def test_variable_that_another_thread_removes_meanwhile_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exception would make the event that is exported count as not encodable."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret-password@proxy")
    monkeypatch.setattr(type(os.environ), "__iter__", lambda _: iter(["GONE_PROXY", "HTTPS_PROXY"]))
    config = ExporterConfig("otlp-http", "http://127.0.0.1:9/v1/logs")
    assert "secret-password" not in mask("failed: secret-password", config)
