"""Measures how long requests to slow peers take: `python tests/benchmarks/bounded.py`.

The peers of `tests/support/slow_peers.py` send one byte at a time. Each request has a timeout of
one second. The exit status is 1 if a request takes more than 1.5 s.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import table

sys.path.append(str(Path(__file__).parents[1]))


from support.exporters import connected_over, event
from support.scripted_peers import Peer, Serve, dripping, reading_slowly
from support.slow_peers import BODIES, SLOW_ANSWERS, SLOW_CALLS, SLOW_TUNNELS, slow_handshake

TIMEOUT_MS = 1000
TOLERANCE_S = 0.5
ELSEWHERE = "https://127.0.0.1:9"


def main() -> int:
    """Measure every case, print a table, and return the exit status."""
    rows = [("transport", "slow", "seconds", "outcome")]
    slowest_s = 0.0
    for protocol, name, serve in cases():
        with Peer(serve) as peer:
            address = f"127.0.0.1:{peer.port}"
            endpoint, proxy = f"http://{address}", ""
            if name.startswith("proxy"):
                endpoint, proxy = ELSEWHERE, f"http://{address}"
            elif name == "TLS handshake":
                endpoint = f"https://{address}"
            text = "x" * (16_000_000 if name == "sending" else 1)
            with (
                mock.patch.dict(os.environ, {"https_proxy": proxy} if proxy else {}),
                connected_over(protocol, endpoint, timeout_ms=TIMEOUT_MS) as exporter,
            ):
                started = time.perf_counter()
                outcome = exporter.export([event(text=text)])
                took_s = time.perf_counter() - started
        slowest_s = max(slowest_s, took_s)
        rows.append((protocol, name, f"{took_s:.2f}", outcome.reason or outcome.verdict))
    print(f"timeout_ms = {TIMEOUT_MS}\n\n{table.to_text(rows)}")
    return int(slowest_s > TIMEOUT_MS / 1000 + TOLERANCE_S)


def cases() -> Iterator[tuple[str, str, Serve]]:
    """Yield the protocol, what is slow, and the server of each case."""
    for protocol in ("binary", "json", "grpc"):
        answers = SLOW_CALLS if protocol == "grpc" else SLOW_ANSWERS
        for name, serve in answers.items():
            yield protocol, f"answer: {name}", serve
        for name, serve in SLOW_TUNNELS.items():
            yield protocol, f"proxy: {name}", serve
        yield protocol, "TLS handshake", slow_handshake
        if protocol != "grpc":
            yield protocol, "sending", reading_slowly
            for name, headers in BODIES.items():
                first = b"HTTP/1.1 200 OK\r\n" + headers
                yield protocol, f"body: {name}", dripping(b"a" * 200, first=first)


if __name__ == "__main__":
    sys.exit(main())
