"""Predicts whether an INFO event reaches the handler exactly once, for real configurations.

The last test logs an event with each configuration and compares.
"""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from codex_otel_logging import CodexOtelHandler
from codex_otel_logging.cli.check.reach import Onlooker, Reach, reach_of

OURS = {"()": "codex_otel_logging.from_table", "otel": {}}
CONSOLE = {"class": "logging.StreamHandler"}
LOGGER = {"level": "INFO", "propagate": False, "handlers": ["codex_otel"]}
HERE = "the handler 'codex_otel' (CodexOtelHandler) on the logger 'codex_otel'"


@pytest.fixture(autouse=True)
def _restored_tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replaces the logging tree, so that tests do not see each other's loggers."""
    root = logging.RootLogger(logging.WARNING)
    manager = logging.Manager(root)
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging.Logger, "root", root)
    monkeypatch.setattr(logging.Logger, "manager", manager)
    yield
    for logger in [root, *manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", []):
            handler.close()


def configured(
    logger: str = "codex_otel",
    *,
    loggers: Mapping[str, Any] | None = None,
    handlers: Mapping[str, Any] | None = None,
    unattached: tuple[str, ...] = (),
    **more: Any,
) -> Reach:
    """Configure logging, and return the prediction for a logger that existed before."""
    logging.root.handlers.clear()  # those of pytest
    logging.getLogger("codex_otel")
    logging.getLogger("codex_otel.tools")
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"codex_otel": OURS, "console": CONSOLE, **(handlers or {})},
            "loggers": {"codex_otel": LOGGER} if loggers is None else loggers,
            **more,
        }
    )
    return reach_of(logging.getLogger(logger), unattached)


def fault_of(found: Reach) -> str:
    assert found.arrivals == []
    assert found.onlookers == []
    (fault,) = found.faults
    return fault


@pytest.mark.parametrize("logger", ["codex_otel", "codex_otel.tools"])
def test_handler_on_codex_otel_receives_events_once(logger: str) -> None:
    assert configured(logger) == Reach(logger, [HERE], [], [], [])


def test_other_handlers_up_the_tree_are_onlookers() -> None:
    found = configured(
        "codex_otel.tools",
        handlers={
            "file": {"class": "logging.NullHandler"},
            "errors": {**CONSOLE, "level": "ERROR"},
            "other": CONSOLE,
        },
        loggers={
            "codex_otel": {**LOGGER, "propagate": True, "handlers": ["codex_otel", "console"]}
        },
        root={"handlers": ["file", "errors", "other"]},
    )
    assert found.arrivals == [HERE]
    assert found.onlookers == [
        Onlooker("the handler 'console' (StreamHandler)", "on the logger 'codex_otel'", False),
        Onlooker("the handler 'other' (StreamHandler)", "on the root logger", True),
    ]
    assert (found.faults, found.notes) == ([], [])


class TestLevels:
    def test_level_inherited_from_the_root_logger_is_a_fault(self) -> None:
        loggers = {"codex_otel": {"handlers": ["codex_otel"]}}
        root = {"handlers": ["console"]}  # receives nothing either
        assert fault_of(configured("codex_otel.tools", loggers=loggers, root=root)) == (
            'level WARNING is inherited from the root logger; set "level": "INFO" for the logger '
            "'codex_otel'"
        )

    @pytest.mark.parametrize("logger", ["codex_otel", "codex_otel.tools"])
    def test_level_of_the_logger_is_a_fault(self, logger: str) -> None:
        loggers = {"codex_otel": {**LOGGER, "level": "ERROR"}}
        assert fault_of(configured(logger, loggers=loggers)) == (
            "the logger 'codex_otel' has level ERROR; set it to INFO"
        )

    def test_level_of_a_logger_below_is_a_fault_for_that_logger_only(self) -> None:
        loggers = {"codex_otel": LOGGER, "codex_otel.tools": {"level": "WARNING"}}
        assert configured("codex_otel", loggers=loggers).arrivals == [HERE]
        assert fault_of(configured("codex_otel.tools", loggers=loggers)) == (
            "the logger 'codex_otel.tools' has level WARNING; set it to INFO"
        )

    def test_level_of_the_handler_is_a_fault(self) -> None:
        handlers = {"codex_otel": {**OURS, "level": "WARNING"}}
        assert fault_of(configured(handlers=handlers)) == (
            "the handler 'codex_otel' (CodexOtelHandler) has level WARNING; set it to INFO"
        )

    @pytest.mark.parametrize("level", ["INFO", "DEBUG", "NOTSET"])
    def test_levels_up_to_info_are_not_faults(self, level: str) -> None:
        found = configured(
            handlers={"codex_otel": {**OURS, "level": level}},
            loggers={"codex_otel": {"handlers": ["codex_otel"]}},
            root={"level": level},
        )
        assert found.faults == []

    def test_logging_disable_is_a_fault(self) -> None:
        configured()
        logging.disable(logging.INFO)
        assert fault_of(reach_of(logging.getLogger("codex_otel"))) == (
            "logging.disable(INFO) is in effect; remove the call"
        )
        logging.disable(logging.DEBUG)
        assert reach_of(logging.getLogger("codex_otel")).faults == []


def test_logger_disabled_by_the_configuration_is_a_fault() -> None:
    found = configured(loggers={}, root={"level": "INFO", "handlers": ["codex_otel"]})
    assert fault_of(found) == (
        "the logger 'codex_otel' is disabled: dictConfig and fileConfig disable existing loggers "
        'that the configuration does not name; set "disable_existing_loggers": False'
    )


def test_handler_on_the_root_logger_gets_a_note() -> None:
    found = configured(
        disable_existing_loggers=False,
        loggers={},
        root={"level": "INFO", "handlers": ["codex_otel", "console"]},
    )
    assert found.arrivals == ["the handler 'codex_otel' (CodexOtelHandler) on the root logger"]
    assert [onlooker.place for onlooker in found.onlookers] == ["on the root logger"]
    assert found.faults == []
    assert found.notes == [
        "the handler 'codex_otel' (CodexOtelHandler) also receives the records of other loggers, "
        "and ignores them; attach it to the logger 'codex_otel' only"
    ]


class TestNotReached:
    def test_logger_that_does_not_propagate_is_a_fault(self) -> None:
        found = configured(
            "codex_otel.tools",
            loggers={"codex_otel": {"level": "INFO", "propagate": False}},
            root={"handlers": ["codex_otel"]},
        )
        assert fault_of(found) == (
            "the handler 'codex_otel' (CodexOtelHandler) is attached to the root logger, to which "
            "the logger 'codex_otel' does not propagate; attach it to the logger 'codex_otel'"
        )

    @pytest.mark.parametrize("name", ["codex.agent", "codex", "codex-otel", "codex_otel_logging"])
    def test_handler_on_another_logger_is_a_fault(self, name: str) -> None:
        loggers = {name: LOGGER, "codex_otel": {"level": "INFO"}}
        assert fault_of(configured(loggers=loggers)) == (
            f"the handler 'codex_otel' (CodexOtelHandler) is attached to the logger {name!r}, "
            "which receives no records of the logger 'codex_otel'; attach it to the logger "
            "'codex_otel'"
        )

    def test_handler_on_a_logger_below_misses_events_of_codex_otel(self) -> None:
        loggers = {"codex_otel": {"level": "INFO"}, "codex_otel.tools": LOGGER}
        assert configured("codex_otel.tools", loggers=loggers).faults == []
        assert "attached to the logger 'codex_otel.tools', which receives no records of" in (
            fault_of(configured(loggers=loggers))
        )

    def test_handler_attached_to_no_logger_is_a_fault(self) -> None:
        found = configured(
            loggers={"codex_otel": {"level": "INFO"}}, unattached=("codex_otel", "other")
        )
        assert fault_of(found) == (
            "the handler 'codex_otel' is not attached to a logger; attach it to the logger "
            "'codex_otel'"
        )

    def test_configuration_without_a_handler_is_a_fault(self) -> None:
        found = configured(handlers={"codex_otel": CONSOLE})
        assert found.arrivals == []
        assert found.faults == [
            "no handler of codex_otel_logging is configured; add one: "
            '{"()": "codex_otel_logging.from_toml"}, and attach it to the logger \'codex_otel\''
        ]
        assert [onlooker.place for onlooker in found.onlookers] == ["on the logger 'codex_otel'"]


class TestTwice:
    def test_same_handler_on_two_loggers_is_a_fault(self) -> None:
        found = configured(
            loggers={"codex_otel": {**LOGGER, "propagate": True}}, root={"handlers": ["codex_otel"]}
        )
        root = "the handler 'codex_otel' (CodexOtelHandler) on the root logger"
        assert found.arrivals == [HERE, root]
        assert found.faults == [
            f"each event is sent twice, by {HERE} and {root}; remove all but one"
        ]

    def test_two_handlers_for_one_collector_are_a_fault(self) -> None:
        otel = {"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:4318/v1/logs"}}}
        found = configured(
            handlers={
                "codex_otel": {**OURS, "otel": otel},
                "again": {**OURS, "otel": otel, "level": "INFO"},
            },
            loggers={"codex_otel": {**LOGGER, "handlers": ["codex_otel", "again"]}},
        )
        assert len(found.arrivals) == 2
        (fault,) = found.faults
        assert "by the handler 'codex_otel' (CodexOtelHandler) on the logger 'codex_otel' and" in (
            fault
        )

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"otlp-http": {"endpoint": "http://a/"}}, {"otlp-http": {"endpoint": "http://b/"}}),
            (
                {"otlp-http": {"endpoint": "http://a/", "headers": {"x-tenant": "a"}}},
                {"otlp-http": {"endpoint": "http://a/", "headers": {"x-tenant": "b"}}},
            ),
            ({"otlp-http": {"endpoint": "http://a/"}}, "none"),
            ("none", "none"),
        ],
    )
    def test_two_handlers_for_two_collectors_are_not_a_fault(self, first: Any, second: Any) -> None:
        found = configured(
            handlers={
                "codex_otel": {**OURS, "otel": {"exporter": first}},
                "second": {**OURS, "otel": {"exporter": second}},
            },
            loggers={"codex_otel": {**LOGGER, "handlers": ["codex_otel", "second"]}},
        )
        assert len(found.arrivals) == 2
        assert found.faults == []


class Raising(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyError(record.name)


class Renaming(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = f"[agent] {record.msg}"
        return True


def reject(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO


class TestFilters:
    @pytest.mark.parametrize(
        ("filter", "fault"),
        [
            ({"name": "app"}, "the filter Filter('app') of {} rejects events; remove it"),
            ({"()": lambda: reject}, "the filter reject of {} rejects events; remove it"),
            ({"()": Raising}, "the filter Raising of {} raises KeyError; fix it"),
        ],
    )
    def test_filter_that_rejects_events_or_raises_is_a_fault(self, filter: Any, fault: str) -> None:
        filters: Any = {"filters": {"f": {"name": "codex_otel"}, "g": filter}}
        both = {"filters": ["f", "g"]}
        handlers = {"codex_otel": {**OURS, **both}}
        name = "the handler 'codex_otel' (CodexOtelHandler)"
        assert fault_of(configured(handlers=handlers, **filters)) == fault.format(name)
        loggers = {"codex_otel": {**LOGGER, **both}}
        assert fault_of(configured(loggers=loggers, **filters)) == (
            fault.format("the logger 'codex_otel'")
        )
        # A logger's filters do not see the records of the loggers below it.
        assert configured("codex_otel.tools", loggers=loggers, **filters).faults == []

    def test_handler_whose_filter_rejects_events_is_not_an_onlooker(self) -> None:
        found = configured(
            filters={"f": {"name": "app"}},
            handlers={"console": {**CONSOLE, "filters": ["f"]}},
            loggers={"codex_otel": {**LOGGER, "handlers": ["codex_otel", "console"]}},
        )
        assert (found.onlookers, found.faults) == ([], [])

    def test_handler_whose_filter_raises_is_an_onlooker(self) -> None:
        """Django's filters raise outside of the application, where its settings are missing."""
        found = configured(
            filters={"f": {"()": Raising}},
            handlers={"console": {**CONSOLE, "filters": ["f"]}},
            loggers={"codex_otel": {**LOGGER, "handlers": ["codex_otel", "console"]}},
        )
        assert len(found.onlookers) == 1
        assert found.faults == []

    def test_filter_that_changes_the_message_is_a_fault(self) -> None:
        found = configured(
            filters={"f": {"()": Renaming}}, handlers={"codex_otel": {**OURS, "filters": ["f"]}}
        )
        assert fault_of(found) == (
            "a filter changes the message or the logger's name, so the record is not an event; "
            "remove the filter"
        )

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="filters return no records")
    def test_filter_that_returns_another_record_is_a_fault(self) -> None:
        other = logging.makeLogRecord({"name": "codex_otel", "msg": "not an event"})
        found = configured(
            filters={"f": {"()": lambda: lambda _: other}},
            handlers={"codex_otel": {**OURS, "filters": ["f"]}},
        )
        assert fault_of(found).startswith("a filter changes the message or the logger's name")

    def test_filters_receive_a_copy_of_the_record(self) -> None:
        """A filter's changes must not leak into the prediction for the next handler."""
        found = configured(
            filters={"f": {"()": Renaming}},
            handlers={"console": {**CONSOLE, "filters": ["f"]}},
            loggers={"codex_otel": {**LOGGER, "handlers": ["console", "codex_otel"]}},
        )
        assert found.arrivals == [HERE]


def test_all_faults_are_reported_at_once() -> None:
    found = configured(
        handlers={"codex_otel": {**OURS, "level": "ERROR"}},
        loggers={"codex_otel": {**LOGGER, "level": "WARNING"}},
    )
    assert found.faults == [
        "the logger 'codex_otel' has level WARNING; set it to INFO",
        "the handler 'codex_otel' (CodexOtelHandler) has level ERROR; set it to INFO",
    ]


BUFFER = {
    "class": "logging.handlers.MemoryHandler",
    "capacity": 100,
    "target": "codex_otel",
}


def test_handler_behind_a_memory_handler_gets_a_note() -> None:
    found = configured(
        handlers={"buffer": BUFFER}, loggers={"codex_otel": {**LOGGER, "handlers": ["buffer"]}}
    )
    assert found.arrivals == [f"{HERE}, behind the handler 'buffer' (MemoryHandler)"]
    assert (found.onlookers, found.faults) == ([], [])
    (note,) = found.notes
    assert note.startswith("the handler 'buffer' (MemoryHandler) keeps events until it is flushed")


def test_level_of_a_memory_handlers_target_does_not_matter() -> None:
    found = configured(
        handlers={"buffer": BUFFER, "codex_otel": {**OURS, "level": "ERROR"}},
        loggers={"codex_otel": {**LOGGER, "handlers": ["buffer"]}},
    )
    assert found.faults == []


def queued(*handlers: logging.Handler, respect: bool = False) -> logging.handlers.QueueHandler:
    """Attach handlers behind a queue, as `dictConfig` can since Python 3.12."""
    import queue

    found = logging.handlers.QueueHandler(queue.SimpleQueue())
    found.name = "queue"
    listener = logging.handlers.QueueListener(found.queue, *handlers, respect_handler_level=respect)
    found.listener = listener  # type: ignore[attr-defined, unused-ignore]
    logger = logging.getLogger("codex_otel")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(found)
    return found


class TestQueues:
    def test_handler_behind_a_queue_gets_a_note(self) -> None:
        console = logging.StreamHandler()
        queued(CodexOtelHandler(), console)
        found = reach_of(logging.getLogger("codex_otel"))
        behind = "on the logger 'codex_otel', behind the handler 'queue' (QueueHandler)"
        assert found.arrivals == [f"a CodexOtelHandler {behind}"]
        assert found.onlookers == [Onlooker("a StreamHandler", behind, False)]
        assert found.faults == []
        (note,) = found.notes
        assert note.startswith(
            "the handler 'queue' (QueueHandler) queues events until its listener runs"
        )
        assert "events lose their bound conversation there" in note

    def test_queue_with_a_formatter_is_a_fault(self) -> None:
        queued(CodexOtelHandler()).setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        assert fault_of(reach_of(logging.getLogger("codex_otel"))) == (
            "the formatter of the handler 'queue' (QueueHandler) changes the message, which "
            "must be the event's name; remove the formatter"
        )

    def test_queue_whose_formatter_raises_is_a_fault(self) -> None:
        queued(CodexOtelHandler()).setFormatter(logging.Formatter("%(request_id)s"))
        fault = fault_of(reach_of(logging.getLogger("codex_otel")))
        assert fault.startswith("the handler 'queue' (QueueHandler) cannot prepare events: ")

    @pytest.mark.parametrize("respect", [False, True])
    def test_level_behind_a_queue_matters_only_if_the_listener_respects_it(
        self, respect: bool
    ) -> None:
        queued(CodexOtelHandler(level="ERROR"), respect=respect)
        found = reach_of(logging.getLogger("codex_otel"))
        assert found.faults == respect * ["a CodexOtelHandler has level ERROR; set it to INFO"]

    def test_level_of_the_queue_handler_is_a_fault(self) -> None:
        queued(CodexOtelHandler()).setLevel("ERROR")
        assert fault_of(reach_of(logging.getLogger("codex_otel"))) == (
            "the handler 'queue' (QueueHandler) has level ERROR; set it to INFO"
        )

    def test_queue_with_an_unknown_listener_is_a_fault(self) -> None:
        queued().listener = None  # type: ignore[attr-defined, unused-ignore]
        found = reach_of(logging.getLogger("codex_otel"), ["codex_otel"])
        assert found.faults == [
            "the listener of the handler 'queue' (QueueHandler) is not accessible, so its handlers "
            "are unknown; attach this package's handler to the logger 'codex_otel' instead, where "
            "it does not block on the network either"
        ]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="dictConfig knows no queues")
    def test_queue_of_a_dictionary_is_followed(self) -> None:
        queue = {"class": "logging.handlers.QueueHandler", "handlers": ["codex_otel", "console"]}
        found = configured(
            handlers={"queue": queue}, loggers={"codex_otel": {**LOGGER, "handlers": ["queue"]}}
        )
        assert found.arrivals == [f"{HERE}, behind the handler 'queue' (QueueHandler)"]
        assert len(found.onlookers) == 1
        assert found.faults == []


class TestAgainstLogging:
    """The prediction equals what happens when an event is logged."""

    CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
        "fine": {},
        "root level": {"loggers": {"codex_otel": {"handlers": ["codex_otel"]}}},
        "handler level": {"handlers": {"codex_otel": {**OURS, "level": 30}}},
        "root": {"loggers": {}, "root": {"level": "INFO", "handlers": ["codex_otel"]}},
        "twice": {
            "loggers": {"codex_otel": {**LOGGER, "propagate": True}},
            "root": {"handlers": ["codex_otel"]},
        },
        "below": {"loggers": {"codex_otel.tools": LOGGER, "codex_otel": {"level": "INFO"}}},
        "elsewhere": {"loggers": {"codex.agent": LOGGER, "codex_otel": {"level": "INFO"}}},
        "filter": {
            "filters": {"f": {"name": "codex_otel.tools"}},
            "handlers": {"codex_otel": {**OURS, "filters": ["f"]}},
        },
        "memory": {
            "handlers": {"buffer": {**BUFFER, "capacity": 1}},
            "loggers": {"codex_otel": {**LOGGER, "handlers": ["buffer"]}},
        },
    }

    @pytest.mark.parametrize("logger", ["codex_otel", "codex_otel.tools"])
    @pytest.mark.parametrize("disable", [True, False])
    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_predicted_arrivals_equal_those_of_a_logged_event(
        self, monkeypatch: pytest.MonkeyPatch, logger: str, disable: bool, name: str
    ) -> None:
        emitted: list[logging.LogRecord] = []
        monkeypatch.setattr(
            CodexOtelHandler,
            "handle",
            lambda self, record: self.filter(record) and self.emit(record),
        )
        monkeypatch.setattr(CodexOtelHandler, "emit", lambda _, record: emitted.append(record))
        found = configured(logger, disable_existing_loggers=disable, **self.CONFIGURATIONS[name])
        logging.getLogger(logger).info("codex.turn_ttft", extra={"duration_ms": 1})
        assert len(found.arrivals) == len(emitted)
        assert (len(emitted) == 1) == (not found.faults)
