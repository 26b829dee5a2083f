"""Measures one subject in a fresh process and prints the figures as JSON; `rounds` runs it.

Imports only `sys` and `time` before the subject: `start` measures how long a subject takes to
import, and would miss modules that are imported already.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from application import Subject

Figures = dict[str, float]

_BURST = 200
"""Fewer events than a batch, so that no worker sends while the caller's cost is measured."""

_BATCH = 1024
"""One full batch of this package, and two of the SDK, with the default settings of both."""

_TICK_EVENTS, _TICK_S = 100, 0.05
"""The load: 2,000 events per second, which every subject can export in time."""

_CHUNK = 10_000
"""Events logged at full speed between two flushes: fewer than our queue holds."""


def start(subject: Subject, began: float) -> Figures:
    """Return the ms until the first event is logged, and until the collector has answered."""
    subject.log(1)
    logged = time.perf_counter()
    subject.flush()
    delivered = time.perf_counter()
    return {"logged_ms": (logged - began) * 1e3, "delivered_ms": (delivered - began) * 1e3}


def cost(subject: Subject, count: int, _threads: int) -> Figures:
    """Return the caller's cost of an event in µs: CPU time of its thread, and wall time."""
    from statistics import median

    cpu: list[float] = []
    wall: list[float] = []
    for _ in range(count // _BURST):
        wall_began, cpu_began = time.perf_counter_ns(), time.thread_time_ns()
        subject.log(_BURST)
        cpu_ended, wall_ended = time.thread_time_ns(), time.perf_counter_ns()
        cpu.append((cpu_ended - cpu_began) / _BURST / 1000)
        wall.append((wall_ended - wall_began) / _BURST / 1000)
        subject.flush()
    return {"cpu_us": median(cpu), "wall_us": median(wall)}


def work(subject: Subject, count: int, _threads: int) -> Figures:
    """Return the process's CPU time for an event in µs, up to the collector's answer."""
    began = time.process_time_ns()
    for _ in range(count // _BATCH):
        subject.log(_BATCH)
        subject.flush()
    return {"cpu_us": (time.process_time_ns() - began) / count / 1000}


def load(subject: Subject, count: int, _threads: int) -> Figures:
    """Return the duration of logging calls in µs under load: 99th percentile and maximum."""
    calls: list[int] = []
    next_tick = time.perf_counter()
    for _ in range(count // _TICK_EVENTS):
        for _ in range(_TICK_EVENTS):
            began = time.perf_counter_ns()
            subject.log(1)
            calls.append(time.perf_counter_ns() - began)
        next_tick += _TICK_S
        time.sleep(max(next_tick - time.perf_counter(), 0.0))
    subject.flush()
    calls.sort()
    return {"p99_us": calls[len(calls) * 99 // 100] / 1000, "max_us": calls[-1] / 1000}


def burst(subject: Subject, count: int, _threads: int) -> Figures:
    """Log at full speed, each event with a different text; return wall time and memory growth."""
    from application import OUTPUT

    return _log_at_once(subject, count, f"{OUTPUT}%d")


def bulk(subject: Subject, count: int, _threads: int) -> Figures:
    """Log at full speed, each event with a different 1 KiB; return wall time and memory growth."""
    return _log_at_once(subject, count, "%1024d")


def _log_at_once(subject: Subject, count: int, output: str) -> Figures:
    """Log events at full speed; `output` is a format for the event's number."""
    peak_mib = _peak_mib()
    began = time.perf_counter_ns()
    for number in range(count):
        subject.log(1, output % number)
    wall_us = (time.perf_counter_ns() - began) / count / 1000
    subject.flush()
    return {"wall_us": wall_us, "grown_mib": _peak_mib() - peak_mib}


def steady(subject: Subject, count: int, threads: int) -> Figures:
    """Log at full speed from several threads, with a flush after every `_CHUNK` events."""
    from contextvars import copy_context
    from threading import Thread

    cpu_ns: list[int] = []

    def log_share(share: int) -> None:
        began = time.thread_time_ns()
        subject.log(share)
        cpu_ns.append(time.thread_time_ns() - began)

    peak_mib = _peak_mib()
    wall_ns = 0
    for chunk in range(0, count, _CHUNK):
        shares = [min(_CHUNK, count - chunk) // threads] * threads
        workers = [Thread(target=copy_context().run, args=(log_share, n)) for n in shares]
        began = time.perf_counter_ns()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        wall_ns += time.perf_counter_ns() - began
        subject.flush()
    return {
        "cpu_us": sum(cpu_ns) / count / 1000,
        "wall_us": wall_ns / count / 1000,
        "grown_mib": _peak_mib() - peak_mib,
    }


def _peak_mib() -> float:
    """Return the peak memory of this process so far."""
    import resource

    # In bytes on macOS, in KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _warm_up(subject: Subject) -> int:
    """Log until everything is imported, connected and compiled; return the number of events."""
    rounds = 2 * _BATCH // _BURST
    for _ in range(rounds):
        subject.log(_BURST)
        subject.flush()
    return rounds * _BURST


def main(what: str, name: str, endpoint: str, count_text: str, threads_text: str) -> None:
    """Measure and print the figures; `logged` is the total number of events."""
    began = time.perf_counter()
    count, threads = int(count_text), int(threads_text)
    from subjects import SUBJECTS

    subject = SUBJECTS[name](endpoint)
    if what == "start":
        logged = 1
        figures = start(subject, began)
    else:
        logged = count + _warm_up(subject)
        measure: Callable[[Subject, int, int], Figures] = globals()[what]
        figures = measure(subject, count, threads)

    import json

    print(json.dumps({**figures, "logged": logged}))


if __name__ == "__main__":
    main(*sys.argv[1:])
