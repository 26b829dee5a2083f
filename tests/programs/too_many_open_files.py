"""Exports over gRPC before, while and after no file can be opened; prints the results of `flush`.

Usage: too_many_open_files.py ENDPOINT
"""

import logging
import os
import resource
import sys

import codex_otel_logging

handler = codex_otel_logging.from_table({"exporter": {"otlp-grpc": {"endpoint": sys.argv[1]}}})
logger = logging.getLogger("codex_otel")
logger.addHandler(handler)
logger.setLevel("INFO")


def log() -> None:
    logger.info("codex.turn_ttft", extra={"duration_ms": 1, "conversation.id": "c"})


log()
first = handler.flush(20)
worker = handler._pipeline.worker.thread
handler.close()
worker.join(20)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
files = []
try:
    while True:
        files.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
log()
waiting = handler.flush(0.3)
for file in files:
    os.close(file)
print(first, waiting, handler.flush(20), handler.stats().exported)
