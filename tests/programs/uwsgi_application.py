"""A WSGI application that logs an event for each request and, with LOG_AT_LOAD, one at import."""

import json
import logging
import os

import codex_otel_logging

exporter, batch = json.loads(os.environ["EXPORTER"]), {"schedule_delay_ms": 200}
codex_otel_logging.configure({"exporter": exporter, "batch": batch})
logger = logging.getLogger("codex_otel.app")


def log(call_id):
    extra = {"duration_ms": 1, "conversation.id": "c", "call_id": call_id}
    logger.info("codex.turn_ttft", extra=extra)


if "LOG_AT_LOAD" in os.environ:
    log("load")


def application(environ, start_response):
    log(environ["PATH_INFO"])
    start_response("204 No Content", [])
    return []
