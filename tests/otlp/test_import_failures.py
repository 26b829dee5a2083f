"""Exporters that cannot be imported, as in a frozen application that does not contain them.

The failure is reported once with a remedy, the import is tried again, and neither other handlers
nor the exit wait for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from codex_otel_logging import CodexOtelHandler, Receiver, Stats
from codex_otel_logging.cli.check.delivery import Delivery
from codex_otel_logging.config.otel_config import OtelConfig
from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.delivery import sender
from codex_otel_logging.delivery.flushing import flush_at_exit
from codex_otel_logging.otlp import factory, importing
from codex_otel_logging.otlp.factory import missing_package
from support.events import log, numbers
from support.fixtures import HandlerFactory, RunPython
from support.parts import worker_of
from support.paths import read_program

REPORTED = (
    "exporter 'otlp-http' cannot be imported (ModuleNotFoundError: import of "
    "codex_otel_logging.otlp.http_exporter halted; None in sys.modules); "
    "pip install --force-reinstall 'codex_otel_logging[http]'"
)


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the import of the HTTP exporter fail; return the list of attempts."""
    attempts: list[str] = []
    import_module = importing.import_with_sdk

    def counted(module: str) -> object:
        if module.endswith("http_exporter"):
            attempts.append(module)
        return import_module(module)

    monkeypatch.setattr(importing, "import_with_sdk", counted)
    monkeypatch.setitem(sys.modules, "codex_otel_logging.otlp.http_exporter", None)
    return attempts


@pytest.fixture
def broken(attach_to: HandlerFactory, receiver: Receiver) -> Callable[..., CodexOtelHandler]:
    """Build a handler that exports to the receiver."""
    return lambda **batch: attach_to(receiver, batch=batch)


@pytest.fixture(autouse=True)
def _short_import_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker of a test end soon: it sleeps until its next attempt to import."""
    monkeypatch.setattr(sender, "IMPORT_INTERVAL_S", 1.0)


def test_failed_import_is_reported_at_once_and_fails_a_flush(
    broken: Callable[..., CodexOtelHandler], imports: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    handler = broken()
    log()
    started = time.monotonic()
    assert not handler.flush(60)
    assert time.monotonic() - started < 20
    assert handler.stats() == Stats(accepted=1, queued=1)
    (message,) = [each for each in caplog.messages if "cannot be imported" in each]
    assert REPORTED in message


def test_failed_import_is_not_repeated_by_flushes_or_by_the_next_batch(
    broken: Callable[..., CodexOtelHandler], imports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "IMPORT_INTERVAL_S", 60.0)
    handler = broken(max_batch_size=1, retry_for_ms=0)
    for _ in range(5):
        log()
        handler.flush(60)
    assert len(imports) == 1


def test_events_are_kept_while_the_import_fails_and_exported_when_it_works(
    broken: Callable[..., CodexOtelHandler],
    imports: list[str],
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "IMPORT_INTERVAL_S", 0.5)
    handler = broken()
    log()
    assert not handler.flush(60)
    monkeypatch.delitem(sys.modules, "codex_otel_logging.otlp.http_exporter")
    receiver.wait_for(1, timeout=20)
    log()
    assert handler.flush(60)
    assert handler.stats() == Stats(accepted=2, exported=2)


def test_events_are_dropped_when_the_import_has_failed_for_retry_for_ms(
    broken: Callable[..., CodexOtelHandler], imports: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    handler = broken(retry_for_ms=1, schedule_delay_ms=0)
    log()
    deadline = time.monotonic() + 20
    while handler.stats().queued and time.monotonic() < deadline:
        handler.flush(1)
    assert handler.stats() == Stats(accepted=1, dropped=1)
    assert any("retry_for_ms exceeded" in each for each in caplog.messages)


@pytest.mark.parametrize("error", [AttributeError, TypeError, SyntaxError, KeyError])
def test_error_of_a_damaged_package_counts_as_a_failed_import(
    broken: Callable[..., CodexOtelHandler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    """Modules of incompatible releases raise whatever they encounter first."""

    def damaged(_module: str) -> None:
        raise error("damaged")

    monkeypatch.setattr(importing, "import_with_sdk", damaged)
    handler = broken()
    log()
    assert not handler.flush(60)
    assert any(f"cannot be imported ({error.__name__}: " in each for each in caplog.messages)


def test_too_many_open_files_during_the_import_are_retried_like_an_outage(
    broken: Callable[..., CodexOtelHandler], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module = importing.import_with_sdk
    attempts: list[str] = []

    def exhausted(module: str) -> object:
        attempts.append(module)
        if len(attempts) <= 2:
            raise OSError(24, "Too many open files")
        return import_module(module)

    monkeypatch.setattr(importing, "import_with_sdk", exhausted)
    handler = broken()
    log()
    assert handler.flush(60)


PROGRAM = read_program("one_exporter_missing")


def test_failed_import_does_not_delay_the_exit_nor_other_handlers(
    run_python: RunPython, receiver: Receiver
) -> None:
    started = time.monotonic()
    done = run_python(PROGRAM, receiver.http_endpoint)
    assert time.monotonic() - started < 40
    assert numbers(receiver.events) == [1]
    (left,) = done.stderr.splitlines()
    assert left.startswith("1 event not exported at exit (otlp-grpc http://127.0.0.1:9: ")
    assert "pip install --force-reinstall 'codex_otel_logging[grpc]'" in left


def test_failed_import_does_not_delay_an_exit_at_which_no_thread_can_be_started(
    broken: Callable[..., CodexOtelHandler], imports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that waits for the export then exports itself."""
    monkeypatch.setattr(sender, "IMPORT_INTERVAL_S", 60.0)
    handler = broken(shutdown_timeout_ms=30_000)
    worker = worker_of(handler)
    worker.start = lambda: False  # type: ignore[method-assign]
    log()
    started = time.monotonic()
    flush_at_exit([worker], for_good=False)
    assert time.monotonic() - started < 20
    assert handler.stats() == Stats(accepted=1, queued=1)


def test_check_shows_a_failed_import_and_its_remedy(imports: list[str]) -> None:
    exporter = ExporterConfig("otlp-http", endpoint="http://127.0.0.1:9/v1/logs")
    (step,) = Delivery(OtelConfig(), exporter).steps()
    assert (step.ok, step.text) == (False, REPORTED)


def test_frozen_application_without_the_exporter_gets_the_modules_to_include(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(factory, "is_installed", lambda _package: False)
    message = missing_package(ExporterConfig("otlp-http", "http://x/", protocol="json"))
    assert message == (
        "exporter 'otlp-http' with protocol 'json' needs an extra package: build the frozen "
        "application with 'codex_otel_logging[json]' installed; it must contain "
        "opentelemetry.exporter.otlp.json.http._log_exporter and "
        "codex_otel_logging.otlp.http_exporter; "
        "no events are exported until then"
    )
