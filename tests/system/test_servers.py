"""Web servers and Celery workers deliver events logged just before they stop, each once."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from support.collectors import over_http
from support.paths import PROGRAMS
from support.recipes import (
    ENQUEUE_TURNS,
    GUNICORN,
    LISTENING,
    TURNS,
    UVICORN,
    append,
    check,
    lay_out,
    lay_out_applications,
    start,
    turns,
)
from support.servers import Program, Prompts, touching

pytestmark = pytest.mark.processes

TERM, INT = signal.SIGTERM, signal.SIGINT

UVICORN_WORKER = (
    "uvicorn_worker.UvicornWorker"
    if importlib.util.find_spec("uvicorn_worker")
    else "uvicorn.workers.UvicornWorker"
)

RUNSERVER = ("django", "runserver", "127.0.0.1:0")

REQUESTS_SAY_THAT_THEY_BEGIN = """
@app.middleware("http")
async def say_that_it_begins(request, call_next):
    print("request begins", flush=True)
    return await call_next(request)
"""


@pytest.mark.parametrize(
    ("workers", "stop", "status", "exporter"),
    [
        (1, TERM, -TERM, "otlp-http"),
        (1, INT, 0, "otlp-grpc"),
        (2, TERM, 0, "otlp-grpc"),
        (2, INT, 0, "otlp-http"),
    ],
    indirect=["exporter"],
)
def test_uvicorn_delivers_at_sigterm_and_sigint(
    tmp_path: Path,
    receiver: Receiver,
    exporter: dict[str, Any],
    workers: int,
    stop: signal.Signals,
    status: int,
) -> None:
    pytest.importorskip("fastapi")
    lay_out_applications(tmp_path, exporter)
    server = (*UVICORN, f"--workers={workers}")
    application = "service:app"
    check(
        receiver, tmp_path, *server,
        application=application, processes=workers, stop=stop, status=status,
    )  # fmt: skip


def test_uvicorn_delivers_what_a_request_logs_after_the_signal(
    tmp_path: Path, receiver: Receiver
) -> None:
    """The lifespan shuts down after the last request has been answered."""
    pytest.importorskip("fastapi")
    lay_out_applications(tmp_path, over_http(receiver))
    append(tmp_path / "service.py", REQUESTS_SAY_THAT_THEY_BEGIN)
    with start(tmp_path, *UVICORN, "service:app") as server:
        connection = HTTPConnection("127.0.0.1", int(server.read_until(LISTENING)[1]), timeout=20)
        connection.putrequest("POST", "/conversations/7/prompts")
        connection.putheader("Content-Length", "7")
        connection.endheaders(b"Rename")
        server.read_until("request begins")
        server.signal(TERM)
        server.read_until("Waiting for connections to close")
        connection.send(b"!")
        assert connection.getresponse().status == 204
        connection.close()
        server.wait(-TERM)
    (event,) = receiver.events
    assert event.attributes["conversation.id"] == "7"
    assert event.attributes["prompt_length"] == 7


def test_uvicorn_delivers_before_and_after_a_reload(tmp_path: Path, receiver: Receiver) -> None:
    """Both the replaced process and its successor deliver."""
    pytest.importorskip("fastapi")
    lay_out_applications(tmp_path, over_http(receiver))
    prompts = Prompts()
    with start(tmp_path, *UVICORN, "--reload", "service:app") as server:
        port = int(server.read_until(LISTENING)[1])
        prompts.post(port)
        assert receiver.events == []
        with touching(tmp_path / "service.py"):
            server.read_until("Reloading")
        server.read_until("Application startup complete", 2)
        prompts.assert_arrived(receiver.events)
        prompts.post(port)
        server.signal(INT)
        server.wait()
    prompts.assert_arrived(receiver.events)


@pytest.mark.parametrize("preload", [False, True])
def test_gunicorn_with_uvicorn_worker_delivers(
    tmp_path: Path, receiver: Receiver, preload: bool
) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    lay_out_applications(tmp_path, over_http(receiver), preload=preload)
    server = (*GUNICORN, f"--worker-class={UVICORN_WORKER}")
    check(receiver, tmp_path, *server, application="service:app", processes=2)


def test_gunicorn_asgi_worker_delivers_without_the_lifespan(
    tmp_path: Path, receiver: Receiver
) -> None:
    pytest.importorskip("fastapi")
    lay_out_applications(tmp_path, over_http(receiver), lifespan=False)
    server = (*GUNICORN, "--worker-class=asgi")
    check(receiver, tmp_path, *server, application="service:app", processes=2)


@pytest.mark.parametrize(
    ("server", "processes", "status"),
    [
        (UVICORN, 1, -TERM),
        ((*UVICORN, "--workers=2"), 2, 0),
        ((*GUNICORN, f"--worker-class={UVICORN_WORKER}"), 2, 0),
    ],
    ids=["uvicorn", "uvicorn with two workers", "gunicorn with uvicorn's worker"],
)
def test_uvicorn_delivers_nothing_without_the_lifespan(
    tmp_path: Path, receiver: Receiver, server: tuple[str, ...], processes: int, status: int
) -> None:
    """The recipes document this. If it fails, the lifespan is no longer needed."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    lay_out_applications(tmp_path, over_http(receiver), lifespan=False)
    check(
        receiver, tmp_path, *server,
        application="service:app", processes=processes, status=status, delivers=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("worker", "preload", "stop", "exporter"),
    [
        ("sync", False, INT, "otlp-http"),
        ("sync", True, TERM, "otlp-grpc"),
        ("gthread", False, TERM, "otlp-grpc"),
        ("gthread", True, TERM, "otlp-http"),
    ],
    indirect=["exporter"],
)
def test_flask_under_gunicorn_delivers(
    tmp_path: Path,
    receiver: Receiver,
    exporter: dict[str, Any],
    worker: str,
    preload: bool,
    stop: signal.Signals,
) -> None:
    """With `preload_app`, events logged before the fork are delivered once, by the parent process.

    SIGINT is not tested with gthread: gunicorn 27 shuts its thread pool down in the signal handler,
    and deadlocks if the signal interrupted the pool while it held its lock.
    """
    pytest.importorskip("flask")
    lay_out_applications(tmp_path, exporter, preload=preload)
    loaded = 'extra={"duration_ms": 1, "conversation.id": "load"}'
    append(tmp_path / "app.py", f'logger.info("codex.turn_ttft", {loaded})\n')
    server = (*GUNICORN, f"--worker-class={worker}")
    check(receiver, tmp_path, *server, application="app:app", processes=2, stop=stop)
    loads = [e for e in receiver.events if e.name == "codex.turn_ttft"]
    assert len(loads) == (1 if preload else 2)


HANG_AFTER_LOGGING = """
@app.get("/hang")
def hang():
    import threading
    import codex_otel_logging

    logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "flushed"})
    assert codex_otel_logging.flush()
    logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "aborted"})
    threading.Event().wait()
"""


def test_worker_aborted_by_gunicorn_delivers(tmp_path: Path, receiver: Receiver) -> None:
    """The worker has one second, enough for a handler that is already connected.

    The timeout is longer: it also bounds the start of the worker.
    """
    pytest.importorskip("flask")
    lay_out_applications(tmp_path, over_http(receiver))
    append(tmp_path / "app.py", HANG_AFTER_LOGGING)
    with start(tmp_path, *GUNICORN, "--workers=1", "--timeout=5", "app:app") as server:
        port = int(server.read_until(LISTENING)[1])
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/hang")
        assert connection.getresponse().status == 500
        connection.close()
        server.read_until("WORKER TIMEOUT")
        events = receiver.wait_for(2, timeout=10)
    assert [e.attributes["conversation.id"] for e in events] == ["flushed", "aborted"]


@pytest.mark.parametrize(
    ("server", "application", "processes", "stop", "status"),
    [
        ((*RUNSERVER, "--noreload"), "", 1, INT, 0),
        (GUNICORN, "wsgi:application", 2, TERM, 0),
        (UVICORN, "asgi:application", 1, TERM, -TERM),
        ((*UVICORN, "--workers=2"), "asgi:application", 2, TERM, 0),
        ((*GUNICORN, f"--worker-class={UVICORN_WORKER}"), "asgi:application", 2, TERM, 0),
    ],
    ids=["runserver", "gunicorn", "uvicorn", "uvicorn with two workers", "gunicorn with uvicorn's"],
)
def test_django_delivers_under_every_server(
    tmp_path: Path,
    receiver: Receiver,
    server: tuple[str, ...],
    application: str,
    processes: int,
    stop: signal.Signals,
    status: int,
) -> None:
    pytest.importorskip("django")
    pytest.importorskip("uvicorn")
    lay_out_applications(tmp_path, over_http(receiver))
    check(
        receiver, tmp_path, *server,
        application=application, processes=processes, stop=stop, status=status,
    )  # fmt: skip


def test_django_runserver_delivers_before_it_reloads(tmp_path: Path, receiver: Receiver) -> None:
    lay_out_applications(tmp_path, over_http(receiver))
    prompts = Prompts()
    with start(tmp_path, *RUNSERVER) as server:
        prompts.post(int(server.read_until(LISTENING)[1]), 10)
        assert receiver.events == []
        with touching(tmp_path / "urls.py"):
            server.read_until("changed, reloading")
        server.read_until(LISTENING, 2)
        prompts.assert_arrived(receiver.events)


def test_django_runserver_delivers_nothing_at_sigterm(tmp_path: Path, receiver: Receiver) -> None:
    """The recipes document this."""
    lay_out_applications(tmp_path, over_http(receiver))
    server = (*RUNSERVER, "--noreload")
    check(receiver, tmp_path, *server, status=-TERM, delivers=False)


def test_celery_delivers_with_every_pool(tmp_path: Path, receiver: Receiver) -> None:
    """The broker is a folder, so that no server is needed."""
    pytest.importorskip("celery")
    pools = ["prefork", "threads", "solo"]
    with ExitStack() as stack:
        workers = []
        for index, pool in enumerate(pools):
            folder = tmp_path / pool
            (folder / "queue").mkdir(parents=True)
            lay_out(folder, over_http(receiver))
            shutil.copy(PROGRAMS / "celeryconfig.py", folder)
            enqueue = ENQUEUE_TURNS.format(index * TURNS, (index + 1) * TURNS)
            append(folder / "tasks.py", enqueue)
            command = ["-m", "celery", "-A", "tasks", "worker", f"--pool={pool}"]
            quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            log = ["--concurrency=2", "--loglevel=INFO"]
            workers.append(stack.enter_context(Program(folder, *command, *quiet, *log)))
        for worker in workers:
            worker.read_until(r"Task tasks\.turn\[[^]]*\] succeeded", TURNS)
        assert receiver.events == []
        for worker in workers:
            worker.signal(TERM)
        for worker in workers:
            assert "Traceback" not in worker.wait()
    expected = {f"conversation-{number}": number for number in range(len(pools) * TURNS)}
    assert turns(receiver.events) == expected


def test_fastapi_generators_lose_the_bound_conversation_as_documented(
    tmp_path: Path, receiver: Receiver
) -> None:
    """FastAPI runs each step of a synchronous generator in a new copy of the request's context.

    Leaving a `bind()` block in another context must not log an error, even if a client closes a
    stream early. Events carry the bound conversation where the recipes say so; a conversation's own
    logger does not depend on the context.
    """
    pytest.importorskip("fastapi")
    lay_out(tmp_path, over_http(receiver))
    shutil.copy(PROGRAMS / "streaming.py", tmp_path)
    with start(tmp_path, *UVICORN, "streaming:app") as server:
        port = int(server.read_until(LISTENING)[1])
        for path in ("/stream", "/dependency", "/async-dependency", "/endless", "/stream"):
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read(8 if path == "/endless" else None)
            connection.close()
        server.signal(INT)
        lines = server.wait().splitlines()
    (hint,) = (line for line in lines if line and not line.startswith("INFO: "))
    assert "has no conversation; bind one" in hint
    found: dict[str, list[str | None]] = {}
    for event in receiver.events:
        conversation = event.attributes.get("conversation.id")
        found.setdefault(event.attributes["startup.phase"], []).append(conversation)
    assert {place: {*conversations} for place, conversations in found.items()} == {
        "first step": {"bound", "owned"},
        "second step": {None, "owned"},
        "last step": {None, "owned"},
        "before the endpoint": {"bound", "owned"},
        "endpoint": {None, "owned"},
        "after the endpoint": {None, "owned"},
        "async endpoint": {"bound", "owned"},
    }
