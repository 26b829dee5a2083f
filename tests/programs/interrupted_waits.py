"""Waits at exit for a silent collector while a signal handler runs longer than the wait."""

import logging
import signal
import socket
import time

import codex_otel_logging

silent = socket.create_server(("127.0.0.1", 0))
endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/logs"
handler = codex_otel_logging.from_table(
    {"exporter": {"otlp-http": {"endpoint": endpoint}}, "batch": {"shutdown_timeout_ms": 1000}}
)
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")
logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})
silent.accept()
signal.signal(signal.SIGALRM, lambda *_: time.sleep(1.5))
signal.setitimer(signal.ITIMER_REAL, 0.2)
