"""Covers `capture_events`: what it captures, and that nothing is exported meanwhile."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Conversation, Receiver
from codex_otel_logging import handler as handler_module
from codex_otel_logging.testing import capture_events
from support.collectors import over_http
from support.events import numbers
from support.fixtures import HandlerFactory, RunPython
from support.paths import ROOT

LOGGER = logging.getLogger("codex_otel")
TOOLS = logging.getLogger("codex_otel.tools")

DECISION = {"tool_name": "shell", "call_id": "1", "decision": "approved", "source": "user"}


def ttft(duration_ms: object = 1, logger: logging.Logger = LOGGER) -> None:
    logger.info("codex.turn_ttft", extra={"duration_ms": duration_ms})


def test_capture_has_the_events_in_order() -> None:
    with capture_events() as events, Conversation("c", "m", app_version="1.2").bind():
        LOGGER.info("codex.user_prompt", extra={"prompt": "Rename foo"})
        TOOLS.warning("codex.tool_decision", extra=DECISION)
        logging.getLogger("app").warning("codex.turn_ttft")
    assert events.names == ["codex.user_prompt", "codex.tool_decision"]
    prompt, decision = events
    assert prompt.attributes["prompt"] == "Rename foo"
    assert prompt.attributes["prompt_length"] == 10
    assert prompt.attributes["conversation.id"] == "c"
    assert prompt.attributes["app.version"] == "1.2"
    assert (prompt.logger, prompt.level) == ("codex_otel", logging.INFO)
    assert decision.attributes.items() >= DECISION.items()
    assert (decision.logger, decision.level) == ("codex_otel.tools", logging.WARNING)
    assert events.named("codex.tool_decision") == [decision]
    assert events.problems == events.ignored == []


def test_event_is_queued_if_the_capture_ends_while_it_is_logged(
    attach: HandlerFactory, exporter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may leave the block between any two steps of a logging call."""

    class Leaving(list[Any]):
        def __getitem__(self, _: Any) -> Any:
            self.clear()
            return []

    monkeypatch.setattr(handler_module, "_sinks", Leaving([print]))
    handler = attach({"exporter": exporter})
    ttft()
    assert handler.flush(20)
    assert handler.stats().exported == 1


ODD: dict[str, object] = {
    "tool_name": "lone \ud800 surrogate",
    "call_id": None,
    "arguments": "x" * 70_000,
    "duration_ms": timedelta(seconds=2),
    "success": False,
    "output": {"big": 1 << 70, "list": [1, 2.5, b"b", Path("p")]},
    "": "no key",
}


def test_captured_attributes_equal_the_exported_ones(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    exporter = over_http(receiver)
    attach({"exporter": exporter, "log_user_prompt": True})
    logged: dict[str, dict[str, object]] = {
        "codex.tool_result": ODD,
        "codex.user_prompt": {"prompt": "p"},
    }
    records = [
        LOGGER.makeRecord("codex_otel", logging.INFO, __file__, 1, name, (), None, extra=extra)
        for name, extra in logged.items()
    ]
    with Conversation("c", "m", auth_mode="ApiKey").bind():
        with capture_events() as events:
            for record in records:
                LOGGER.handle(record)
        for record in records:
            LOGGER.handle(record)
    received = receiver.wait_for(2)
    assert [event.attributes for event in events] == [event.attributes for event in received]


def test_handler_exports_only_after_the_block(
    attach: HandlerFactory, exporter: dict[str, Any], receiver: Receiver
) -> None:
    handler = attach({"exporter": exporter})
    threads = set(threading.enumerate())
    with capture_events() as events:
        ttft(1)
        assert handler.flush()
        assert set(threading.enumerate()) <= threads
    assert len(events) == 1
    assert handler.stats().accepted == 0
    ttft(2)
    assert handler.flush()
    assert numbers(receiver.events) == [2]
    assert len(events) == 1


def test_handler_reports_faults_inside_the_block(
    attach_to: HandlerFactory, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    attach_to(receiver)
    with capture_events():
        LOGGER.info("codex.tool_resutl")
    assert "did you mean 'codex.tool_result'?" in caplog.text


def configure_by_dict() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"codex_otel": {"()": "codex_otel_logging.from_table", "otel": {}}},
            "loggers": {
                "codex_otel": {"level": "INFO", "propagate": False, "handlers": ["codex_otel"]},
                "codex_otel.tools": {"propagate": False},
            },
        }
    )


def configure_by_file() -> None:
    logging.config.fileConfig(ROOT / "logging.ini", disable_existing_loggers=False)


@pytest.mark.parametrize("configure", [configure_by_dict, configure_by_file])
def test_capture_survives_reconfiguration_of_logging(configure: Any) -> None:
    with capture_events() as events:
        ttft(1)
        configure()
        ttft(2)
        ttft(3, TOOLS)
    assert [event.attributes["duration_ms"] for event in events] == [1, 2, 3]


def test_level_is_info_inside_the_block_if_none_is_set() -> None:
    LOGGER.setLevel(logging.NOTSET)
    with capture_events() as events:
        LOGGER.debug("codex.turn_ttft")
        ttft(1, TOOLS)
    assert len(events) == 1
    assert LOGGER.level == logging.NOTSET


def test_level_stays_unset_if_an_ancestor_lets_more_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_events() as events:
        LOGGER.debug("codex.turn_ttft")
    assert len(events) == 1


@pytest.mark.parametrize("before", [logging.NOTSET, logging.ERROR])
def test_level_set_by_the_application_is_kept(before: int) -> None:
    LOGGER.setLevel(before)
    with capture_events() as events:
        ttft()
        LOGGER.setLevel(logging.INFO)
        ttft()
    assert len(events) == (2 if before == logging.NOTSET else 1)
    assert LOGGER.level == logging.INFO


def test_disabled_event_loggers_are_enabled() -> None:
    ttft(1, TOOLS)
    logging.config.dictConfig({"version": 1})
    assert LOGGER.disabled
    assert TOOLS.disabled
    with capture_events() as events:
        ttft(1)
        ttft(2, TOOLS)
    assert len(events) == 2


def test_events_rejected_by_a_loggers_filter_are_not_captured() -> None:
    def passes(record: logging.LogRecord) -> bool:
        return bool(record.__dict__["duration_ms"] != 1)

    LOGGER.addFilter(passes)
    try:
        with capture_events() as events:
            ttft(1)
            ttft(2)
    finally:
        LOGGER.removeFilter(passes)
    assert len(events) == 1


def test_logging_is_restored_if_the_block_raises() -> None:
    before = logging.Logger.callHandlers
    with pytest.raises(KeyError), capture_events() as events:  # noqa: PT012
        ttft()
        raise KeyError
    assert logging.Logger.callHandlers is before
    assert len(events) == 1


def test_wrapper_installed_inside_the_block_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Error trackers wrap it once in a process; removing the wrapper silences them for good."""
    seen = []
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)  # restores it
    with capture_events() as events:
        inner = logging.Logger.callHandlers

        def outer(logger: logging.Logger, record: logging.LogRecord) -> None:
            seen.append(record.msg)
            inner(logger, record)

        monkeypatch.setattr(logging.Logger, "callHandlers", outer)
        ttft()
    logging.getLogger("codex_otel").error("codex.turn_ttft")
    assert seen == ["codex.turn_ttft"] * 2
    assert len(events) == 1


def test_inner_block_captures_alone() -> None:
    with capture_events() as outer:
        with capture_events() as inner:
            ttft(1)
        ttft(2)
    assert [len(inner), len(outer)] == [1, 2]


def test_events_are_exported_after_blocks_left_in_order_of_entry(
    attach: HandlerFactory, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of two threads may overlap like this."""
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)  # restores it
    handler = attach({"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}})
    first, second = capture_events(), capture_events()
    first.__enter__()
    events = second.__enter__()
    first.__exit__(None, None, None)
    ttft(1)
    second.__exit__(None, None, None)
    ttft(2)
    assert handler.flush()
    assert [event.attributes["duration_ms"] for event in events] == [1]
    assert [event.attributes["duration_ms"] for event in receiver.wait_for(1)] == [2]


def test_events_of_threads_and_tasks_have_their_conversations() -> None:
    async def converse(number: int) -> None:
        with Conversation(f"task {number}", "m").bind():
            ttft()
            await asyncio.sleep(0)
            ttft()

    async def converse_all() -> None:
        await asyncio.gather(*(converse(number) for number in range(5)))

    def work(number: int) -> None:
        logger = Conversation(f"thread {number}", "m").logger()
        for _ in range(200):
            logger.info("codex.turn_ttft", extra={"duration_ms": 1})

    with capture_events() as events:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        asyncio.run(converse_all())
        for thread in threads:
            thread.join(timeout=30)
    ids = [event.attributes["conversation.id"] for event in events]
    assert {name: ids.count(name) for name in ids} == {
        **{f"thread {number}": 200 for number in range(8)},
        **{f"task {number}": 2 for number in range(5)},
    }


def test_problems_include_faults_and_ignored_records() -> None:
    with capture_events() as events:
        TOOLS.info("codex.tool_decision", extra={**DECISION, "source": "me"})
        LOGGER.info("codex.tool_resutl")
        TOOLS.info("anything", extra={"event.name": 7})
    assert events.names == ["codex.tool_decision"]
    found, misspelt, other = events.problems
    assert found == (
        "codex.tool_decision: source: "
        "expected one of 'config', 'user', 'Config', 'User', 'AutomatedReviewer'"
    )
    assert re.sub(r"\d+", "N", misspelt) == (
        "test_testing.py:N: 'codex.tool_resutl': unknown event; did you mean 'codex.tool_result'?"
    )
    assert re.sub(r"\d+", "N", other) == (
        "test_testing.py:N: message on logger 'codex_otel.tools': must be the name of an event"
    )
    assert events.ignored == [misspelt, other]


def test_repr_is_short_and_redacted() -> None:
    with capture_events() as events:
        LOGGER.info("codex.user_prompt", extra={"prompt": "secret " * 1000, "why": "word " * 1000})
        LOGGER.info("codex.turn_ttft", extra={f"field_{number}": number for number in range(100)})
        TOOLS.info("codex.tool_result", extra={"arguments": "secret", "output": "secret"})
        TOOLS.info("secret")
    prompt, many, result = events
    assert repr(prompt) == (
        "<codex.user_prompt prompt=... why='word word wor...ord word word ' prompt_length=7000>"
    )
    assert len(repr(many)) == len("<...>") + 160
    assert repr(result) == "<codex.tool_result arguments=... output=...>"
    assert repr(events) == f"[{prompt!r}, {many!r}, {result!r}] ignored: {events.ignored}"
    assert "secret" not in repr(events)
    assert "secret" in prompt.attributes["prompt"]


def test_repr_redacts_sensitive_fields_inside_maps_and_arrays() -> None:
    with capture_events() as events:
        TOOLS.info("codex.turn_ttft", extra={"extra": {"prompt": "secret"}})
        TOOLS.info("codex.turn_ttft", extra={"calls": [{"output": "secret"}]})
    assert repr(events) == (
        "[<codex.turn_ttft extra={'prompt': '[REDACTED]', 'prompt_length': 6}>, "
        "<codex.turn_ttft calls=[{'output': '[REDACTED]', 'output_length': 6}]>]"
    )


def test_unreadable_record_is_reported_and_passed_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def breaks(record: logging.LogRecord) -> bool:
        del record.msg
        return True

    seen: list[logging.LogRecord] = []
    handler = logging.NullHandler()
    handler.handle = seen.append  # type: ignore[assignment,method-assign]
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    LOGGER.addFilter(breaks)
    try:
        with capture_events() as events:
            ttft()
    finally:
        LOGGER.removeFilter(breaks)
    assert events == []
    assert len(seen) == 1
    assert "AttributeError" in capsys.readouterr().err


def test_capture_imports_no_opentelemetry(run_python: RunPython) -> None:
    program = """
import logging, sys
from codex_otel_logging import from_table
from codex_otel_logging.testing import capture_events
with capture_events() as events:
    logger = logging.getLogger("codex_otel")
    logger.addHandler(from_table({"exporter": "otlp-http"}))
    logger.info("codex.turn_ttft", extra={"duration_ms": 1})
heavy = ("opentelemetry", "requests", "urllib3", "grpc", "google", "asyncio", "http", "ssl")
print(len(events), [name for name in heavy if name in sys.modules])
"""
    assert run_python(program).stdout == "1 []\n"
