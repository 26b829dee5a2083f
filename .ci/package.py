"""Checks the sdist and the wheel in a folder: their contents, and that they work elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

_METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
_SOURCES = {"PKG-INFO", "README.md", "setup.cfg", "setup.py"}
_USER_TEST = "def test(codex_otel_events): assert codex_otel_events == []\n"


def main(dist: Path) -> None:
    """Check both archives in `dist`; exit with a message at the first fault."""
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    package = _files_in(Path("codex_otel_logging"))
    about = wheel.name.rpartition("-py3")[0] + ".dist-info/"
    with zipfile.ZipFile(wheel) as unzipped:
        found = set(unzipped.namelist())
    _compare(wheel, found, package | {about + name for name in _METADATA})
    with tarfile.open(sdist) as untarred:
        found = {member.name.partition("/")[2] for member in untarred if member.isfile()}
    found = {name for name in found if ".egg-info/" not in name and not name.startswith("tests/")}
    _compare(sdist, found, package | _SOURCES)
    for archive in (wheel, sdist):
        with tempfile.TemporaryDirectory() as folder:
            _install_and_use(archive, Path(folder))
    print(f"{wheel.name} and {sdist.name} hold what they should, and work")


def _files_in(folder: Path) -> set[str]:
    return {
        path.as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }


def _compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        unexpected, missing = sorted(found - expected), sorted(expected - found)
        sys.exit(f"{archive.name}: unexpected files {unexpected}, missing files {missing}")


def _install_and_use(archive: Path, folder: Path) -> None:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", f"{archive}[cli]", "pytest", folder=folder)
    _run(python, "-m", "codex_otel_logging", "demo", folder=folder)
    test = folder / "test_app.py"
    test.write_text(_USER_TEST)
    _run(python, "-W", "error", "-m", "pytest", "--quiet", test, folder=folder)


def _run(*command: str | Path, folder: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    subprocess.run(command, cwd=folder, check=True, env=environment)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
