"""Covers `CodexOtelHandler`: its settings, what it exports, reports and counts, flush and close."""

import logging
import logging.handlers
import queue
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import (
    CodexOtelHandler,
    ConfigError,
    Conversation,
    OtelConfig,
    Receiver,
    Stats,
    catalog,
    from_table,
    from_toml,
)
from codex_otel_logging.catalog import EventType, Field
from support.collectors import OK, UNAVAILABLE, HttpCollector, over_http
from support.events import log, numbers
from support.fixtures import HandlerFactory

LOGGER = logging.getLogger("codex_otel")
REPORTS = WORKER = "codex_otel_logging"


def test_handler_accepts_a_path_a_table_a_config_or_none(tmp_path: Path) -> None:
    file = tmp_path / "otel.toml"
    file.write_text('[otel]\nexporter = "otlp-http"')
    table = {"exporter": "otlp-http"}
    for handler in (
        CodexOtelHandler(file),
        CodexOtelHandler(str(file)),
        CodexOtelHandler(table),
        CodexOtelHandler(OtelConfig.from_table(table)),
        from_toml(file),
        from_table(table),
    ):
        assert repr(handler) == (
            "<CodexOtelHandler otlp-http http://localhost:4318/v1/logs (NOTSET)>"
        )
    assert repr(CodexOtelHandler()) == "<CodexOtelHandler none (NOTSET)>"


def test_config_of_another_type_raises() -> None:
    with pytest.raises(ConfigError, match=r"config: expected the path .*, got int"):
        CodexOtelHandler(5)  # type: ignore[arg-type]


def test_bad_table_leaves_no_half_built_handler_in_logging() -> None:
    """The list of all handlers in logging would keep it, and flush it at exit."""
    before = len(logging._handlerList)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as caught:  # its traceback keeps the handler alive
        CodexOtelHandler({"exportr": 1})
    assert len(logging._handlerList) == before  # type: ignore[attr-defined]
    assert caught.value.faults


def test_level_and_missing_ok_are_accepted_as_options(tmp_path: Path) -> None:
    assert CodexOtelHandler(level="WARNING").level == logging.WARNING
    assert from_toml(tmp_path / "absent.toml", missing_ok=True, level=10).level == 10
    with pytest.raises(ConfigError, match="no such file"):
        from_toml(tmp_path / "absent.toml")


def test_repr_shows_the_destination_without_secrets() -> None:
    handler = from_table(
        {
            "exporter": {
                "otlp-http": {"endpoint": "https://u:s3cr3t@c/v1", "headers": {"x": "s3cr3t"}}
            }
        }
    )
    assert repr(handler) == "<CodexOtelHandler otlp-http https://c/v1 (NOTSET)>"


def test_exporter_none_counts_nothing_and_starts_no_thread(attach: HandlerFactory) -> None:
    before = set(threading.enumerate())
    handler = attach({})
    log()
    LOGGER.info("no event")
    assert handler.stats() == Stats()
    assert handler.flush()
    assert set(threading.enumerate()) <= before


def test_otel_sdk_disabled_turns_the_handler_off(
    attach_to: HandlerFactory, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", " True ")
    handler = attach_to(receiver)
    log()
    assert handler.flush()
    assert handler.stats() == Stats()
    assert receiver.events == []


def test_stats_count_exported_and_ignored_records(
    attach: HandlerFactory, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    handler = attach({"exporter": exporter})
    for number in range(3):
        log(first=number)
    LOGGER.info("no event")
    assert handler.flush()
    assert handler.stats() == Stats(accepted=3, exported=3, ignored=1)
    assert numbers(receiver.events) == [0, 1, 2]


def test_events_are_exported_after_the_schedule_delay(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    exporter = over_http(receiver)
    attach({"exporter": exporter, "batch": {"schedule_delay_ms": 10}})
    log()
    receiver.wait_for(1)


def test_full_batch_is_exported_at_once(attach: HandlerFactory, receiver: Receiver) -> None:
    otel = {
        "exporter": over_http(receiver),
        "batch": {"schedule_delay_ms": 600_000, "max_batch_size": 2},
    }
    handler = attach(otel)
    for number in range(5):
        log(first=number)
    receiver.wait_for(4)
    assert [len(_records(request)) for request in receiver.requests] == [2, 2]
    assert handler.flush()


def _records(request: Any) -> list[Any]:
    return [
        record
        for resource in request.message.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def test_level_and_filters_of_the_handler_apply(attach: HandlerFactory, receiver: Receiver) -> None:
    exporter = over_http(receiver)
    handler = attach({"exporter": exporter}, level=logging.INFO)
    handler.addFilter(lambda record: record.__dict__["duration_ms"] != 1)
    LOGGER.debug("codex.turn_ttft", extra={"duration_ms": 0})
    log(first=1)
    log(first=2)
    assert handler.flush()
    assert numbers(receiver.events) == [2]


def test_only_events_of_codex_otel_loggers_are_exported(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    """Even if the handler is attached to the root logger."""
    exporter = over_http(receiver)
    handler = attach({"exporter": exporter})
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        logging.getLogger("app").info("codex.turn_ttft", extra={"duration_ms": 1})
        logging.getLogger("codex_otel_logging").info("codex.turn_ttft", extra={"duration_ms": 1})
        logging.getLogger("codex_otel.below").info("codex.turn_ttft", extra={"duration_ms": 2})
        assert handler.flush()
    finally:
        root.removeHandler(handler)
    assert {event.attributes["duration_ms"] for event in receiver.events} == {2}


def test_ignored_records_are_reported_once_without_their_text(
    attach_to: HandlerFactory, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    handler = attach_to(receiver)
    for _ in range(2):
        LOGGER.info("codex.tool_reslt")
        LOGGER.info("the s3cr3t plan")
    other = logging.getLogger("other")
    other.addHandler(handler)
    other.error("codex.turn_ttft")
    other.removeHandler(handler)
    messages = [record.getMessage() for record in caplog.records if record.name == REPORTS]
    place = r"ignored: test_handler.py:"
    assert len(messages) == 3
    assert messages[0].startswith(place)
    assert messages[0].endswith(
        ": 'codex.tool_reslt': unknown event; did you mean 'codex.tool_result'?"
    )
    assert messages[1].startswith(place)
    assert messages[1].endswith(": message on logger 'codex_otel': must be the name of an event")
    assert messages[2] == (
        "ignored: logger 'other': logs 'codex.turn_ttft'; events must be logged under "
        "'codex_otel'; rename the logger to 'codex_otel.<name>'"
    )
    assert handler.stats() == Stats(ignored=5)


def log_without_conversation(duration_ms: object) -> None:
    LOGGER.info("codex.turn_ttft", extra={"duration_ms": duration_ms})


PLACE = f"test_handler.py:{log_without_conversation.__code__.co_firstlineno + 1}"


def test_faulty_field_is_reported_once_with_its_place_and_its_event_exported(
    attach_to: HandlerFactory, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    handler = attach_to(receiver)
    with Conversation("c", "m").bind():
        for _ in range(2):
            log_without_conversation("s3cr3t")
            LOGGER.info("codex.turn_ttft")
    assert handler.flush()
    messages = [record.getMessage() for record in caplog.records if record.name == REPORTS]
    assert messages == [f"{PLACE}: event codex.turn_ttft: duration_ms: expected a number, got str"]
    assert len(receiver.events) == 4


@pytest.mark.parametrize("attribute", ["pathname", "lineno"])
@pytest.mark.parametrize("is_removed", [True, False])
def test_faulty_field_of_an_unknown_place_is_reported_and_its_event_exported(
    attach_to: HandlerFactory,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    attribute: str,
    is_removed: bool,
) -> None:
    """A filter of the application may change any attribute of a record."""

    def change(record: logging.LogRecord) -> bool:
        if is_removed:
            delattr(record, attribute)
        else:
            setattr(record, attribute, None)
        return True

    handler = attach_to(receiver)
    handler.addFilter(change)
    with Conversation("c", "m").bind():
        log_without_conversation("s3cr3t")
    assert handler.flush()
    messages = [record.getMessage() for record in caplog.records if record.name == REPORTS]
    assert messages == ["event codex.turn_ttft: duration_ms: expected a number, got str"]
    assert len(receiver.events) == 1


def test_missing_conversation_is_reported_once_and_the_event_exported(
    attach_to: HandlerFactory, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    handler = attach_to(receiver)
    LOGGER.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "own"})
    for number in range(2):
        log_without_conversation(number)
    assert handler.flush()
    messages = [record.getMessage() for record in caplog.records if record.name == REPORTS]
    assert messages == [
        f"{PLACE}: event codex.turn_ttft has no conversation; "
        "bind one: with codex_otel_logging.Conversation(id, model).bind(): ..."
    ]
    assert len(receiver.events) == 3


def test_warnings_are_logged_although_dictconfig_disabled_the_logger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`disable_existing_loggers` is true by default, and the package's logger exists already."""
    logging.getLogger(REPORTS).disabled = True
    CodexOtelHandler({"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}}).emit(
        logging.makeLogRecord({"name": "codex_otel", "msg": "codex.nothing"})
    )
    assert [record.name for record in caplog.records] == [REPORTS]


@pytest.mark.usefixtures("own_catalog")
def test_registered_event_is_exported_redacted(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach_to(receiver)
    LOGGER.info("myapp.plan", extra={"plan": "secret"})
    catalog.register(
        EventType("myapp.plan", "", (Field("plan", sensitive="prompt"), Field("steps", "integer")))
    )
    LOGGER.info("myapp.plan", extra={"plan": "secret", "steps": 2})
    assert handler.flush()
    (event,) = receiver.events
    own = {key: event.attributes[key] for key in ("plan", "plan_length", "steps")}
    assert own == {"plan": "[REDACTED]", "plan_length": 6, "steps": 2}


@pytest.mark.parametrize(
    ("variables", "terminal"),
    [
        ({"TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "3.5"}, "iTerm.app/3.5"),
        ({"TERM_PROGRAM": "tmux"}, "tmux"),
        ({"TERM": "screen"}, "screen"),
        ({"TERM": ""}, "unknown"),
    ],
)
def test_terminal_type_comes_from_the_terminals_variables(
    attach_to: HandlerFactory,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    terminal: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    handler = attach_to(receiver)
    log()
    assert handler.flush()
    assert receiver.events[0].attributes["terminal.type"] == terminal


def test_closed_handler_ends_its_worker_and_works_again(
    attach: HandlerFactory, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    handler = attach({"exporter": exporter})
    for number in range(3):
        before = set(threading.enumerate())
        log(first=number)
        (worker,) = {t for t in threading.enumerate() if t.name == WORKER} - before
        handler.close()
        worker.join(timeout=10)
        assert not worker.is_alive()
        receiver.wait_for(number + 1)
    assert handler.stats() == Stats(accepted=3, exported=3)


def test_garbage_collected_handler_ends_its_worker(receiver: Receiver) -> None:
    handler = from_table({"exporter": over_http(receiver)})
    before = set(threading.enumerate())
    handler.emit(logging.makeLogRecord({"name": "codex_otel", "msg": "codex.turn_ttft"}))
    receiver.wait_for(1)
    (worker,) = {t for t in threading.enumerate() if t.name == WORKER} - before
    del handler
    worker.join(timeout=10)
    assert not worker.is_alive()


def test_flush_without_collector_returns_in_time(attach: HandlerFactory, absent: str) -> None:
    exporter = {"otlp-http": {"endpoint": f"http://{absent}/v1/logs"}}
    handler = attach({"exporter": exporter, "batch": {"retry_for_ms": 1000}})
    log()
    assert handler.flush(timeout=0.05) is False
    assert handler.stats() == Stats(accepted=1, queued=1)
    assert handler.flush(timeout=10) is True
    assert handler.stats() == Stats(accepted=1, dropped=1)


def test_flush_on_the_worker_thread_does_not_wait_for_itself(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach_to(receiver)
    flushed = []

    class Flushing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            flushed.append(handler.flush(timeout=60))

    logging.getLogger(REPORTS).addHandler(Flushing())
    # Without a conversation, so that the worker logs a warning.
    LOGGER.info("codex.turn_ttft", extra={"duration_ms": 0})
    assert handler.flush()
    assert flushed == [False]


def test_applications_broken_filter_does_not_stop_exports(
    attach: HandlerFactory,
    http_collector: Callable[..., HttpCollector],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Warnings go through the application's filters and handlers, which may raise."""

    def broken(record: logging.LogRecord) -> bool:
        raise AttributeError("request_id")

    console = logging.StreamHandler()
    console.addFilter(broken)
    logging.getLogger(REPORTS).addHandler(console)
    collector = http_collector(UNAVAILABLE, UNAVAILABLE, OK)
    handler = attach({"exporter": {"otlp-http": {"endpoint": collector.endpoint}}})
    log()
    LOGGER.info("codex.nothing s3cr3t")
    assert handler.flush()
    assert handler.stats() == Stats(accepted=1, exported=1, ignored=1)
    assert capfd.readouterr().err == ""


def test_ctrl_c_while_a_warning_is_logged_in_a_logging_call_is_not_swallowed(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    reports, interrupted = logging.getLogger("codex_otel_logging"), Interrupted()
    attach({"exporter": over_http(receiver)})
    reports.addHandler(interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            logging.getLogger("codex_otel").info("not an event")
    finally:
        reports.removeHandler(interrupted)


def test_event_with_exception_from_a_queue_handler_is_exported(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    """`QueueHandler` appends the formatted exception to the message."""
    handler = attach_to(receiver)
    LOGGER.removeHandler(handler)
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    queued = logging.handlers.QueueHandler(records)
    LOGGER.addHandler(queued)
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    try:
        raise TimeoutError("too slow")
    except TimeoutError:
        Conversation("c", "m").logger().exception("codex.api_request", extra={"attempt": 0})
    finally:
        listener.stop()
        LOGGER.removeHandler(queued)
    assert handler.flush()
    (event,) = receiver.events
    assert event.name == "codex.api_request"
    assert event.attributes["conversation.id"] == "c"


def test_logging_shutdown_flushes_the_handler(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    """An application may call it before `os._exit`, which runs no exit hooks."""
    handler = attach_to(receiver)
    log()
    logging.shutdown([weakref.ref(handler)])
    assert len(receiver.events) == 1


def test_flush_under_loggings_lock_does_not_wait(
    attach: HandlerFactory, http_collector: Callable[..., HttpCollector]
) -> None:
    """`dictConfig` holds logging's lock, which the worker may need to finish the flush."""
    collector = http_collector(UNAVAILABLE, OK)
    handler = attach({"exporter": {"otlp-http": {"endpoint": collector.endpoint}}})
    log()
    with logging._lock:  # type: ignore[attr-defined]
        assert handler.flush() is False
    assert handler.flush() is True


def test_unreadable_record_goes_to_handle_error(
    attach_to: HandlerFactory, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unforeseen exceptions go to `handleError`, as logging requires."""
    handler = attach_to(receiver)
    handled: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", handled.append)
    record = logging.makeLogRecord({"name": "codex_otel", "msg": "codex.turn_ttft"})
    del record.levelno
    handler.handle(record)
    assert handled == [record]
