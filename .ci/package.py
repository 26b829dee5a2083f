"""Checks the sdist and the wheel in a folder: their contents, and that they work when installed.

Usage: python .ci/package.py FOLDER
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

_METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
_EGG_INFO = {
    "PKG-INFO",
    "SOURCES.txt",
    "dependency_links.txt",
    "entry_points.txt",
    "requires.txt",
    "top_level.txt",
}
_SOURCES = {"PKG-INFO", "README.md", "logging.ini", "setup.cfg", "setup.py"}
_USER_TEST = "def test(codex_otel_events): assert codex_otel_events == []\n"
_OWN_TESTS = "test_packaging or test_fileconfig"
"""Tests of a few seconds that need files outside `tests` and run a separate process."""


def main(dist: Path) -> None:
    """Check both archives in `dist`; exit with a message at the first fault."""
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    package = _files_in("codex_otel_logging")
    with zipfile.ZipFile(wheel) as unzipped:
        found = set(unzipped.namelist())
    about = wheel.name.rpartition("-py3")[0] + ".dist-info/"
    _compare(wheel, found, package | {about + name for name in _METADATA})
    with tarfile.open(sdist) as untarred:
        found = {member.name.partition("/")[2] for member in untarred if member.isfile()}
    about = "codex_otel_logging.egg-info/"
    expected = package | _files_in("tests") | _SOURCES | {about + name for name in _EGG_INFO}
    _compare(sdist, found, expected)
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as folder:
        _use(_install(f"{wheel}[cli]", "pytest", folder=Path(folder)), version, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        python = _install(f"{sdist}[test]", folder=Path(folder))
        _use(python, version, Path(folder))
        _test(python, sdist, Path(folder))
    print(f"{wheel.name} and {sdist.name} have the expected contents and work")


def _files_in(folder: str) -> set[str]:
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in files if path.suffix != ".pyc"}


def _compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        unexpected, missing = sorted(found - expected), sorted(expected - found)
        sys.exit(f"{archive.name}: unexpected files {unexpected}, missing files {missing}")


def _install(*requirements: str, folder: Path) -> Path:
    """Install the requirements into a new virtual environment; return its interpreter."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", *requirements, folder=folder)
    return python


def _use(python: Path, version: str, folder: Path) -> None:
    """Compare the version, run a command and the pytest fixture, all outside the repository."""
    check = f"import codex_otel_logging as c; assert c.__version__ == {version!r}, c.__version__"
    _run(python, "-c", check, folder=folder)
    _run(python, "-m", "codex_otel_logging", "demo", folder=folder)
    (folder / "test_app.py").write_text(_USER_TEST)
    _run(python, "-W", "error", "-m", "pytest", "--quiet", "test_app.py", folder=folder)


def _test(python: Path, sdist: Path, folder: Path) -> None:
    """Collect all tests of the unpacked sdist, and run a few of them."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    _run(python, "-m", "pytest", "--quiet", "-k", _OWN_TESTS, folder=unpacked)


def _run(*command: str | Path, folder: Path) -> None:
    # A new environment: PYTHONPATH or a pip configuration could make a broken archive work.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}exit status {done.returncode}: {shlex.join(map(str, command))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
