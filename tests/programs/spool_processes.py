"""Logs into a spool in each of three processes of `multiprocessing`; prints their exit statuses.

Usage: spool_processes.py TABLE METHOD

The parent logs first, so that a forked child inherits its files.
"""

import json
import logging
import multiprocessing
import os
import sys

import codex_otel_logging


def log(table, number):
    logger = logging.getLogger("codex_otel")
    if not logger.handlers:  # otherwise it is inherited
        logger.addHandler(codex_otel_logging.from_table(json.loads(table)))
        logger.setLevel("INFO")
        logger.propagate = False
    extra = {"duration_ms": number, "conversation.id": "c"}
    logger.info("codex.turn_ttft", extra=extra)
    if number == 2:
        os._exit(7)


if __name__ == "__main__":
    log(sys.argv[1], 0)
    context = multiprocessing.get_context(sys.argv[2])
    processes = [context.Process(target=log, args=(sys.argv[1], n)) for n in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print([process.exitcode for process in processes])
