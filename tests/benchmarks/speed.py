"""Compares the speed of this package with that of others: `python tests/benchmarks/speed.py`.

Each round measures every subject in a fresh process. A figure is the median of the rounds; a ratio
is the median of the ratios within each round. Only ratios can be compared with another run, because
absolute figures depend on the machine. Peers that are not installed are skipped:
`pip install 'codex_otel_logging[benchmark]'` installs them all. The exit status is 0 whatever the
figures are, and 1 if a measurement fails.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys

import rows
import table
from rounds import Bench, versions
from subjects import SUBJECTS

_SCALING = "scaling"


def main() -> int:
    """Measure what the command line asks for, print the tables, and return the exit status."""
    options = _options()
    show = table.to_markdown if options.markdown else table.to_text
    with Bench() as bench:
        results = {
            what: bench.rounds(
                what,
                measurement.names,
                rounds=math.ceil(options.rounds * measurement.rounds),
                count=measurement.quick_count if options.quick else measurement.count,
            )
            for what, measurement in rows.MEASUREMENTS.items()
            if options.only in (None, what)
        }
        tables = [rows.overview(results), rows.bars(results)] if results else []
        if options.only in (None, _SCALING):
            tables += rows.scaling(bench, quick=options.quick)
    print(_conditions(options.rounds))
    for one in tables:
        if len(one) > 1:
            print(f"\n{show(one)}")
    for failure in bench.failures:
        print(failure, file=sys.stderr)
    return 1 if bench.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and events; noisier")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="number of rounds (default: 5, with --quick 2)"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--only", choices=[*rows.MEASUREMENTS, _SCALING], help="measure only this")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 2 if options.quick else 5
    elif options.rounds < 1:
        parser.error("--rounds: must be at least 1")
    return options


def _conditions(rounds: int) -> str:
    installed = ", ".join(f"{name} {found}" for name, found in versions(list(SUBJECTS)).items())
    return f"Python {platform.python_version()}; {rounds} rounds; {installed or 'no exporter'}"


if __name__ == "__main__":
    sys.exit(main())
