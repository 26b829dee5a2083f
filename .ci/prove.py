"""Proves that `.ci/run` detects faults, by running it on copies of the repository with faults.

    python3 .ci/prove.py [CHECK ...]

In a copy with a fault, `.ci/run CHECK` must fail and name the reason. In a copy without a fault, or
with a Python that cannot be fetched, it must pass. The copies hold one test and need few
dependencies, so that the whole run takes about two minutes. Without arguments, all checks and the
matrix are tested.

Prints a line for each case. Exits with 0 if all results are as expected, otherwise with 1.
"""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parent.parent
_AT_ONCE = 3
_TIMEOUT_S = 300
_EXTRAS = "options.extras_require"
_TEST = "tests/system/test_packaging.py"

Change = Callable[[Path], object]
"""Edits a copy of the repository, given its folder."""


class Case(NamedTuple):
    """A fault in a copy of the repository."""

    check: str
    """The argument of `.ci/run`; `matrix` stands for none."""
    fault: str
    reason: str
    """Text that the output must contain."""
    change: Change | None = None
    """Creates the fault in the copy; None if there is no fault."""
    passes: bool = False
    """Whether the check must pass in spite of the change."""


def _write(path: str, text: str) -> Change:
    return lambda copy: (copy / path).write_text(text)


def _replace(path: str, old: str, new: str) -> Change:
    def change(copy: Path) -> None:
        before, found, after = (copy / path).read_text().partition(old)
        if not found:
            raise ValueError(f"{path} does not contain {old!r}")
        (copy / path).write_text(before + new + after)

    return change


def _configure(section: str, **options: str) -> Change:
    def change(copy: Path) -> None:
        setup = configparser.RawConfigParser()
        setup.read(copy / "setup.cfg")
        setup[section].update(options)
        with (copy / "setup.cfg").open("w") as file:
            setup.write(file)

    return change


_FAILING = _write(_TEST, "def test_fails() -> None:\n    raise AssertionError\n")
_SKIPPED = _write(_TEST, "import pytest\n\n\n@pytest.mark.skip\ndef test_skipped() -> None: ...\n")
_BROKEN_BUILD = _write("setup.py", "raise SystemExit('broken setup.py')\n")
_BROKEN_COMMAND = _write("codex_otel_logging/__main__.py", "raise SystemExit('broken command')\n")
_WRONG_VERSION = _replace(
    "codex_otel_logging/__init__.py", "metadata.version(__name__)", '"0+unknown"'
)
_BROKEN_PLUGIN = _write("codex_otel_logging/pytest_plugin.py", "raise OSError('broken plugin')\n")
_COMMAND = "'.[test]' && .venv/bin/python -m pytest"

CASES = [
    Case("newest", "no fault", "1 passed"),
    Case("newest", "failing test", "1 failed", _FAILING),
    Case("newest", "no test", "no tests ran", _write(_TEST, "")),
    Case("newest", "only skipped tests", "no test passed", _SKIPPED),
    Case(
        "newest",
        "requirement that cannot be installed",
        "No matching distribution found for pytest",
        _configure(_EXTRAS, test="pytest>=999"),
    ),
    Case(
        "newest",
        "README's command reworded",
        "README.md has no command",
        _replace("README.md", "'.[test]'", '".[test]"'),
    ),
    Case(
        "newest",
        "README's command without pytest",
        "no test passed",
        _replace("README.md", _COMMAND, "'.[test]' && echo"),
    ),
    Case(
        "newest",
        "second command in README",
        "README.md has several commands",
        _replace("README.md", "## Run the tests", "pip install '.[test]'\n\n## Run the tests"),
    ),
    Case("lowest", "no fault", "1 passed"),
    Case("lowest", "failing test", "1 failed", _FAILING),
    Case("lowest", "only skipped tests", "no test passed", _SKIPPED),
    Case(
        "lowest",
        "requirement without a lowest version",
        "pytest<10: the requirement names no lowest version",
        _configure(_EXTRAS, test="pytest<10"),
    ),
    Case(
        "lowest",
        "lowest version that does not exist",
        "No matching distribution found for pytest==8.0.99",
        _configure(_EXTRAS, test="pytest>=8.0.99"),
    ),
    Case(
        "lowest",
        "lowest versions that conflict",
        "The conflict is caused by:",
        _configure(_EXTRAS, test="pytest>=8.1,<10\npluggy>=1.0"),
    ),
    Case("runtimes", "no fault", "1 passed"),
    Case("runtimes", "failing test", "1 failed", _FAILING),
    Case(
        "runtimes",
        "requirement that cannot be installed",
        "No matching distribution found for pytest",
        _configure(_EXTRAS, **{"test-runtimes": "pytest>=999"}),
    ),
    Case("linters", "no fault", "Success: no issues found"),
    Case("linters", "unused import", "F401", _write(_TEST, "import os\n")),
    Case(
        "linters",
        "other version of ruff before commits",
        ".pre-commit-config.yaml does not name ruff==",
        _replace(".pre-commit-config.yaml", "[ruff==", "[ruff==0."),
    ),
    Case("linters", "format", "would be reformatted", _write(_TEST, "answer  =  42\n")),
    Case("linters", "type in a test", "[assignment]", _write(_TEST, 'answer: int = "42"\n')),
    Case(
        "linters",
        "type in .ci",
        ".ci/lowest.py:",
        _replace(".ci/lowest.py", "import sys\n", "import sys\n\nanswer: int = sys.argv\n"),
    ),
    Case(
        "package",
        "file missing in the wheel",
        "missing files ['codex_otel_logging/logging.ini']",
        _configure("options.package_data", codex_otel_logging="docs/*.md, py.typed"),
    ),
    Case(
        "package",
        "file missing in the sdist",
        "missing files ['logging.ini'",
        _write("setup.py", "from setuptools import setup\n\nsetup()\n"),
    ),
    Case("package", "test of the sdist", "1 failed", _FAILING),
    Case("package", "version", "AssertionError: 0+unknown", _WRONG_VERSION),
    Case("package", "build", "broken setup.py", _BROKEN_BUILD),
    Case("package", "command of an installation", "broken command", _BROKEN_COMMAND),
    Case("package", "fixture of an installation", "broken plugin", _BROKEN_PLUGIN),
    Case("matrix", "no fault", "== all passed on"),
    Case("matrix", "failing test", "== at least one check failed", _FAILING),
    Case(
        "matrix",
        "Python that cannot be fetched",
        "Python 3.99 skipped: ",
        _replace(".ci/run", "TO_FETCH='", "TO_FETCH='3.99 "),
        passes=True,
    ),
]


def main(checks: list[str]) -> int:
    """Run the cases of the given checks, or all cases; return the exit status."""
    unknown = set(checks) - {case.check for case in CASES}
    if unknown:
        sys.exit(f"unknown checks: {', '.join(sorted(unknown))}")
    cases = [case for case in CASES if not checks or case.check in checks]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        noticed = sum(pool.map(_prove, cases))
    print(f"{noticed} of {len(cases)} as expected")
    return int(noticed < len(cases))


def _prove(case: Case) -> bool:
    """Run the check of a case in a copy; return, and print, whether the result is as expected."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        _copy_reduced(copy, case.check)
        if case.change is not None:
            case.change(copy)
        done = subprocess.run(
            [copy / ".ci" / "run", *([] if case.check == "matrix" else [case.check])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
        )
    passed = done.returncode == 0
    must_pass = case.passes or case.change is None
    expected = passed == must_pass and case.reason in done.stdout
    outcome = "passes" if passed else "fails"
    print(f"{'ok' if expected else 'WRONG':5}  {case.check}, {case.fault}: {outcome}", flush=True)
    if not expected:
        print(f"no {case.reason!r} in:" if case.reason not in done.stdout else "", done.stdout)
    return expected


def _copy_reduced(copy: Path, check: str) -> None:
    """Copy the repository with a single test and only the dependencies that `check` needs."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listing.stdout.rstrip("\0").split("\0"):
        if not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, copy / name)
    (copy / _TEST).parent.mkdir(parents=True)
    (copy / _TEST).write_text("def test_passes() -> None:\n    assert True\n")
    # `.ci/run` copies what git lists.
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    # mypy would take most of the time, on sources that no case of `linters` changes.
    _configure("mypy", files=".ci, tests")(copy)
    if check == "package":  # runs commands that need the other extras
        _configure(_EXTRAS, test="codex_otel_logging[cli]\npytest>=8.1,<10")(copy)
    else:
        _configure(_EXTRAS, http="", grpc="", cli="", test="pytest>=8.1,<10")(copy)
    if check == "runtimes":
        _configure(_EXTRAS, **{"test-runtimes": "pytest>=8.1,<10"})(copy)
        _replace(".ci/run", "RUNTIME_TESTS='\n", f"RUNTIME_TESTS='{_TEST}'\nUNUSED='\n")(copy)
    if check == "matrix":
        _replace(".ci/run", "MATRIX='\n", "MATRIX='\nlatest newest\n'\nUNUSED='\n")(copy)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
