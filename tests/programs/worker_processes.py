"""Logs an event in each of three processes of `multiprocessing`; prints their exit statuses.

Usage: worker_processes.py EXPORTER ENDPOINT METHOD
"""

import logging
import multiprocessing
import sys

import codex_otel_logging


def work(number):
    exporter = {sys.argv[1]: {"endpoint": sys.argv[2]}}
    handler = codex_otel_logging.from_table({"exporter": exporter})
    logger = logging.getLogger("codex_otel")
    logger.handlers[:] = [handler]
    logger.setLevel("INFO")
    logger.info("codex.turn_ttft", extra={"duration_ms": number, "conversation.id": "c"})


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[3])
    processes = [context.Process(target=work, args=(number,)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print([process.exitcode for process in processes])
