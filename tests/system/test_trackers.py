"""Error trackers and loguru in the same process: which of them see prompts, and how to stop it."""

from __future__ import annotations

import gzip
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Conversation, Receiver
from support.collectors import over_http
from support.fixtures import HandlerFactory, RunPython
from support.pages import recipe
from support.paths import PROGRAMS
from support.recipes import lay_out

pytestmark = pytest.mark.processes


class Sentry(ThreadingHTTPServer):
    """Keeps the envelopes that sentry-sdk sends to its DSN."""

    daemon_threads = True

    def __init__(self) -> None:
        self.envelopes: list[str] = []
        super().__init__(("127.0.0.1", 0), _EnvelopeHandler)
        self.dsn = f"http://key@127.0.0.1:{self.server_port}/1"

    def mentions(self, text: str) -> bool:
        return any(text in envelope for envelope in self.envelopes)


class _EnvelopeHandler(BaseHTTPRequestHandler):
    server: Sentry

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.envelopes.append(body.decode())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    pytest.importorskip("sentry_sdk")
    server = Sentry()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


PROMPTS = ("Rename foo to bar", "And baz")


@pytest.fixture
def run_with_sentry(
    tmp_path: Path, receiver: Receiver, sentry: Sentry, run_python: RunPython
) -> Callable[[str], None]:
    """Runs a version of the recipe, and an application that logs and fails."""
    lay_out(tmp_path, over_http(receiver))
    shutil.copy(PROGRAMS / "failing.py", tmp_path)

    def run_with_sentry(recipe: str) -> None:
        done = run_python(f"{recipe}\nimport failing\n", SENTRY_DSN=sentry.dsn)
        assert done.returncode == 0, done.stderr
        assert [e.attributes["prompt"] for e in receiver.events] == ["[REDACTED]"] * 2
        types = {kind for kind in ("breadcrumbs", "log", "event") if sentry.mentions(f'"{kind}"')}
        assert types == {"breadcrumbs", "log", "event"}
        assert sentry.mentions("the application logs")
        assert sentry.mentions("the application fails")

    return run_with_sentry


def test_no_prompt_reaches_sentry_from_ignored_loggers(
    run_with_sentry: Callable[[str], None], sentry: Sentry
) -> None:
    """Sentry still receives the application's breadcrumbs, events and logs."""
    run_with_sentry(recipe("python", "tracked.py"))
    assert not any(map(sentry.mentions, PROMPTS))
    assert not sentry.mentions("codex.user_prompt")


@pytest.mark.parametrize("call", ["ignore_logger(name)", "ignore_logger_for_sentry_logs(name)"])
def test_prompts_reach_sentry_if_either_call_is_missing(
    run_with_sentry: Callable[[str], None], sentry: Sentry, call: str
) -> None:
    """Even though `propagate` is False: Sentry patches `Logger.callHandlers`."""
    code = recipe("python", "tracked.py")
    assert f"    {call}\n" in code
    run_with_sentry(code.replace(f"    {call}\n", ""))
    assert all(map(sentry.mentions, PROMPTS))


@pytest.mark.parametrize("include", [True, False])
def test_local_variables_reach_sentry_unless_excluded(
    run_with_sentry: Callable[[str], None], sentry: Sentry, include: bool
) -> None:
    code = recipe("python", "tracked.py")
    assert "enable_logs=True" in code
    option = "" if include else ", include_local_variables=False"
    run_with_sentry(code.replace("enable_logs=True", f"enable_logs=True{option}"))
    assert sentry.mentions("in-a-local-variable") == include


def test_patched_call_handlers_finds_prompts_in_fields_only(
    attach_to: HandlerFactory, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New Relic and Sentry patch it; the message that they forward is only the event's name."""
    seen: list[logging.LogRecord] = []
    call_handlers = logging.Logger.callHandlers

    def tracked(logger: logging.Logger, record: logging.LogRecord) -> None:
        call_handlers(logger, record)
        seen.append(record)

    monkeypatch.setattr(logging.Logger, "callHandlers", tracked)
    handler = attach_to(receiver)
    with Conversation("c", "m").bind():
        logging.getLogger("codex_otel").info("codex.user_prompt", extra={"prompt": "Rename"})
    handler.flush()
    (record,), (event,) = seen, receiver.events
    assert record.getMessage() == "codex.user_prompt"
    assert record.__dict__["prompt"] == "Rename"
    assert event.attributes["prompt"] == "[REDACTED]"


def test_loguru_recipe_exports_events_logged_with_loguru(
    tmp_path: Path, receiver: Receiver, run_python: RunPython
) -> None:
    pytest.importorskip("loguru")
    lay_out(tmp_path, over_http(receiver))
    more = """
try:
    1 / 0
except ZeroDivisionError:
    logger.bind(duration_ms=352).exception("codex.turn_ttft")
logger.info("the application's own")
"""
    done = run_python(recipe("python", "from_loguru.py") + more)
    assert done.returncode == 0, done.stderr
    prompt, ttft = receiver.events
    assert prompt.attributes["conversation.id"] == "conversation-1"
    assert prompt.attributes["prompt"] == "[REDACTED]"
    assert prompt.attributes["prompt_length"] == len(PROMPTS[0])
    assert (ttft.attributes["duration_ms"], ttft.severity_text) == (352, "ERROR")
    assert ttft.attributes["exception.type"] == "ZeroDivisionError"
    assert PROMPTS[0] not in done.stderr
    assert done.stderr.count("the application's own") == 1


LOGURU_WITH_THE_HANDLER = """
import logging, sys
import codex_otel_logging
from loguru import logger

handler = codex_otel_logging.from_toml()
logger.add(handler, format="{message}")
logger = logger.patch(lambda record: record.update(name=sys.argv[1]))
logger.bind(turns=[{"prompt": "And baz"}]).info("codex.user_prompt", prompt="Rename foo to bar")
"""


def test_handler_added_to_loguru_ignores_other_loggers(
    tmp_path: Path, receiver: Receiver, run_python: RunPython
) -> None:
    """The recipes document this: loguru names the record after the module."""
    pytest.importorskip("loguru")
    lay_out(tmp_path, over_http(receiver))
    done = run_python(LOGURU_WITH_THE_HANDLER, "__main__")
    assert done.returncode == 0, done.stderr
    assert receiver.events == []
    assert "ignored: logger '__main__'" in done.stderr


def test_handler_added_to_loguru_redacts_the_fields_in_their_map(
    tmp_path: Path, receiver: Receiver, run_python: RunPython
) -> None:
    pytest.importorskip("loguru")
    lay_out(tmp_path, over_http(receiver))
    done = run_python(LOGURU_WITH_THE_HANDLER, "codex_otel.loguru")
    assert done.returncode == 0, done.stderr
    (event,) = receiver.events
    assert event.attributes["extra"] == {
        "prompt": "[REDACTED]",
        "prompt_length": len(PROMPTS[0]),
        "turns": [{"prompt": "[REDACTED]", "prompt_length": len(PROMPTS[1])}],
    }
    assert not any(prompt in done.stderr for prompt in PROMPTS)
