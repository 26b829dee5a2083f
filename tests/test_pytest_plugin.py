"""Covers the pytest plugin in separate pytest sessions of an application."""

from __future__ import annotations

import sys

import pytest

from codex_otel_logging import Receiver
from support.events import numbers
from support.fixtures import RunTests

pytestmark = pytest.mark.processes

PLUGIN = "codex_otel_logging.pytest_plugin"

APPLICATION = """
import logging
import logging.config

import pytest

def log(number):
    logging.getLogger("codex_otel.app").info("codex.turn_ttft", extra={"duration_ms": number})

def durations(events):
    return [event.attributes["duration_ms"] for event in events]
"""

USES = """
def test_configures_nothing(codex_otel_events):
    log(1)
    assert durations(codex_otel_events) == [1]

@pytest.mark.parametrize("disable", [True, False])
def test_configures_in_the_test(codex_otel_events, disable):
    log(2)
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": disable,
        "handlers": {"otel": {
            "()": "codex_otel_logging.from_table",
            "otel": {"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:1/v1/logs"}}},
        }},
        "loggers": {
            "codex_otel": {"level": "INFO", "propagate": False, "handlers": ["otel"]},
            "app": {},
        },
    })
    log(3)
    assert durations(codex_otel_events) == [2, 3]

def test_configured_before(codex_otel_events):
    handler = logging.getLogger("codex_otel").handlers[0]
    log(4)
    assert handler.flush(20)
    assert handler.stats().accepted == 0
    assert durations(codex_otel_events) == [4]
"""


@pytest.mark.parametrize("arguments", [(), ("-p", PLUGIN)], ids=["entry point", "entry point, -p"])
def test_fixture_captures_the_events_of_each_test(
    run_tests: RunTests, arguments: tuple[str, ...]
) -> None:
    done = run_tests(APPLICATION + USES, *arguments)
    done.assert_outcomes(passed=4)
    assert done.stderr.lines == []


def test_plugin_can_be_loaded_by_name_without_entry_points(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, run_tests: RunTests
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run_tests(APPLICATION + USES).assert_outcomes(errors=4)
    run_tests(APPLICATION + USES, "-p", PLUGIN).assert_outcomes(passed=4)


def test_unused_plugin_imports_two_modules_only(run_tests: RunTests) -> None:
    tests = """
import sys

def test_imports():
    ours = [name for name in sys.modules if name.startswith("codex_otel_logging")]
    assert ours == ["codex_otel_logging", "codex_otel_logging.pytest_plugin"]
"""
    run_tests(tests).assert_outcomes(passed=1)


def test_import_before_pytest_causes_no_warning(
    pytester: pytest.Pytester, run_tests: RunTests
) -> None:
    run_tests(APPLICATION + USES)
    program = "import codex_otel_logging, pytest, sys; sys.exit(pytest.main(['-W', 'error']))"
    done = pytester.run(sys.executable, "-c", program)
    done.assert_outcomes(passed=4)
    assert done.stderr.lines == []


def test_fixture_needs_no_opentelemetry(pytester: pytest.Pytester, run_tests: RunTests) -> None:
    pytester.makeconftest(
        """
import sys
sys.modules.update(dict.fromkeys(["opentelemetry", "google", "grpc", "requests"]))
"""
    )
    run_tests(APPLICATION + USES).assert_outcomes(passed=4)


def test_failed_assertion_shows_the_events_without_prompts(run_tests: RunTests) -> None:
    tests = """
def test_fails(codex_otel_events):
    logger = logging.getLogger("codex_otel")
    logger.propagate = False
    log(5)
    logger.info("codex.user_prompt", extra={"prompt": "".join(["sec", "ret"])})
    logger.info("codex.turn_tftf")
    assert codex_otel_events == []
"""
    done = run_tests(APPLICATION + tests)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        "codex_otel_events = *<codex.turn_ttft duration_ms=5>, "
        "<codex.user_prompt prompt=... prompt_length=6>* did you mean 'codex.turn_ttft'?*"
    )
    done.stdout.no_fnmatch_line("*secret*")


EXPORTS = """
import logging
import os
import unittest

import pytest
from codex_otel_logging import from_table

@pytest.fixture(autouse=True, scope="session")
def _configured():
    logger = logging.getLogger("codex_otel")
    exporter = {"otlp-http": {"endpoint": os.environ["COLLECTOR"]}}
    logger.addHandler(handler := from_table({"exporter": exporter}))
    logger.setLevel("INFO")
    yield
    assert handler.flush(10)

def log(number):
    extra = {"duration_ms": number, "conversation.id": "c"}
    logging.getLogger("codex_otel").info("codex.turn_ttft", extra=extra)

def test_without_the_fixture():
    log(1)

def test_with_it(codex_otel_events):
    log(2)
    assert codex_otel_events.names == ["codex.turn_ttft"]

class TestCase(unittest.TestCase):
    def test_of_unittest(self):
        log(3)
"""


@pytest.mark.parametrize(
    ("option", "exported"), [("", [1, 3]), ("codex_otel_events_autouse = true", [])]
)
def test_other_tests_export_unless_the_autouse_option_is_set(
    pytester: pytest.Pytester, run_tests: RunTests, monkeypatch: pytest.MonkeyPatch,
    receiver: Receiver, option: str, exported: list[int],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLLECTOR", receiver.http_endpoint)
    pytester.makeini(f"[pytest]\n{option}\n")
    run_tests(EXPORTS).assert_outcomes(passed=3)
    assert numbers(receiver.events) == exported


def test_pytest_lists_the_option_and_the_fixture(run_tests: RunTests) -> None:
    assert "codex_otel_events_autouse (bool)" in run_tests("", "--help").stdout.str()
    assert "codex_otel_events" in run_tests("", "--fixtures").stdout.str()
