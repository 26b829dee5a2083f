"""Logs an event in each of three processes of a package similar to `multiprocessing`.

Usage: multiprocessing_alikes.py EXPORTER PACKAGE METHOD

The processes end without a flush.
"""

import importlib
import json
import logging
import sys

import codex_otel_logging


def work(number: int) -> None:
    codex_otel_logging.configure({"exporter": json.loads(sys.argv[1])})
    extra = {"duration_ms": number, "conversation.id": "c"}
    logging.getLogger("codex_otel.app").info("codex.turn_ttft", extra=extra)


if __name__ == "__main__":
    package = importlib.import_module(sys.argv[2])
    if sys.argv[3] == "reusable executor":
        with package.get_reusable_executor(2) as executor:
            list(executor.map(work, range(3)))
    else:
        context = package.get_context(sys.argv[3])
        processes = [context.Process(target=work, args=(number,)) for number in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
