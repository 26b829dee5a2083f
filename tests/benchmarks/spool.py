"""Measures what a spool costs at exit and after a crash: `python tests/benchmarks/spool.py`.

    offline exit   seconds from a program's last statement to its end; it has logged 1,000 events,
                   and no collector listens
    leftovers      events per second that the next start exports, of 100,000 from a dead process
    eight threads  wall time per event of eight threads at full speed, over the same without a spool
    outage         a million events of 500 B on disk, for which the default `max_bytes` has room,
                   while no collector listens: how many are lost, by how much the memory grows, and
                   events per second when the collector is back

The exit status is 1 if a figure misses its bar.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from statistics import median

import table
from rounds import Bench, run_program

EXIT_LIMIT_S = 0.5
LEFTOVERS_LIMIT = 20_000
THREADS_LIMIT = 2.2
OUTAGE_LIMIT = 20_000
GROWTH_LIMIT_MIB = 16.0

_EVENTS = 100_000


def main() -> int:
    """Measure, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument(
        "--outage",
        type=int,
        default=1_000_000,
        metavar="N",
        help="number of events in the outage (default: 1,000,000)",
    )
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with Bench() as bench:
        exit_s = median(exit_after_events() for _ in range(rounds))
        per_second = median(leftovers_per_second(bench) for _ in range(rounds))
        steady = bench.rounds(
            "steady", ("ours", "ours-spool"), rounds=rounds, count=40_000, threads=8
        )
    lost, growth_mib, exported_per_second = outage(arguments.outage)
    slower = steady.ratio("ours-spool", "ours", "wall_us")
    lines = [
        ("offline exit, s", f"{exit_s:.2f}", f"at most {EXIT_LIMIT_S}", exit_s <= EXIT_LIMIT_S),
        (
            "leftovers per second",
            f"{per_second:,.0f}",
            f"at least {LEFTOVERS_LIMIT:,}",
            per_second >= LEFTOVERS_LIMIT,
        ),
        (
            "eight threads over no spool",
            f"{slower:.2f}",
            f"at most {THREADS_LIMIT}",
            slower <= THREADS_LIMIT,
        ),
        ("lost in an outage", f"{lost:,}", "0", lost == 0),
        (
            "growth in an outage, MiB",
            f"{growth_mib:.1f}",
            f"at most {GROWTH_LIMIT_MIB:.0f}",
            growth_mib <= GROWTH_LIMIT_MIB,
        ),
        (
            "events per second after it",
            f"{exported_per_second:,.0f}",
            f"at least {OUTAGE_LIMIT:,}",
            exported_per_second >= OUTAGE_LIMIT,
        ),
    ]
    rows = [("", "measured", "bar", "")]
    rows += [(what, found, bar, "met" if met else "missed") for what, found, bar, met in lines]
    print(table.to_text(rows))
    return int(not all(met for *_, met in lines))


def exit_after_events() -> float:
    """Return how many seconds a program needs to end."""
    with tempfile.TemporaryDirectory() as directory:
        done = run_program("crash.py", "exit", "http://127.0.0.1:9/v1/logs", directory, "1000")
        ended = time.monotonic()  # of the whole machine, on the platforms that have spools
    return ended - float(done.stdout)


def leftovers_per_second(bench: Bench) -> float:
    """Let a program die with events, and return how fast the next one exports them."""
    with tempfile.TemporaryDirectory() as directory:
        endpoint = bench.endpoint("http")
        run_program("crash.py", "die", endpoint, directory, str(_EVENTS))
        done = run_program("crash.py", "recover", endpoint, directory, str(_EVENTS))
    return _EVENTS / float(done.stdout)


def outage(count: int) -> tuple[int, float, float]:
    """Return lost events, growth of memory in MiB, and events per second when it is over."""
    with tempfile.TemporaryDirectory() as directory:
        done = run_program("crash.py", "outage", "", directory, str(count))
    lost, growth, took_s = done.stdout.split()
    return int(lost), int(growth) / 2**20, count / float(took_s)


if __name__ == "__main__":
    sys.exit(main())
