"""The programs of `soak.py`.

Arguments: WHAT NAME FOLDER ENDPOINT PER_SECOND SECONDS. WHAT is one of these:

    run    log for SECONDS, reconfigure logging every 10 s, fork every 5 s; print figures
    child  log until somebody kills this process
    drain  log one event, and wait until everything else in the spool is exported

FOLDER contains the spool, and a file for each writer with the number of events whose logging call
has returned. It is mapped into memory, so it survives a SIGKILL.
"""

from __future__ import annotations

import json
import logging
import logging.config
import mmap
import os
import struct
import sys
import time
import warnings
from pathlib import Path

LOGGER = logging.getLogger("codex_otel.tools")

RECONFIGURE_S = 10.0
FORK_S = 5.0
EVENTS_OF_A_FORK = 200
BATCH_SIZE = 512
_TICK_S = 0.01


class Writer:
    """Logs numbered events, and notes how many logging calls have returned."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._began = time.monotonic()
        path = folder / "written" / name
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._written = mmap.mmap(file.fileno(), 8)
        self.count = 0

    def log(self) -> None:
        self.count += 1
        LOGGER.info(
            "codex.tool_result",
            extra={
                "tool_name": "shell",
                "call_id": f"soak/{self._name}/{self.count}/",
                "arguments": '{"command": ["ls"]}',
                "duration_ms": 153,
                "success": "true",
                "output": "README.md\n" * 10,
                "conversation.id": "soak",
            },
        )
        struct.pack_into("<Q", self._written, 0, self.count)

    def log_at(self, per_second: float, until: float) -> None:
        """Log at a rate until a time of `time.monotonic`; catch up on what other calls took."""
        while (now := time.monotonic()) < until:
            while self.count < (now - self._began) * per_second:
                self.log()
            time.sleep(_TICK_S)


def configure(folder: Path, endpoint: str) -> None:
    otel = {
        "exporter": {"otlp-http": {"endpoint": endpoint}},
        "spool": {"path": str(folder / "spool")},
        "batch": {"max_batch_size": BATCH_SIZE},
    }
    handler = {"()": "codex_otel_logging.from_table", "otel": otel}
    logger = {"level": "INFO", "handlers": ["events"], "propagate": False}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"events": handler},
            "loggers": {"codex_otel": logger},
        }
    )


def run(name: str, folder: Path, endpoint: str, per_second: float, seconds: float) -> None:
    writer = Writer(name, folder)
    began = time.monotonic()
    children: list[int] = []
    next_fork, next_configuration, next_figures = FORK_S, RECONFIGURE_S, 0.0
    while (passed := time.monotonic() - began) < seconds:
        if passed >= next_configuration:
            next_configuration += RECONFIGURE_S
            configure(folder, endpoint)
        if passed >= next_fork:
            next_fork += FORK_S
            children.append(
                fork(f"{name}-{len(children)}", folder, abruptly=len(children) % 2 == 1)
            )
        if passed >= next_figures:
            next_figures += 1.0
            figures(passed, folder)
        writer.log_at(per_second, min(time.monotonic() + 0.1, began + seconds))
    for child in children:
        os.waitpid(child, 0)


def fork(name: str, folder: Path, *, abruptly: bool) -> int:
    """Let a child log events, and end with its exit hooks or `abruptly`; return its process id."""
    child = os.fork()
    if child:
        return child
    writer = Writer(name, folder)
    for _ in range(EVENTS_OF_A_FORK):
        writer.log()
    if abruptly:
        os._exit(0)
    sys.exit()


def figures(passed: float, folder: Path) -> None:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = int(status.partition("VmRSS:")[2].split()[0])
    found = {
        "passed": passed,
        "mib": kib / 1024,
        "descriptors": count(Path("/proc/self/fd")),
        "threads": count(Path("/proc/self/task")),
        "spool_mib": sum(size_of(path) for path in (folder / "spool").glob("*")) / (1 << 20),
    }
    print(json.dumps(found), flush=True)


def count(directory: Path) -> int:
    return sum(1 for _ in directory.iterdir())


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def drain(name: str, folder: Path) -> None:
    Writer(name, folder).log()  # the first success starts the export of leftovers
    while list((folder / "spool").glob("*")):
        time.sleep(0.05)


def main(
    what: str, name: str, folder: Path, endpoint: str, per_second: float, seconds: float
) -> None:
    warnings.filterwarnings("ignore", "This process .* is multi-threaded")
    logging.getLogger("codex_otel_logging").addHandler(logging.NullHandler())
    logging.getLogger("codex_otel_logging").propagate = False
    configure(folder, endpoint)
    if what == "run":
        run(name, folder, endpoint, per_second, seconds)
    elif what == "child":
        Writer(name, folder).log_at(per_second, time.monotonic() + seconds)
    else:
        drain(name, folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], *map(float, sys.argv[5:]))
