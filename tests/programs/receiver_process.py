"""Runs a `Receiver`, and prints its state at the start and for each line of standard input.

Usage: receiver_process.py DESCRIPTORS

DESCRIPTORS is the maximum number of open files, or 0 for no limit.
"""

import json
import resource
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from codex_otel_logging import Receiver
from codex_otel_logging.receiver.connections import ConnectionServer

accepts = 0


def counted(
    server: ConnectionServer,
    get_request: Callable[[ConnectionServer], Any] = ConnectionServer.get_request,
) -> Any:
    global accepts
    accepts += 1
    return get_request(server)


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


descriptors = int(sys.argv[1])
ConnectionServer.get_request = counted  # type: ignore[assignment,method-assign]
with Receiver(on_request=lambda request: None) as receiver:
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    for _ in chain([""], sys.stdin):
        state = {
            "http": receiver.http_endpoint,
            "grpc": receiver.grpc_endpoint,
            "accepts": accepts,
            "peak_kib": 0 if descriptors else peak_kib(),  # reading it needs a descriptor
        }
        print(json.dumps(state), flush=True)
