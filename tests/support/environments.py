"""Virtual environments built from the installed packages, without a package index."""

from __future__ import annotations

import configparser
import shutil
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from support.paths import ROOT

_PACKAGE = "codex_otel_logging"


def make_environment(folder: Path, *requirements: str) -> Path:
    """Create an environment with this package and `requirements`; return its interpreter.

    The package is the one under test, with its entry points. Dependencies are included, as far as
    they are installed here.
    """
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / _PACKAGE, site_packages / _PACKAGE, ignore=ignore)
    write_metadata(site_packages)
    required = _setup()["options"]["install_requires"].split("\n")
    for distribution in _required([*filter(None, required), *requirements]).values():
        for file in distribution.files or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.suffix != ".pyc" and source.exists():
                target = site_packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    return folder / "bin" / "python"


def write_metadata(folder: Path) -> None:
    """Write the metadata of an installed distribution of this package, with its entry points."""
    about = folder / f"{_PACKAGE}-1.dist-info"
    about.mkdir()
    (about / "RECORD").write_text(f"{_PACKAGE}/__init__.py,,\n")
    (about / "METADATA").write_text(f"Name: {_PACKAGE}\nVersion: 1\n")
    groups = _setup()["options.entry_points"].items()
    text = "".join(f"[{group}]{entries}\n" for group, entries in groups)
    (about / "entry_points.txt").write_text(text)


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser(delimiters="=")
    setup.read(ROOT / "setup.cfg")
    return setup


def _required(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Return the installed distributions for `requirements` and their dependencies, by name."""
    found: dict[str, metadata.Distribution] = {}
    pending = [Requirement(each) for each in requirements]
    while pending:
        requirement = pending.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in found or not _applies(requirement):
            continue
        try:
            found[name] = distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for text in distribution.requires or ():
            inner = Requirement(text)
            if _applies(inner, requirement.extras):
                inner.marker = None
                pending.append(inner)
    return found


def _applies(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": each}) for each in (*extras, ""))
