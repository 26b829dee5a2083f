"""Configuration by `dictConfig` in a new interpreter, as in an application."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver, Stats
from support.collectors import over_grpc, over_http
from support.events import numbers
from support.fixtures import RunPython
from support.paths import read_program

PROGRAM = """
import json, logging, logging.config, sys

early = logging.getLogger("codex_otel.early")
app = logging.getLogger("app")
logging.config.dictConfig(json.loads(sys.argv[1]))
early.info("codex.turn_ttft", extra={"duration_ms": 1})
logging.getLogger("codex_otel").debug("codex.turn_ttft", extra={"duration_ms": 2})
logging.getLogger("app").warning("the application's own")
"""


def config(handler: dict[str, Any], **top: Any) -> str:
    return json.dumps(
        {
            "version": 1,
            "handlers": {"console": {"class": "logging.StreamHandler"}, "codex_otel": handler},
            "loggers": {
                "codex_otel": {"level": "INFO", "propagate": False, "handlers": ["codex_otel"]}
            },
            "root": {"handlers": ["console"]},
            **top,
        }
    )


def test_from_toml_configures_the_handler(
    run_python: RunPython, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "otel.toml").write_text(
        f'[otel.exporter.otlp-http]\nendpoint = "{receiver.http_endpoint}"\n'
    )
    handler = {
        "()": "codex_otel_logging.from_toml",
        "path": "~/otel.toml",
        "app_version": "ext://sys.byteorder",
        "level": "INFO",
    }
    done = run_python(PROGRAM, config(handler, disable_existing_loggers=False))
    assert done.returncode == 0
    (event,) = receiver.events
    assert event.attributes["duration_ms"] == 1
    assert event.attributes["app.version"] in ("little", "big")
    assert event.scope == "codex_otel.early"
    lines = done.stderr.splitlines()
    assert lines[0] == "the application's own"
    assert lines[1].startswith("<string>:7: event codex.turn_ttft has no conversation")
    assert len(lines) == 2


def test_from_table_resolves_a_cfg_reference(run_python: RunPython, receiver: Receiver) -> None:
    handler = {"()": "codex_otel_logging.from_table", "otel": "cfg://telemetry.otel"}
    otel = {"environment": "prod", "exporter": over_grpc(receiver)}
    done = run_python(PROGRAM, config(handler, telemetry={"otel": otel}))
    assert done.returncode == 0
    (event,) = receiver.events
    assert event.resource["env"] == "prod"


def test_handler_class_accepts_a_table(run_python: RunPython, receiver: Receiver) -> None:
    otel = {"exporter": over_http(receiver)}
    handler = {"class": "codex_otel_logging.CodexOtelHandler", "config": otel}
    assert run_python(PROGRAM, config(handler)).returncode == 0
    assert len(receiver.events) == 1


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (
            {"()": "codex_otel_logging.from_toml", "path": "absent.toml"},
            "absent.toml: no such file; create it, or pass missing_ok=True to run without it",
        ),
        (
            {"()": "codex_otel_logging.from_table", "otel": {"exporter": "otlp"}},
            "[otel] exporter: expected one of 'none', 'otlp-http', 'otlp-grpc'; got 'otlp'",
        ),
    ],
)
def test_invalid_settings_fail_with_the_handlers_name_and_every_fault(
    run_python: RunPython, handler: dict[str, Any], fault: str
) -> None:
    done = run_python(PROGRAM, config(handler))
    assert done.returncode == 1
    assert f"codex_otel_logging.ConfigError: {fault}" in done.stderr
    assert "ValueError: Unable to configure handler 'codex_otel'" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_configuring_again_drops_no_event(run_python: RunPython, receiver: Receiver) -> None:
    """`dictConfig` closes the old handlers with logging's lock held and events still queued."""
    otel = {"exporter": over_http(receiver)}
    handler = {"()": "codex_otel_logging.from_table", "otel": otel}
    done = run_python(read_program("configured_again"), config(handler))
    assert (done.returncode, done.stdout) == (0, "0 True\n")
    assert sorted(e.attributes["duration_ms"] for e in receiver.events) == list(range(20))


def test_handler_closed_by_another_library_keeps_exporting(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """Another library's `dictConfig` closes all existing handlers, but leaves ours attached."""
    program = """
import json, logging, logging.config, sys
logging.config.dictConfig(json.loads(sys.argv[1]))
logger = logging.getLogger("codex_otel")
for number in range(5):
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
"""
    handler = {"()": "codex_otel_logging.from_table", "otel": {"exporter": exporter}}
    done = run_python(program, config(handler))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(e.attributes["duration_ms"] for e in receiver.events) == list(range(5))


def test_root_logger_at_debug_does_not_feed_back(
    run_python: RunPython, receiver: Receiver, exporter: dict[str, Any]
) -> None:
    """Exporters log while they send; exporting those records would never end."""
    handler = {"()": "codex_otel_logging.from_table", "otel": {"exporter": exporter}}
    done = run_python(read_program("root_at_debug"), json.dumps(handler))
    assert done.stdout == f"{Stats(accepted=3, exported=3, ignored=1)}\n"
    assert numbers(receiver.events) == [0, 1, 2]
    assert len(receiver.requests) == 3
