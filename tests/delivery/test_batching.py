"""Batching, retries, splitting, accounting and reports, against scripted collectors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codex_otel_logging import CodexOtelHandler, Receiver, Stats
from codex_otel_logging.delivery.flushing import flush_at_exit
from codex_otel_logging.delivery.outages import DIAGNOSE
from codex_otel_logging.delivery.sender import Sender
from codex_otel_logging.delivery.worker import Worker
from support.collectors import (
    BAD_REQUEST,
    BUSY,
    BUSY_NO_MORE,
    FORBIDDEN,
    HANG_UP,
    NOT_FOUND,
    OK,
    PARTIAL,
    REDIRECT,
    TOO_LARGE,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Gate,
    GrpcCollector,
    HttpCollector,
    Reply,
)
from support.events import log
from support.fixtures import HandlerFactory, RunPython, Scripted
from support.parts import wait_until_backing_off, worker_of
from support.paths import read_program

LOGGER = logging.getLogger("codex_otel")
REPORTS = "codex_otel_logging"

Collector = HttpCollector | GrpcCollector
Attach = Callable[..., CodexOtelHandler]


@pytest.fixture
def attach_to(attach: HandlerFactory) -> Attach:
    """Attaches a handler for a collector; it exports only when flushed, unless told otherwise."""

    def attach_to(collector: Collector, **batch: Any) -> CodexOtelHandler:
        batch = {"schedule_delay_ms": 600_000, **batch}
        otel = {"exporter": collector.exporter, "max_attribute_length": 0, "batch": batch}
        return attach(otel)

    return attach_to


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns the reports, without the destination and the command that diagnoses.

    The command ends every report except those about the end of an outage or of an overflow.
    """

    def reports() -> list[str]:
        messages = [r.getMessage() for r in caplog.records if r.name == REPORTS]
        over = ("export recovered", "queue has room again")
        for message in messages:
            assert message.endswith(f"; {DIAGNOSE}") != any(each in message for each in over)
        return [message.partition(": ")[2].removesuffix(f"; {DIAGNOSE}") for message in messages]

    return reports


def numbers(collector: Collector) -> list[Any]:
    return [event.attributes["duration_ms"] for event in collector.events]


def test_outage_delays_events_and_is_reported_in_two_lines(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    collector = scripted(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, OK)
    handler = attach_to(collector)
    log(3)
    assert handler.flush()
    log(2)
    assert handler.flush()
    assert numbers(collector) == [0, 1, 2, 0, 1]
    assert handler.stats() == Stats(accepted=5, exported=5)
    began, ended = reports()
    assert began == (
        f"export failing ({collector.reason(UNAVAILABLE)}); events stay queued and are retried"
    )
    assert ended.startswith("export recovered after ")
    assert ended.endswith(" s; 0 events dropped or rejected meanwhile")


OUTAGE = read_program("outage")


@pytest.mark.parametrize("name", ["otlp-http", "otlp-grpc"])
def test_outage_shows_no_messages_of_the_official_exporters(
    run_python: RunPython, absent: str, name: str
) -> None:
    """Neither about failures, nor about an invalid variable, which they log with its value."""
    endpoint = f"http://{absent}/v1/logs" if name == "otlp-http" else f"http://{absent}"
    variables = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer s3cr3t"}
    done = run_python(OUTAGE, name, endpoint, **variables)
    assert done.stdout == "True 1\n"
    own = f"codex_otel_logging: {name} {endpoint}: "
    assert [line.startswith(own) for line in done.stderr.splitlines()] == [True, True]


def test_failed_tls_handshake_shows_no_messages_of_grpc_core(run_python: RunPython) -> None:
    with Receiver() as receiver:
        endpoint = receiver.grpc_endpoint.replace("http:", "https:")
        done = run_python(OUTAGE, "otlp-grpc", endpoint)
    own = f"codex_otel_logging: otlp-grpc {endpoint}: "
    assert [line.startswith(own) for line in done.stderr.splitlines()] == [True, True]


def test_grpc_export_survives_exhausted_file_descriptors(run_python: RunPython) -> None:
    """Otherwise gRPC's core aborts the process. The events wait until files are closed again."""
    program = read_program("too_many_open_files")
    with Receiver() as receiver:
        done = run_python(program, receiver.grpc_endpoint)
    assert done.stdout == "True False True 2\n"


def test_intermittent_rejections_are_reported_once(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    collector = scripted(BAD_REQUEST, OK, BAD_REQUEST, OK, BAD_REQUEST)
    handler = attach_to(collector, max_batch_size=1)
    log(5)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=5, exported=2, rejected=3)
    assert len(reports()) == 1


def test_ctrl_c_while_the_worker_starts_does_not_stop_exports(
    scripted: Scripted, attach_to: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = scripted(OK)
    handler = attach_to(collector, schedule_delay_ms=0)

    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log(1)
    log(1)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=2, exported=2)


def test_ctrl_c_while_the_worker_is_woken_does_not_stop_exports(
    scripted: Scripted, attach_to: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = scripted(OK)
    handler = attach_to(collector, schedule_delay_ms=0)
    log(1)
    assert handler.flush()

    def interrupted(worker: Worker) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_wake", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log(1)
    log(1)
    assert collector.wait_for(3)


def test_intermittent_outages_are_reported_once(
    scripted: Scripted,
    attach_to: Attach,
    reports: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("codex_otel_logging.delivery.sender.BACKOFF_S", (0.001,))
    collector = scripted(*(UNAVAILABLE, UNAVAILABLE, OK) * 10, OK)
    handler = attach_to(collector)
    for _ in range(10):
        log(1)
        assert handler.flush()
    assert len(collector.requests) == 30
    assert len(reports()) == 2


def test_single_failed_attempt_is_not_reported(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    """The collector may have closed an idle connection; that is no outage."""
    collector = scripted(OK, None, OK)
    handler = attach_to(collector)
    for _ in range(3):
        log(1)
        assert handler.flush()
    assert handler.stats() == Stats(accepted=3, exported=3)
    assert reports() == []


@pytest.mark.parametrize(
    "refusal",
    [UNAUTHENTICATED, FORBIDDEN, BAD_REQUEST, NOT_FOUND, REDIRECT],
    ids=lambda refusal: str(refusal.status),
)
def test_rejected_batches_are_counted_and_reported_once(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]], refusal: Reply
) -> None:
    collector = scripted(refusal)
    handler = attach_to(collector, max_batch_size=2)
    log(4)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=4, rejected=4)
    assert len(collector.requests) == (6 if refusal is BAD_REQUEST else 2)
    (report,) = reports()
    if refusal is REDIRECT and isinstance(collector, HttpCollector):
        assert "redirects are not followed; set endpoint to the redirect's target" in report
        return
    count = "1 event" if refusal is BAD_REQUEST else "2 events"
    assert report == (
        f"{count} rejected ({collector.reason(refusal)}); further ones are only counted"
    )


def test_partial_success_counts_and_reports_rejected_events(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    handler = attach_to(scripted(PARTIAL, OK))
    log(3)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=3, exported=2, rejected=1)
    assert reports() == ["collector rejected 1 event (too old)"]


def test_warning_of_a_collector_that_accepts_all_events_is_reported(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    """OTLP, "Partial Success": with `rejected_log_records` 0, the message is only a warning."""
    handler = attach_to(scripted(Reply(message="deprecated"), OK))
    log(3)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=3, exported=3)
    assert reports() == ["collector accepted the events, but warns (deprecated)"]


def test_too_large_batch_is_halved_until_it_fits(scripted: Scripted, attach_to: Attach) -> None:
    collector = scripted(TOO_LARGE, TOO_LARGE, OK)
    handler = attach_to(collector)
    log(8)
    assert handler.flush()
    assert numbers(collector) == list(range(8))
    assert handler.stats() == Stats(accepted=8, exported=8)


def test_too_large_event_is_rejected_alone(scripted: Scripted, attach_to: Attach) -> None:
    collector = scripted(TOO_LARGE, TOO_LARGE, TOO_LARGE, OK)
    handler = attach_to(collector)
    log(4)
    assert handler.flush()
    assert numbers(collector) == [1, 2, 3]
    assert handler.stats() == Stats(accepted=4, exported=3, rejected=1)


def test_only_a_single_event_may_exceed_max_request_bytes(
    scripted: Scripted, attach_to: Attach
) -> None:
    collector = scripted(OK)
    handler = attach_to(collector, max_request_bytes=10_000)
    log(10, text="é" * 3000)
    log(1, text="x" * 20_000)
    log(1)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=12, exported=12)
    assert len(collector.sizes) > 2
    assert [size for size in collector.sizes if size > 10_000] == [max(collector.sizes)]


def test_worker_polls_after_a_batch_without_being_woken(
    scripted: Scripted, attach_to: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the worker polls, `put` does not wake it."""
    collector = scripted(OK)
    monkeypatch.setattr("codex_otel_logging.delivery.worker.IDLE_POLLS", 1_000_000)
    handler = attach_to(collector, schedule_delay_ms=20)
    log(1)
    assert collector.wait_for(1)
    assert handler.flush()
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_wake", None)
        log(1)
    assert collector.wait_for(2)


def test_worker_that_no_longer_polls_is_woken_by_each_event(
    scripted: Scripted, attach_to: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = scripted(OK)
    monkeypatch.setattr("codex_otel_logging.delivery.worker.IDLE_POLLS", 0)
    attach_to(collector, schedule_delay_ms=20)
    for count in (1, 2, 3):
        log(1)
        assert collector.wait_for(count)


@pytest.mark.parametrize("hours", [-1, 1])
def test_changed_system_clock_does_not_delay_a_batch(
    scripted: Scripted, attach_to: Attach, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    collector = scripted(OK)
    attach_to(collector, schedule_delay_ms=200)
    clock, shift = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: clock() + shift)
    log(1)
    assert collector.wait_for(1)
    log(1)
    shift = hours * 3_600_000_000_000
    assert collector.wait_for(2)


def test_full_queue_drops_and_counts_the_newest_events(
    scripted: Scripted, attach_to: Attach
) -> None:
    collector = scripted(OK)
    handler = attach_to(collector, max_queue_size=4, max_batch_size=4)
    worker = worker_of(handler)
    worker.start = lambda: False  # type: ignore[method-assign]
    log(6)
    assert handler.stats() == Stats(accepted=6, dropped=2, queued=4)
    del worker.start
    assert handler.flush()
    assert handler.stats() == Stats(accepted=6, exported=4, dropped=2)
    assert numbers(collector) == [0, 1, 2, 3]


def test_max_queue_bytes_limits_the_queue(scripted: Scripted, attach_to: Attach) -> None:
    collector = scripted(OK)
    handler = attach_to(collector, max_queue_bytes=10_000)
    worker = worker_of(handler)
    worker.start = lambda: False  # type: ignore[method-assign]
    log(5, text="x" * 4000)
    assert handler.stats() == Stats(accepted=5, dropped=3, queued=2)
    del worker.start
    assert handler.flush()
    log(1, text="x" * 4000)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=6, exported=3, dropped=3)


def test_events_are_dropped_and_reported_after_retry_for_ms(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    collector = scripted(UNAVAILABLE)
    handler = attach_to(collector, retry_for_ms=0)
    log(2)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=2, dropped=2)
    assert reports() == [
        f"2 events dropped (retry_for_ms exceeded: {collector.reason(UNAVAILABLE)}); "
        "further ones are only counted"
    ]


def test_last_attempt_is_made_at_retry_for_ms(
    scripted: Scripted, attach_to: Attach, reports: Callable[[], list[str]]
) -> None:
    """Even if Retry-After is longer. If the last attempt fails, the events are dropped."""
    busy = replace(BUSY, retry_after_s=3600)
    collector = scripted(busy)
    handler = attach_to(collector, retry_for_ms=200)
    log(2)
    assert handler.flush(20)
    assert len(collector.requests) == 2
    assert handler.stats() == Stats(accepted=2, dropped=2)
    assert f"2 events dropped (retry_for_ms exceeded: {collector.reason(busy)})" in reports()[-1]


def test_flush_does_not_shorten_retry_after(scripted: Scripted, attach_to: Attach) -> None:
    """A flush shortens only the backoff that this package chose."""
    collector = scripted(replace(BUSY, retry_after_s=3), OK)
    handler = attach_to(collector)
    log(2)
    assert handler.flush(0.1) is False
    wait_until_backing_off(handler)
    for _ in range(3):
        assert handler.flush(0.1) is False
    assert len(collector.requests) == 1
    assert handler.flush(20)
    assert len(collector.requests) == 2
    assert handler.stats() == Stats(accepted=2, exported=2)


def test_event_that_cannot_be_encoded_is_dropped_alone(
    scripted: Scripted, attach_to: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other events of the batch are exported, whatever the encoding error is."""
    from codex_otel_logging.events.event import Event

    time_ns: Any = vars(Event)["time_ns"]

    def poisoned(event: Event) -> Any:
        if event.fields["duration_ms"] == 2:
            raise RuntimeError("poison")
        return time_ns.__get__(event)

    monkeypatch.setattr(Event, "time_ns", property(poisoned))
    collector = scripted(OK)
    handler = attach_to(collector)
    log(5)
    assert handler.flush()
    assert numbers(collector) == [0, 1, 3, 4]
    assert handler.stats() == Stats(accepted=5, exported=4, dropped=1)


def test_unexpected_error_drops_the_batch_and_the_worker_continues(
    scripted: Scripted,
    attach_to: Attach,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = scripted(OK)
    handler = attach_to(collector)
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_export", lambda *_: 1 / 0)
        log(2)
        assert handler.flush()
    log(1)
    assert handler.flush()
    assert handler.stats() == Stats(accepted=3, exported=1, dropped=2)
    (lost,) = caplog.messages
    assert "2 events dropped (unexpected ZeroDivisionError)" in lost
    assert lost.endswith(DIAGNOSE)


def test_undelivered_events_are_reported_again_after_exports_in_between(
    attach: HandlerFactory, gated: dict[str, Any], gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A process may survive the SIGTERM that flushed its events, and end much later."""
    batch = {"schedule_delay_ms": 600_000, "shutdown_timeout_ms": 100}
    handler = attach({"exporter": gated, "batch": batch})
    for _ in range(2):
        gate.refuse()
        log(1)
        for _ in range(2):
            flush_at_exit([worker_of(handler)], for_good=False)
        gate.open()
        assert handler.flush(10)
    left = [message for message in caplog.messages if "not exported at exit" in message]
    assert len(left) == 2


def test_flush_accepts_an_infinite_timeout(attach: HandlerFactory, receiver: Receiver) -> None:
    handler = attach({"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}})
    log(1)
    assert handler.flush(float("inf"))


REPLIES: dict[str, Reply | None] = {
    "accepted": OK,
    "partly accepted": PARTIAL,
    "unavailable": UNAVAILABLE,
    "busy": BUSY_NO_MORE,
    "refused": UNAUTHENTICATED,
    "too large": TOO_LARGE,
    "hangs up": HANG_UP,
}


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    replies=st.lists(st.sampled_from(sorted(REPLIES)), max_size=12),
    bursts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_stats_match_what_the_collector_received(
    scripted: Scripted,
    attach_to: Attach,
    monkeypatch: pytest.MonkeyPatch,
    replies: list[str],
    bursts: list[int],
) -> None:
    """For any sequence of replies."""
    monkeypatch.setattr("codex_otel_logging.delivery.sender.BACKOFF_S", (0.001,))
    collector = scripted(*(REPLIES[reply] for reply in replies), OK)
    handler = attach_to(collector, max_batch_size=4)
    for number, burst in enumerate(bursts, start=1):
        log(burst)
        assert handler.stats().accepted == sum(bursts[:number])
    assert handler.flush(30)
    LOGGER.removeHandler(handler)
    handler.close()
    stats = handler.stats()
    assert stats.accepted == sum(bursts) == stats.exported + stats.rejected
    assert (stats.dropped, stats.queued) == (0, 0)
    partly = replies[: len(collector.requests)].count("partly accepted")
    assert stats.exported == len(collector.events) - partly
