"""Covers the warnings about missing, doubled and ignored events, and where warnings go."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

import pytest

from codex_otel_logging import Receiver, Stats, attachment, diagnostics, from_table
from support.collectors import over_http
from support.fixtures import HandlerFactory, RunPython

LOGGER = logging.getLogger("codex_otel")
FIELDS = {"duration_ms": 1, "conversation.id": "c"}


@pytest.fixture
def otel(receiver: Receiver) -> dict[str, Any]:
    return {"exporter": over_http(receiver)}


PROGRAM = """
import json, logging, sys
import codex_otel_logging
exporter = {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}
handler = codex_otel_logging.from_table({"exporter": exporter})
logger = logging.getLogger("codex_otel")
"""


@pytest.mark.parametrize(
    ("lines", "report"),
    [
        (
            "logger.addHandler(handler); logger.info('codex.turn_ttft')",
            "logger 'codex_otel' inherits level WARNING; set its level to INFO",
        ),
        (
            "logger.addHandler(handler); logger.setLevel('INFO'); logger.disabled = True",
            "logger 'codex_otel' is disabled; name it in the logging configuration, or set "
            "disable_existing_loggers to False",
        ),
        (
            "logger.addHandler(handler); logger.setLevel('INFO'); logging.disable(logging.INFO)",
            "logging.disable() suppresses INFO; call logging.disable(logging.NOTSET)",
        ),
        (
            "logger.addHandler(handler); logger.setLevel('INFO')\n"
            "logging.getLogger('codex.agent').info('codex.turn_ttft')",
            "logger 'codex.agent' is not under 'codex_otel'; rename it to 'codex_otel.<name>'",
        ),
        ("logger.addHandler(handler); logger.setLevel('INFO')", None),
        ("logger.addHandler(handler); logger.setLevel('WARNING')", None),
        ("logger.addHandler(handler); logging.root.setLevel('DEBUG')", None),
    ],
)
def test_process_without_events_logs_the_reason_once_at_exit(
    run_python: RunPython, lines: str, report: str | None
) -> None:
    done = run_python(PROGRAM + lines)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == ("" if report is None else f"no event was logged: {report}\n")


def test_process_without_exporter_logs_no_reason(run_python: RunPython) -> None:
    program = PROGRAM.replace('{"exporter": exporter}', "{}") + "logger.addHandler(handler)"
    assert run_python(program).stderr == ""


def test_process_with_events_logs_no_reason(run_python: RunPython, receiver: Receiver) -> None:
    program = PROGRAM.replace("http://127.0.0.1:9/v1/logs", receiver.http_endpoint)
    lines = (
        "logger.addHandler(handler)\nlogger.error('codex.turn_ttft', extra=" + repr(FIELDS) + ")"
    )
    assert run_python(program + lines).stderr == ""
    assert len(receiver.events) == 1


@pytest.mark.parametrize("second", ["", "codex_otel"])
def test_events_exported_twice_are_reported_once(
    otel: dict[str, Any], receiver: Receiver, attach: HandlerFactory, second: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    handler = attach(otel)
    LOGGER.propagate = True
    other = logging.getLogger(second)
    again = handler if second == "" else from_table(otel)
    other.addHandler(again)
    try:
        for _ in range(2):
            LOGGER.info("codex.turn_ttft", extra=FIELDS)
            assert handler.flush(10)
            assert again.flush(10)
    finally:
        other.removeHandler(again)
    assert len(receiver.events) == 4
    places = f"'codex_otel' and {second or 'root'!r}"
    assert [r.getMessage() for r in caplog.records if r.name == diagnostics.DIAGNOSTICS_LOGGER] == [
        f"events of logger 'codex_otel' are exported 2 times, through handlers on {places}; "
        "attach one handler to 'codex_otel' only"
    ]


def test_handlers_with_different_destinations_are_not_reported(
    otel: dict[str, Any], attach: HandlerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The destinations may differ by a header's value only."""
    ((name, settings),) = otel["exporter"].items()
    handlers = [
        attach({"exporter": {name: {**settings, "headers": {"tenant": tenant}}}})
        for tenant in ("a", "b")
    ]
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    assert all(handler.flush(10) for handler in handlers)
    assert caplog.messages == []


ROOT_ONLY = """
import logging
import codex_otel_logging
exporter = {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}
handler = codex_otel_logging.from_table({"exporter": exporter})
logging.root.addHandler(handler)
logging.getLogger("codex_otel").setLevel("INFO")
for _ in range(3):
    logging.getLogger("codex_otel").info("codex.turn_tftf")
logging.getLogger("app").warning("not an event")
"""


def test_warnings_go_to_stderr_if_no_other_handler_exists(run_python: RunPython) -> None:
    """As the package's handlers ignore warnings, logging's last resort must print them."""
    done = run_python(ROOT_ONLY)
    typo, other = done.stderr.splitlines()
    assert typo.endswith("'codex.turn_tftf': unknown event; did you mean 'codex.turn_ttft'?")
    assert other == (
        "ignored: logger 'app': its records are not events; "
        "attach the handler to the logger 'codex_otel' only"
    )


def test_warnings_go_to_the_applications_handlers_only(run_python: RunPython) -> None:
    program = "import logging, sys; logging.basicConfig(stream=sys.stdout)\n" + ROOT_ONLY
    done = run_python(program)
    assert done.stderr == ""
    assert done.stdout.count("WARNING:codex_otel_logging:ignored: ") == 2


def test_handler_with_a_closed_stream_is_skipped_silently(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream of a finished test is closed; logging would print a traceback."""
    closed, kept = io.StringIO(), io.StringIO()
    logger = logging.Logger(diagnostics.DIAGNOSTICS_LOGGER)
    logger.addHandler(logging.StreamHandler(closed))
    logger.addHandler(logging.StreamHandler(kept))
    monkeypatch.setattr(diagnostics, "_logger", logger)
    monkeypatch.setitem(logging.root.manager.loggerDict, diagnostics.DIAGNOSTICS_LOGGER, logger)
    closed.close()
    diagnostics.warn("a fault of %s", "an event")
    assert kept.getvalue() == "a fault of an event\n"
    assert capsys.readouterr().err == ""


def test_warning_after_pytest_closed_its_streams_prints_no_traceback(run_tests: Any) -> None:
    """The worker checks the field at exit, after pytest has closed its streams."""
    done = run_tests(
        """
import logging, sys
import codex_otel_logging

def test_logs():
    logging.getLogger().addHandler(logging.StreamHandler())
    exporter = {"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}
    batch = {"schedule_delay_ms": 600_000, "shutdown_timeout_ms": 0}
    codex_otel_logging.configure({"exporter": exporter, "batch": batch})
    logging.getLogger("codex_otel").info("codex.turn_ttft", extra={"duration_ms": "x"})
"""
    )
    done.assert_outcomes(passed=1)
    assert "Logging error" not in done.stderr.str()
    assert "Traceback" not in done.stderr.str()


IN_EXTRA = "log the name alone and pass the values in extra="
BY_STRUCTLOG = (
    "structlog rendered the event into the message; make "
    "structlog.stdlib.render_to_log_kwargs its last processor"
)
NAME = "codex.user_prompt"


@pytest.mark.parametrize(
    ("message", "arguments", "report"),
    [
        (f"{NAME} %s", ("s3cr3t",), f"begins with {NAME!r}; {IN_EXTRA}"),
        (f"{NAME}: s3cr3t", (), f"begins with {NAME!r}; {IN_EXTRA}"),
        (f"{NAME}, s3cr3t", (), f"begins with {NAME!r}; {IN_EXTRA}"),
        (f"event {NAME} s3cr3t", (), f"contains {NAME!r}; {IN_EXTRA}"),
        (f'{{"event": "{NAME}", "prompt": "s3cr3t"}}', (), f"contains {NAME!r}; {BY_STRUCTLOG}"),
        (f"event='{NAME}' prompt='s3cr3t'", (), f"contains {NAME!r}; {BY_STRUCTLOG}"),
        (f"level=info event={NAME} prompt=s", (), f"contains {NAME!r}; {BY_STRUCTLOG}"),
        (f"{NAME}s s3cr3t", (), "must be the name of an event"),
        (f"x{NAME} s3cr3t", (), "must be the name of an event"),
        ("s3cr3t", (), "must be the name of an event"),
    ],
)
def test_message_with_more_than_the_event_name_gets_a_hint(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture, otel: dict[str, Any],
    message: str, arguments: tuple[object, ...], report: str,
) -> None:  # fmt: skip
    handler = attach(otel)
    for _ in range(2):
        LOGGER.info(message, *arguments)
    (text,) = [r.getMessage() for r in caplog.records if r.name == diagnostics.DIAGNOSTICS_LOGGER]
    assert text.endswith(f": message on logger 'codex_otel': {report}")
    assert "s3cr3t" not in text
    assert handler.stats() == Stats(ignored=2)


def test_message_changed_by_a_queue_handlers_formatter_gets_a_hint(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture, otel: dict[str, Any]
) -> None:
    handler = attach(otel)
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    front = QueueHandler(queue)
    front.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    front.handle(LOGGER.makeRecord("codex_otel", 20, __file__, 1, NAME, (), None))
    handler.handle(queue.get(timeout=10))
    (text,) = caplog.messages
    assert text.endswith(
        f"contains {NAME!r}; a formatter changed the message; remove it from the QueueHandler in "
        "front of this handler"
    )


def test_event_on_another_logger_is_reported_once_per_logger(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture, otel: dict[str, Any]
) -> None:
    handler = attach(otel)
    for name in ("codex.agent", "app", "other", "codex.agent"):
        record = logging.makeLogRecord({"name": name, "msg": NAME if "codex" in name else "x"})
        handler.handle(record)
    assert [r.getMessage() for r in caplog.records if r.name == diagnostics.DIAGNOSTICS_LOGGER] == [
        f"ignored: logger 'codex.agent': logs {NAME!r}; events must be logged under "
        "'codex_otel'; rename the logger to 'codex_otel.<name>'",
        "ignored: logger 'app': its records are not events; attach the handler to the logger "
        "'codex_otel' only",
    ]
    assert handler.stats().ignored == 4


def test_redacted_value_of_wrong_type_is_reported_once(
    attach: HandlerFactory, caplog: pytest.LogCaptureFixture, otel: dict[str, Any],
    receiver: Receiver,
) -> None:  # fmt: skip
    handler = attach(otel)

    def log() -> None:
        LOGGER.info(NAME, extra={"prompt": b"s3cr3t", "conversation.id": "c"})

    log()
    log()
    assert handler.flush(10)
    (event, _) = receiver.wait_for(2)
    assert event.attributes["prompt"] == "[REDACTED]"
    assert event.attributes["prompt_length"] == 6
    (text,) = [r.getMessage() for r in caplog.records if r.name == diagnostics.DIAGNOSTICS_LOGGER]
    place = f"test_attachment.py:{log.__code__.co_firstlineno + 1}"
    assert text == f"{place}: event codex.user_prompt: prompt: expected a string, got bytes"


def structlog_logger(*processors: Any) -> Any:
    structlog = pytest.importorskip("structlog")
    structlog.reset_defaults()
    return structlog.wrap_logger(
        logging.getLogger("codex_otel.structlog"),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[each(structlog) for each in processors],
    )


@pytest.mark.parametrize(
    "last",
    [
        lambda structlog: structlog.stdlib.render_to_log_kwargs,
        lambda structlog: structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    ids=["render_to_log_kwargs", "wrap_for_formatter"],
)
def test_structlog_events_are_exported_without_structlogs_attributes(
    attach: HandlerFactory, otel: dict[str, Any], receiver: Receiver, last: Callable[[Any], Any],
) -> None:  # fmt: skip
    """Only structlog's own formatter needs the attributes `_logger` and `_name`."""
    handler = attach({**otel, "log_user_prompt": False})
    logger = structlog_logger(lambda s: s.stdlib.add_log_level, last)
    logger.info(NAME, prompt="s3cr3t", meta={"prompt": "s3cr3t"}, **{"conversation.id": "c"})
    try:
        raise KeyError("k")
    except KeyError:
        logger.error("codex.api_request", attempt=0, exc_info=True)
    assert handler.flush(10)
    prompt, request = receiver.wait_for(2)
    own = {key: value for key, value in prompt.attributes.items() if not key.startswith("event.")}
    assert own == {
        "app.version": "unknown",
        "terminal.type": "xterm",
        "conversation.id": "c",
        "prompt": "[REDACTED]",
        "prompt_length": 6,
        "meta": {"prompt": "[REDACTED]", "prompt_length": 6},
        "level": "info",
    }
    assert request.attributes["exception.type"] == "KeyError"
    assert request.attributes["attempt"] == 0


@pytest.mark.parametrize(
    "renderer",
    [
        lambda structlog: structlog.processors.JSONRenderer(),
        lambda structlog: structlog.processors.KeyValueRenderer(key_order=["event"]),
        lambda structlog: structlog.processors.LogfmtRenderer(key_order=["event"]),
    ],
    ids=["JSON", "key=value", "logfmt"],
)
def test_message_rendered_by_structlog_gets_a_hint(
    attach: HandlerFactory, otel: dict[str, Any], caplog: pytest.LogCaptureFixture,
    renderer: Callable[[Any], Any],
) -> None:  # fmt: skip
    handler = attach(otel)
    logger = structlog_logger(renderer)
    for _ in range(2):
        logger.info(NAME, prompt="s3cr3t")
    (text,) = (r.getMessage() for r in caplog.records if r.name == diagnostics.DIAGNOSTICS_LOGGER)
    assert text.endswith(BY_STRUCTLOG)
    assert handler.stats() == Stats(ignored=2)


def test_event_dict_keeps_its_fields_between_plain_records(
    attach: HandlerFactory, otel: dict[str, Any], receiver: Receiver
) -> None:
    handler = attach(otel)
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    LOGGER.info({"event": "codex.turn_ttft", **FIELDS, "more": 1})
    LOGGER.info("codex.turn_ttft", extra=FIELDS)
    assert handler.flush(10)
    assert [event.attributes.get("more") for event in receiver.wait_for(3)] == [None, 1, None]


def test_excluded_text_deltas_are_counted_as_ignored_and_not_reported(
    attach: HandlerFactory, otel: dict[str, Any], receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    handler = attach({**otel, "log_sse_deltas": False})
    for kind in ("response.output_text.delta", "response.created", "response.output_text.delta"):
        extra = {"event.kind": kind, **FIELDS}
        LOGGER.info("codex.sse_event", extra=extra)
    assert handler.flush(10)
    (event,) = receiver.events
    assert event.attributes["event.kind"] == "response.created"
    assert handler.stats() == Stats(accepted=1, exported=1, ignored=2)
    assert [r for r in caplog.records if r.name == diagnostics.DIAGNOSTICS_LOGGER] == []


def test_dict_message_without_a_known_event_is_ignored(
    attach: HandlerFactory, otel: dict[str, Any]
) -> None:
    handler = attach(otel)
    LOGGER.info({"event": "codex.turn_ttft", "duration_ms": 1, 5: "odd", "name": "kept?"})
    LOGGER.info({"duration_ms": 1})
    LOGGER.info({"event": "nothing"})
    assert handler.stats().ignored == 2
    assert handler.stats().accepted == 1


def test_logger_that_is_created_while_the_others_are_looked_at_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may create one during the exit."""

    class Growing(dict[str, Any]):
        def items(self) -> Any:
            for item in super().items():
                yield item
                self[f"other{len(self)}"] = item[1]

    manager = logging.root.manager
    monkeypatch.setattr(manager, "loggerDict", Growing(manager.loggerDict))
    monkeypatch.setattr(LOGGER, "level", logging.INFO)
    monkeypatch.setattr(LOGGER, "disabled", False)
    assert attachment.why_silent() is None
