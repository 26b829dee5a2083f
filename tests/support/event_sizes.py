"""Events whose size in memory is known to be estimated well, and a program that measures them.

`python event_sizes.py KIND` keeps as many events as take about 32 MiB, and prints what that is by
their estimates and by what the process grew, in bytes. Without a kind, it prints for each one what
300 events take by their estimates and by what Python allocated, as JSON. A process of its own is
measured because other threads allocate too.
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
"""One of them makes every character of a text take 1, 2 or 4 bytes in memory."""

_ENOUGH = 32 << 20


def _short(n: int, i: int = 0) -> str:
    """Texts of all lengths, as allocators round some up by more than others."""
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
"""What the n-th event of each kind holds. No two events share a value."""

_NUMBERS = count(1_000_000)
_LOGGER = logging.Logger("codex_otel.x")


def log_event(reader: EventReader, kind: str) -> Event:
    """Return another event of a kind."""
    extra = KINDS[kind](next(_NUMBERS))
    event = reader.read(
        _LOGGER.makeRecord(
            _LOGGER.name, logging.INFO, "app.py", 1, "codex.tool_result", (), None, None, extra
        )
    )
    assert event is not None
    return event


def allocated(kind: str) -> tuple[int, int]:
    """Return the bytes of 300 events by their estimates, and those that Python allocated."""
    reader = EventReader(Redaction())
    queue = deque([log_event(reader, kind)])
    gc.collect()  # also empties the lists of freed objects that Python would use again
    tracemalloc.start()
    queue.extend(log_event(reader, kind) for _ in range(300))
    gc.collect()
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.stop()
    queue.popleft()
    # Both Python's and the C library's allocator round up to a multiple of 16 bytes.
    return sum(event.size for event in queue), sum(-(-trace.size // 16) * 16 for trace in traces)


def grown(kind: str) -> tuple[int, int]:
    """Return the bytes of many events by their estimates, and by what the process grew."""
    reader = EventReader(Redaction())
    size = log_event(reader, kind).size
    queue: deque[Event] = deque()
    gc.collect()
    before, estimated = _resident_bytes(), 0
    for _ in range(_ENOUGH // size):
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
