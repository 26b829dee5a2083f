"""The page `troubleshooting` quotes messages that are really printed, each in its section.

A quote is a code span in the first column of a table; `...` in it stands for any text.
"""

from __future__ import annotations

import logging
import logging.config
import re
import shutil
import sys
from collections.abc import Callable
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from codex_otel_logging import ConfigError, Receiver, Stats, from_table
from codex_otel_logging.__main__ import main
from codex_otel_logging.delivery import queue
from codex_otel_logging.delivery.spool import cold, journal
from codex_otel_logging.otlp import factory
from support.certificates import Certificates
from support.collectors import OK, Answer, GrpcCollector, HttpCollector, Reply, Tls
from support.fixtures import HandlerFactory, RunPython
from support.leftovers import Application
from support.pages import page
from support.spools import until

LOGGER = logging.getLogger("codex_otel")
FIELDS = {"duration_ms": 1, "conversation.id": "c"}
UNREACHABLE = "http://127.0.0.1:9/v1/logs"


def quotes(section: str) -> list[str]:
    """Return the quotes of a section, in order; `check` is the command that prints one."""
    text = page("troubleshooting").partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [row.split(" | ")[0] for row in re.findall(r"^\| (`.*)$", text, re.MULTILINE)]
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    return [span for span in spans if not span.startswith("check")]


def unseen(section: str, printed: list[str]) -> list[str]:
    """Return the quotes of a section that match nothing that was printed."""

    def is_seen(quote: str) -> bool:
        pattern = ".*".join(map(re.escape, quote.split("...")))
        return any(re.search(pattern, line) for line in printed)

    found = quotes(section)
    assert found != []
    return [quote for quote in found if not is_seen(quote)]


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the lines that a command prints."""
    main(arguments)
    captured = capsys.readouterr()
    return captured.out.splitlines() + captured.err.splitlines()


SILENT = f"""
import logging
import logging.config
import codex_otel_logging
exporter = {{"otlp-http": {{"endpoint": {UNREACHABLE!r}}}}}
logger = logging.getLogger("codex_otel")
logger.addHandler(codex_otel_logging.from_table({{"exporter": exporter}}))
"""

LOGGING_DICTS = """
FACTORY = {"()": "codex_otel_logging.from_table", "otel": {"exporter": "otlp-http"}}
NONE = {"version": 1}
ROOT = {
    "version": 1,
    "handlers": {"codex_otel": FACTORY},
    "root": {"level": "INFO", "handlers": ["codex_otel"]},
    "loggers": {"codex_otel": {"propagate": False}},
}
FILTER = {
    "version": 1,
    "filters": {"app": {"name": "app"}},
    "handlers": {"codex_otel": FACTORY},
    "loggers": {"codex_otel": {"level": "INFO", "handlers": ["codex_otel"], "filters": ["app"]}},
}
LEVEL = {
    "version": 1,
    "handlers": {"codex_otel": FACTORY | {"level": "ERROR"}},
    "loggers": {"codex_otel": {"level": "INFO", "handlers": ["codex_otel"]}},
}
NO_FILE = {
    "version": 1,
    "handlers": {
        "codex_otel": {
            "()": "codex_otel_logging.from_toml", "path": "absent.toml", "missing_ok": True
        }
    },
    "loggers": {"codex_otel": {"level": "INFO", "handlers": ["codex_otel"]}},
}
"""

CHECK_LOGGING = """
from codex_otel_logging.__main__ import main
main(["check", "--logging", "dicts:{}"])
"""


def test_events_kept_from_the_handler_cause_the_quoted_messages(
    run_python: RunPython, tmp_path: Path
) -> None:
    programs = [
        SILENT + line
        for line in (
            "",
            "logger.setLevel('INFO'); logger.disabled = True",
            "logger.setLevel('INFO'); logging.disable(logging.INFO)",
            "logger.setLevel('INFO'); logging.getLogger('codex.agent')",
        )
    ]
    (tmp_path / "dicts.py").write_text(LOGGING_DICTS)
    programs += [CHECK_LOGGING.format(name) for name in ("NONE", "ROOT", "FILTER", "LEVEL")]
    done = [run_python(program) for program in programs]
    printed = [line for each in done for line in (each.stdout + each.stderr).splitlines()]
    assert unseen("No event reaches the handler", printed) == []


def test_ignored_records_cause_the_quoted_messages(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    handler = attach({"exporter": {"otlp-http": {"endpoint": UNREACHABLE}}})
    LOGGER.info("codex.tool_resullt")
    LOGGER.info("codex.user_prompt: %s", "Rename foo to bar")
    LOGGER.info("event='codex.user_prompt' prompt='Rename foo to bar'")
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    queue_handler = QueueHandler(records)
    queue_handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    queue_handler.handle(LOGGER.makeRecord("codex_otel", 20, "", 1, "codex.user_prompt", (), None))
    handler.handle(records.get())
    handler.handle(logging.makeLogRecord({"name": "app", "msg": "hello"}))
    assert handler.stats() == Stats(ignored=5)
    with pytest.raises(KeyError) as raised:
        LOGGER.info("codex.tool_result", extra={"name": "shell"})
    assert unseen("Records are ignored", [*caplog.messages, f"KeyError: {raised.value}"]) == []


def test_handlers_without_export_cause_the_quoted_messages(
    run_python: RunPython,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    none, table = tmp_path / "none.toml", tmp_path / "table.toml"
    none.write_text("[otel]\n")
    table.write_text(f'[otel.exporter.otlp-http]\nendpoint = "{UNREACHABLE}"\n')
    printed = output(capsys, "check", str(none))
    none.write_text("[otl]\n")
    printed += output(capsys, "check", str(none))
    (tmp_path / "dicts.py").write_text(LOGGING_DICTS)
    printed += run_python(CHECK_LOGGING.format("NO_FILE")).stdout.splitlines()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    printed += output(capsys, "check", str(table))
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    printed += output(capsys, "check", str(table))
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setattr(factory, "is_installed", lambda _: False)
    printed += output(capsys, "check", str(table))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "codex_otel_logging.otlp.http_exporter", None)
    printed += output(capsys, "check", "--send", str(table))
    dictionary = {
        "version": 1,
        "handlers": {
            "codex_otel": {"()": "codex_otel_logging.from_table", "otel": {"exporter": "otlp"}}
        },
    }
    with pytest.raises(ValueError, match="Unable") as raised:
        logging.config.dictConfig(dictionary)
    assert isinstance(raised.value.__cause__, ConfigError)
    assert unseen("The handler exports nothing", [*printed, f"ValueError: {raised.value}"]) == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def failure(attach: HandlerFactory, caplog: pytest.LogCaptureFixture) -> Callable[[Any], str]:
    """Returns the warning about an event that an exporter does not deliver at the first attempt."""

    def failure(exporter: Any) -> str:
        caplog.clear()
        handler = attach({"exporter": exporter, "batch": {"retry_for_ms": 0}})
        LOGGER.info("codex.turn_ttft", extra=FIELDS)
        assert handler.flush(20)
        LOGGER.removeHandler(handler)
        handler.close()
        (message,) = caplog.messages
        return message

    return failure


PROXY_REQUIRES_PASSWORD: Answer = (407, {}, b"")
PAGE: Answer = (200, {"Content-Type": "text/html"}, b"<!doctype html>")
ANSWERS = [
    *(Reply(status) for status in (400, 401, 403, 404, 307, 413, 415, 429, 503)),
    Reply(rejected=1, message="too old"),
    Reply(message="deprecated"),
    PROXY_REQUIRES_PASSWORD,
    PAGE,
]
CODES = [
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
]


def test_failed_exports_cause_the_quoted_messages(
    failure: Callable[[Any], str],
    certificates: Certificates,
    receiver: Receiver,
    http_collector: Callable[..., HttpCollector],
    grpc_collector: Callable[..., GrpcCollector],
    attach_to: HandlerFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    printed = [failure(http_collector(answer).exporter) for answer in ANSWERS]
    printed += [failure(grpc_collector(Reply(code=code)).exporter) for code in CODES]
    over_http = receiver.http_endpoint.removeprefix("http://")
    over_grpc = receiver.grpc_endpoint.removeprefix("http://")
    printed += [
        failure({"otlp-http": {"endpoint": UNREACHABLE}}),
        failure({"otlp-grpc": {"endpoint": "http://collector.invalid:4317"}}),
        failure({"otlp-http": {"endpoint": f"http://{over_grpc}/v1/logs"}}),
        failure({"otlp-grpc": {"endpoint": f"http://{over_http.partition('/')[0]}"}}),
        failure({"otlp-http": {"endpoint": f"https://{over_http}"}}),
    ]
    slow = http_collector(OK, delay_s=1)
    printed.append(failure({"otlp-http": {"endpoint": slow.endpoint, "timeout_ms": 100}}))
    tls = certificates.settings()
    for shown in (certificates.unknown, certificates.elsewhere, certificates.expired):
        endpoint = http_collector(OK, tls=Tls(shown)).endpoint
        printed.append(failure({"otlp-http": {"endpoint": endpoint, "tls": tls}}))
    wants_client = http_collector(OK, tls=Tls(certificates.good, certificates.authority))
    printed.append(failure({"otlp-http": {"endpoint": wants_client.endpoint, "tls": tls}}))
    caplog.clear()
    recovers = http_collector(Reply(503), Reply(503), OK)
    handler = attach_to(recovers, batch={"max_queue_size": 2, "max_batch_size": 1})
    for _ in range(4):
        LOGGER.info("codex.turn_ttft", extra=FIELDS)
    assert handler.flush(20)
    printed += caplog.messages
    assert unseen("Exports fail", printed) == []


def test_events_missing_at_exit_cause_the_quoted_message(run_python: RunPython) -> None:
    batch = {"shutdown_timeout_ms": 100}
    program = SILENT.replace('"exporter": exporter', f'"exporter": exporter, "batch": {batch}')
    logged = f"logger.setLevel('INFO'); logger.info('codex.turn_ttft', extra={FIELDS})"
    done = run_python(program + logged)
    assert unseen("Events are missing at exit", done.stderr.splitlines()) == []


@pytest.fixture
def cause_warning(
    attach_to: HandlerFactory,
    http_collector: Callable[..., HttpCollector],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., None]:
    """Logs an event into a spool with these settings, and waits for a warning that has the text."""

    def cause_warning(text: str, answer: Answer, **spool: Any) -> None:
        handler = attach_to(http_collector(answer), spool=spool)
        LOGGER.info("codex.turn_ttft", extra=FIELDS)

        def is_warned() -> bool:
            handler.flush(0.1)
            return any(text in message for message in caplog.messages)

        assert until(is_warned), text
        LOGGER.removeHandler(handler)
        handler.close()

    return cause_warning


def test_events_on_disk(
    cause_warning: Callable[..., None],
    http_collector: Callable[..., HttpCollector],
    attach_to: HandlerFactory,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    run_python: RunPython,
    tmp_path: Path,
) -> None:
    cause_warning("HTTP 401", Reply(401), path=str(tmp_path / "refused"))
    cause_warning("keep_for_ms", Reply(503), path=str(tmp_path / "old"), keep_for_ms=1)
    full = tmp_path / "full"
    full.mkdir(mode=0o700)
    full.joinpath("something").write_text("text")
    cause_warning("spool full", OK, path=str(full), max_bytes=1)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "WARM_BYTES", 2)  # the event is on disk only
        patch.setattr(cold, "checked", lambda _: None)  # and damaged
        cause_warning("read events back", OK, path=str(tmp_path / "damaged"))
    application = Application(tmp_path)
    collector = http_collector(OK, OK, OK, Reply(503))
    application.configure(collector.endpoint)
    application.spool.mkdir(mode=0o755)
    printed = output(capsys, "check", str(application.settings))
    application.spool.rmdir()
    # Two damaged files, and one of a process with another destination.
    application.die(1)
    (file,) = application.spool.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"owner"', b'"ownes"'))
    application.die(1)
    file = max(application.spool.iterdir())
    file.write_bytes(file.read_bytes().replace(b'"event":', b'"evens":'))
    spool = '"exporter": exporter, "spool": {"path": "spool"}'
    program = SILENT.replace('"exporter": exporter', spool)
    program += f"logger.setLevel('INFO'); logger.info('codex.turn_ttft', extra={FIELDS})"
    printed += run_python(program).stderr.splitlines()
    printed += output(capsys, "drain", str(application.settings))
    # A file takes the place of the directory, and goes again.
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    place = tmp_path / "another"
    handler = attach_to(collector, spool={"path": str(place)})
    place.touch()
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    assert handler.flush(20)
    place.unlink()
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    assert handler.flush(20)
    # The directory is removed while events are queued.
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    assert handler.flush(20)
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    shutil.rmtree(place)

    def left() -> list[str]:
        handler.flush(0.1)
        return unseen("Events on disk", [*printed, *caplog.messages])

    assert until(lambda: left() == []), left()


def test_duplicate_and_faulty_events_cause_the_quoted_messages(
    attach: HandlerFactory, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    table = {"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}}
    handlers = [attach(table), attach(table)]
    LOGGER.info("codex.turn_ttft")
    assert all(handler.flush(10) for handler in handlers)
    assert unseen("Events arrive twice, or in the wrong place", caplog.messages) == []


def test_page_explains_every_count_of_stats() -> None:
    assert sorted(quotes("Read the counts")) == sorted(Stats._fields)


def test_handler_that_exports_nothing_prints_as_quoted() -> None:
    assert f"`{from_table({})!r}`" in page("troubleshooting")
