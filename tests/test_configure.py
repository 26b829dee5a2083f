"""Covers `configure` and the package's `flush`, which flushes all handlers."""

from __future__ import annotations

import gc
import logging
import logging.config
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import codex_otel_logging
from codex_otel_logging import ConfigError, OtelConfig, Receiver, configure, from_table
from support.collectors import over_grpc, over_http
from support.events import log, numbers
from support.fixtures import RunPython
from support.parts import worker_of
from support.paths import read_program

LOGGER = logging.getLogger("codex_otel")


@pytest.fixture
def otel(exporter: dict[str, Any]) -> dict[str, Any]:
    return {"exporter": exporter}


def test_configure_exports_events_to_no_other_handler(
    otel: dict[str, Any], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    handler = configure(otel)
    log(first=1)
    assert codex_otel_logging.flush(10) is True
    assert numbers(receiver.wait_for(1)) == [1]
    assert (LOGGER.handlers, LOGGER.level, LOGGER.propagate) == ([handler], logging.INFO, False)
    assert caplog.messages == []


def test_configure_accepts_a_path_a_table_or_a_config(
    tmp_path: Path, otel: dict[str, Any], receiver: Receiver
) -> None:
    ((name, settings),) = otel["exporter"].items()
    file = tmp_path / "otel.toml"
    file.write_text(f'[otel.exporter.{name}]\nendpoint = "{settings["endpoint"]}"\n')
    configs: list[Any] = [str(file), file, otel, OtelConfig.from_table(otel)]
    for number, config in enumerate(configs):
        configure(config, app_version="1.2.3")
        log(first=number)
    assert codex_otel_logging.flush(10)
    assert sorted(numbers(receiver.wait_for(4))) == [0, 1, 2, 3]
    assert {event.attributes["app.version"] for event in receiver.events} == {"1.2.3"}


def test_configure_without_argument_reads_the_codex_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"config\.toml: no such file"):
        configure()
    configure(missing_ok=True)
    (tmp_path / "config.toml").write_text('[otel]\nexporter = "otlp-http"')
    assert "otlp-http" in repr(configure())


def test_second_call_replaces_the_handler(otel: dict[str, Any], receiver: Receiver) -> None:
    first = configure(otel)
    log(first=1)
    second = configure(otel)
    log(first=2)
    assert LOGGER.handlers == [second]
    assert codex_otel_logging.flush(10)
    assert sorted(numbers(receiver.wait_for(2))) == [1, 2]  # each has a worker of its own
    assert (first.stats().exported, second.stats().exported) == (1, 1)
    if (thread := worker_of(first).thread) is not None:  # it may have ended meanwhile
        thread.join(20)
        assert not thread.is_alive()


def test_fault_keeps_the_handler_of_the_earlier_call(otel: dict[str, Any]) -> None:
    handler = configure(otel)
    with pytest.raises(ConfigError):
        configure({"exportr": "none"})
    assert LOGGER.handlers == [handler]


def test_configure_keeps_the_applications_handlers(otel: dict[str, Any]) -> None:
    own = logging.NullHandler()
    LOGGER.addHandler(own)
    configure(otel)
    handler = configure(otel)
    assert LOGGER.handlers == [own, handler]


def dict_config(otel: dict[str, Any] | None = None) -> dict[str, Any]:
    handlers = {} if otel is None else {"codex_otel": from_table_entry(otel)}
    loggers = {name: {"level": "INFO", "handlers": [name], "propagate": False} for name in handlers}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": handlers,
        "loggers": loggers,
    }


def from_table_entry(otel: dict[str, Any]) -> dict[str, Any]:
    return {"()": "codex_otel_logging.from_table", "otel": otel}


def test_configure_works_after_dictconfig(otel: dict[str, Any], receiver: Receiver) -> None:
    logging.config.dictConfig(dict_config())
    configure(otel)
    log(first=1)
    assert codex_otel_logging.flush(10)
    assert numbers(receiver.wait_for(1)) == [1]


def test_configure_works_before_dictconfig(otel: dict[str, Any], receiver: Receiver) -> None:
    configure(otel)
    logging.config.dictConfig(dict_config())
    log(first=1)
    assert codex_otel_logging.flush(10)
    assert numbers(receiver.wait_for(1)) == [1]


def test_dictconfig_with_a_handler_replaces_the_configured_one(
    otel: dict[str, Any], receiver: Receiver
) -> None:
    configure(otel)
    logging.config.dictConfig(dict_config(otel))
    log(first=1)
    assert codex_otel_logging.flush(10)
    assert numbers(receiver.wait_for(1)) == [1]


def test_configure_after_dictconfig_with_a_handler_reports_the_double_export(
    otel: dict[str, Any], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    logging.config.dictConfig(dict_config(otel))
    configure(otel)
    log(first=1)
    assert codex_otel_logging.flush(10)
    assert numbers(receiver.wait_for(2)) == [1, 1]
    (message,) = caplog.messages
    assert message == (
        "events of logger 'codex_otel' are exported 2 times, through handlers on 'codex_otel' and "
        "'codex_otel'; attach one handler to 'codex_otel' only"
    )


def test_concurrent_calls_attach_one_handler(
    otel: dict[str, Any], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock, both threads would attach a handler that neither of them replaces."""
    both, add = threading.Barrier(2), LOGGER.addHandler

    def add_late(handler: logging.Handler) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        add(handler)

    monkeypatch.setattr(LOGGER, "addHandler", add_late)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(configure, [otel] * 2))) == 2
    assert len(LOGGER.handlers) == 1
    log(first=1)
    assert codex_otel_logging.flush(10)
    assert numbers(receiver.wait_for(1)) == [1]


def test_flush_waits_for_every_handler(receiver: Receiver) -> None:
    handlers = [
        from_table({"exporter": over_http(receiver)}),
        from_table({"exporter": over_grpc(receiver)}),
    ]
    LOGGER.setLevel(logging.INFO)
    for handler in handlers:
        LOGGER.addHandler(handler)
    log(first=1)
    assert codex_otel_logging.flush() is True
    assert len(receiver.events) == 2
    assert [handler.stats().queued for handler in handlers] == [0, 0]


def test_flush_without_collector_is_bounded_and_returns_false(absent: str) -> None:
    configure({"exporter": {"otlp-http": {"endpoint": f"http://{absent}/v1/logs"}}})
    log(first=1)
    assert codex_otel_logging.flush(0.2) is False


def test_flush_without_handlers_returns_true(run_python: RunPython) -> None:
    done = run_python("import codex_otel_logging; print(codex_otel_logging.flush(5))")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_removed_handler_is_garbage_collected(otel: dict[str, Any]) -> None:
    """`configure` holds a weak reference only."""
    handler = configure(otel)
    LOGGER.removeHandler(handler)
    handler.close()
    names = [id(handler)]
    del handler
    gc.collect()
    assert names[0] not in [id(each) for each in gc.get_objects()]


SCRIPT = """
import logging, sys
import codex_otel_logging
from codex_otel_logging import Conversation
codex_otel_logging.configure(sys.argv[1])
with Conversation(id="conversation-1", model="gpt-5-codex").bind():
    logging.getLogger("codex_otel").info("codex.turn_ttft", extra={"duration_ms": 352})
"""


@pytest.fixture
def file(tmp_path: Path, otel: dict[str, Any]) -> str:
    ((name, settings),) = otel["exporter"].items()
    file = tmp_path / "otel.toml"
    file.write_text(f'[otel.exporter.{name}]\nendpoint = "{settings["endpoint"]}"\n')
    return str(file)


def test_script_exports_its_events_at_exit(
    run_python: RunPython, file: str, receiver: Receiver
) -> None:
    done = run_python(SCRIPT, file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (event,) = receiver.events
    assert event.attributes["conversation.id"] == "conversation-1"


IPYTHON = read_program("in_ipython")


def test_configure_in_ipython_shows_the_handler_and_attaches_it_once(
    run_python: RunPython, file: str, receiver: Receiver
) -> None:
    """A cell that ends with the call prints the handler's repr; running it twice attaches one."""
    pytest.importorskip("IPython")
    done = run_python(IPYTHON, file, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    assert "<CodexOtelHandler otlp-" in done.stdout
    assert done.stdout.endswith("True\n")
    assert len(receiver.events) == 1
