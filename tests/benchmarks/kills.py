"""Kills processes that log into a spool: `python tests/benchmarks/kills.py`.

Each process logs numbered events, on one or four threads, at 200 events per second or more, and
counts in a mapped file those whose logging call has returned. SIGKILL ends it at a random moment,
while the collector is healthy, down, hanging, or answers 503; for every second group of processes
it has been healthy before. Four processes share each directory. Then a new handler exports what
they left, to a healthy collector. The exit status is 1 if a counted event has not arrived, if more
than one batch per kill has arrived twice, or if files are left.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import table

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2]))

from support.kills import AT_ONCE, STATES, TRANSPORTS, Kills, Result

_TITLES = ("collector", "kills", "events logged", "arrived before", "lost", "twice", "per kill")


def main() -> int:
    """Kill as many processes as asked for, print a table, and return the exit status."""
    options = _options()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    print(f"Python {platform.python_version()}; over {options.transport}; --seed {seed}\n")
    results = {state: Result() for state in STATES}
    total = Result()
    with tempfile.TemporaryDirectory() as folder:
        kills = Kills(options.transport, Path(folder), seed=seed, longest_s=options.longest_s)
        while total.kills < options.kills:
            state = STATES[total.kills // AT_ONCE // 2 % len(STATES)]
            result = kills.run(state, min(AT_ONCE, options.kills - total.kills))
            results[state].add(result)
            total.add(result)
    rows = [_TITLES, *(_row(state, result) for state, result in results.items())]
    show = table.to_markdown if options.markdown else table.to_text
    print(show([*rows, _row("all", total)]))
    for fault in total.faults:
        print(fault, file=sys.stderr)
    return 1 if total.faults else 0


def _row(state: str, result: Result) -> tuple[str, ...]:
    figures = (
        result.kills, result.counted, result.before, result.lost, result.twice, result.most_twice
    )  # fmt: skip
    return (state, *(f"{figure:,}" for figure in figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--transport", choices=TRANSPORTS, default="http")
    parser.add_argument(
        "--longest-s",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="the longest time from the first event to the death (default: 1)",
    )
    parser.add_argument("--seed", type=int, help="determines the moments (default: by the clock)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("--kills: must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
