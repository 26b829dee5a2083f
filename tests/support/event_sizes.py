"""Kinds of events whose size in memory is estimated, and a program that measures the real size.

`python event_sizes.py KIND` holds about 32 MiB of events, and prints their estimated size and the
growth of the process, in bytes. Without KIND, it prints for 300 events of each kind the estimated
size and the bytes that Python allocated. The output is JSON. It runs in its own process, because
other threads allocate memory, too.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from codex_otel_logging.events.event import Event
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction

_LATIN, _CHINESE, _EMOJI = "é中😀"
"""With one of them in a text, each of its characters takes 1, 2 or 4 bytes (PEP 393)."""

_GROWTH = 32 << 20
"""Bytes by which a process must grow for a precise measurement."""


def _short(n: int, i: int = 0) -> str:
    """Return a text whose length varies: allocators round lengths up by different amounts."""
    return f"{n} {i} {'x' * ((n + i) % 16)}"


KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "short text": lambda n: {"tool_name": _short(n)},
    "text of 1 KiB": lambda n: {"output": f"{n:1024}"},
    "text of 60 KiB": lambda n: {"output": f"{n:61440}"},
    "short text, 1 byte": lambda n: {"tool_name": f"{_LATIN}{n:10}"},
    "short text, 2 bytes": lambda n: {"tool_name": f"{_CHINESE}{n:10}"},
    "short text, 4 bytes": lambda n: {"tool_name": f"{_EMOJI}{n:10}"},
    "long text, 1 byte": lambda n: {"tool_name": f"{_LATIN}{n:1000}"},
    "long text, 2 bytes": lambda n: {"tool_name": f"{_CHINESE}{n:1000}"},
    "long text, 4 bytes": lambda n: {"tool_name": f"{_EMOJI}{n:1000}"},
    "one integer": lambda n: {"duration_ms": n},
    "tool result": lambda n: {
        "tool_name": _short(n),
        "call_id": f"call_{n:024}",
        "arguments": f'{{"command": ["bash", "-lc", "ls {n}"]}}',
        "duration_ms": n,
        "output": f"{n:1024}",
    },
    "50 texts": lambda n: {f"field_{i}": _short(n, i) for i in range(50)},
    "50 integers": lambda n: {f"field_{i}": n + i for i in range(50)},
    "50 floats": lambda n: {f"field_{i}": n + i + 0.5 for i in range(50)},
    "text and boolean": lambda n: {"tool_name": _short(n), "flag": True},
    "bytes": lambda n: {"output": f"{n:500}".encode()},
    "integer of 16,000 bits": lambda n: {"number": (1 << 16_000) + n},
    "array of integers": lambda n: {"items": [n + i for i in range(100)]},
    "array of small integers": lambda n: {"items": list(range(100)), "n": n},
    "array of texts": lambda n: {"items": [_short(n, i) for i in range(100)]},
    "array of wide texts": lambda n: {"items": [f"{_CHINESE}{n + i:20}" for i in range(20)]},
    "array of arrays": lambda n: {"items": [[n + i] for i in range(100)]},
    "array of maps": lambda n: {"items": [{f"key {n} {i}": n + i + 0.5} for i in range(50)]},
    "map": lambda n: {"items": {f"key {n} {i}": _short(n, i) for i in range(20)}},
}
"""The fields of the n-th event of each kind. No two events share a value."""

_NUMBERS = count(1_000_000)
_LOGGER = logging.Logger("codex_otel.x")


def log_event(reader: EventReader, kind: str) -> Event:
    """Return a new event of a kind."""
    extra = KINDS[kind](next(_NUMBERS))
    event = reader.read(
        _LOGGER.makeRecord(
            _LOGGER.name, logging.INFO, "app.py", 1, "codex.tool_result", (), None, None, extra
        )
    )
    assert event is not None
    return event


def allocated(kind: str) -> tuple[int, int]:
    """Return the estimated size of 300 events and the bytes that Python allocated for them."""
    reader = EventReader(Redaction())
    queue = deque([log_event(reader, kind)])
    gc.collect()  # also clears the free lists, from which Python would reuse objects
    tracemalloc.start()
    queue.extend(log_event(reader, kind) for _ in range(300))
    gc.collect()
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.stop()
    queue.popleft()
    # The allocators of Python and of the C library round up to a multiple of 16 bytes.
    return sum(event.size for event in queue), sum(-(-trace.size // 16) * 16 for trace in traces)


def grown(kind: str) -> tuple[int, int]:
    """Return the estimated size of 32 MiB of events and the growth of the process, in bytes."""
    reader = EventReader(Redaction())
    size = log_event(reader, kind).size
    queue: deque[Event] = deque()
    gc.collect()
    before, estimated = _resident_bytes(), 0
    for _ in range(_GROWTH // size):
        event = log_event(reader, kind)
        queue.append(event)
        estimated += event.size
    gc.collect()
    return estimated, _resident_bytes() - before


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


if __name__ == "__main__":
    kinds = sys.argv[1:]
    print(json.dumps({kind: grown(kind) for kind in kinds} or {k: allocated(k) for k in KINDS}))
