"""Handlers that share the directory of a spool, and handlers that replace each other."""

from __future__ import annotations

import logging
import logging.config
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import codex_otel_logging
from codex_otel_logging import Receiver, configure
from codex_otel_logging.delivery import lifecycle
from support.collectors import Gate, HttpCollector, Reply, over_http
from support.events import LOGGER, log, numbers
from support.fixtures import HandlerFactory

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")

REFUSED = Reply(status=401, message="no token")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(directory: Path) -> dict[str, Any]:
    return {"path": str(directory)}


@pytest.fixture
def gate(receiver: Receiver) -> Iterator[Gate]:
    gate = Gate(receiver.http_endpoint)
    yield gate
    gate.close()


def dict_config(gate: Gate, spool: dict[str, Any]) -> dict[str, Any]:
    otel = {"exporter": {"otlp-http": {"endpoint": gate.endpoint}}, "spool": spool}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"events": {"()": "codex_otel_logging.from_table", "otel": otel}},
        "loggers": {"codex_otel": {"level": "INFO", "handlers": ["events"], "propagate": False}},
    }


def descriptors_in(directory: Path) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:  # that of this loop
            continue
        if target.startswith(str(directory)):
            found.append(target)
    return found


def wait_for_threads(count: int) -> None:
    """Wait until at most `count` workers have a thread."""
    until = time.monotonic() + 20
    while sum(worker.thread is not None for worker in lifecycle.watched()) > count:
        assert time.monotonic() < until, "a worker does not end"
        time.sleep(0.01)


def empty_segments(directory: Path) -> list[Path]:
    return [
        path for path in directory.iterdir() if b'"' not in path.read_bytes().split(b"\n", 2)[2]
    ]


def test_two_handlers_with_one_destination_export_each_event_once(
    attach: HandlerFactory, receiver: Receiver, spool: dict[str, Any], directory: Path
) -> None:
    first, second = [attach({"exporter": over_http(receiver), "spool": spool}) for _ in range(2)]
    log(50)
    assert first.flush(10)
    assert second.flush(10)
    assert sorted(numbers(receiver.wait_for(100))) == sorted([*range(50)] * 2)
    for handler in (first, second):
        stats = handler.stats()
        assert (stats.exported, stats.recovered, stats.spooled) == (50, 0, 0)
    assert not list(directory.iterdir())


def test_handler_exports_what_a_closed_one_with_the_same_destination_has_left(
    attach: HandlerFactory, receiver: Receiver, gate: Gate, spool: dict[str, Any], directory: Path
) -> None:
    gate.refuse()
    otel = {"exporter": {"otlp-http": {"endpoint": gate.endpoint}}, "spool": spool}
    first = attach(otel)
    log(20)
    LOGGER.removeHandler(first)
    first.close()
    wait_for_threads(0)
    second = attach(otel)
    gate.open()
    log(5, first=20)
    assert second.flush(10)
    assert sorted(numbers(receiver.wait_for(25))) == [*range(25)]
    until = time.monotonic() + 10
    while second.stats().recovered < 20:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert first.stats().queued == 20
    assert first.flush(0)  # nothing is left
    assert second.stats().exported == 5
    assert not list(directory.iterdir())


def test_handler_leaves_alone_what_is_for_another_destination(
    attach: HandlerFactory, gate: Gate, spool: dict[str, Any], directory: Path
) -> None:
    gate.refuse()
    with Receiver() as other:
        first = attach({"exporter": {"otlp-http": {"endpoint": gate.endpoint}}, "spool": spool})
        log(20)
        LOGGER.removeHandler(first)
        first.close()
        wait_for_threads(0)
        second = attach({"exporter": over_http(other), "spool": spool})
        log(5, first=20)
        assert second.flush(10)
        log(1, first=25)
        assert second.flush(10)
        assert numbers(other.wait_for(6)) == [*range(20, 26)]
        stats = second.stats()
        assert (stats.exported, stats.recovered, stats.discarded) == (6, 0, 0)
        assert len([*directory.iterdir()]) == 1


def test_two_handlers_with_different_destinations_do_not_mix_events(
    attach: HandlerFactory, receiver: Receiver, gate: Gate, spool: dict[str, Any], directory: Path
) -> None:
    with Receiver() as other:
        gate.refuse()
        first, second = [
            attach({"exporter": {"otlp-http": {"endpoint": endpoint}}, "spool": spool})
            for endpoint in (gate.endpoint, other.http_endpoint)
        ]
        log(30)
        assert numbers(other.wait_for(30)) == [*range(30)]
        assert not receiver.events
        gate.open()
        assert first.flush(10)
        assert second.flush(10)
        assert numbers(receiver.wait_for(30)) == [*range(30)]
        assert len(other.events) == 30
        assert not list(directory.iterdir())


@needs_proc
@pytest.mark.parametrize("events", [0, 3])
def test_twenty_reconfigurations_during_an_outage_leave_nothing_behind(
    events: int, receiver: Receiver, gate: Gate, spool: dict[str, Any], directory: Path
) -> None:
    gate.refuse()
    for number in range(20):
        logging.config.dictConfig(dict_config(gate, spool))
        log(events, first=number * events)
    logging.config.dictConfig(dict_config(gate, spool))
    wait_for_threads(0)
    assert descriptors_in(directory) == []
    if events:
        assert len([*directory.iterdir()]) == 20
        assert empty_segments(directory) == []
    else:
        assert not directory.exists()
    gate.open()
    log(1, first=20 * events)
    codex_otel_logging.flush(10)
    count = 20 * events + 1
    assert sorted(numbers(receiver.wait_for(count))) == [*range(count)]
    until = time.monotonic() + 10
    while list(directory.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(receiver.events) == count


@needs_proc
def test_twenty_reconfigurations_with_an_expired_token_leave_nothing_behind(
    spool: dict[str, Any], directory: Path, http_collector: Any
) -> None:
    collector: HttpCollector = http_collector(REFUSED)
    for number in range(20):
        logging.config.dictConfig(dict_config(collector, spool))  # type: ignore[arg-type]
        log(3, first=number * 3)
    logging.config.dictConfig(dict_config(collector, spool))  # type: ignore[arg-type]
    wait_for_threads(0)
    assert descriptors_in(directory) == []
    assert len([*directory.iterdir()]) == 20
    assert empty_segments(directory) == []


def test_reconfiguration_while_the_collector_works_leaves_no_file(
    receiver: Receiver, gate: Gate, spool: dict[str, Any], directory: Path
) -> None:
    for number in range(20):
        logging.config.dictConfig(dict_config(gate, spool))
        log(3, first=number * 3)
    logging.config.dictConfig(dict_config(gate, spool))
    wait_for_threads(0)
    assert sorted(numbers(receiver.wait_for(60))) == [*range(60)]
    assert not list(directory.iterdir())


def test_configure_called_again_exports_each_event_once(
    receiver: Receiver, gate: Gate, spool: dict[str, Any], directory: Path
) -> None:
    otel = {"exporter": {"otlp-http": {"endpoint": gate.endpoint}}, "spool": spool}
    gate.refuse()
    for number in range(5):
        configure(otel)
        log(4, first=number * 4)
    configure(otel)
    wait_for_threads(0)  # what they leave later is found by the next scan, a minute away
    gate.open()
    log(1, first=20)
    codex_otel_logging.flush(10)
    assert sorted(numbers(receiver.wait_for(21))) == [*range(21)]
    until = time.monotonic() + 10
    while list(directory.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(receiver.events) == 21
