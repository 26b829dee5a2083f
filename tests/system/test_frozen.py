"""Applications packed into one file or folder: by PyInstaller, zipapp or pex."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipapp
from pathlib import Path

import pytest

from codex_otel_logging import Receiver
from support.environments import make_environment
from support.paths import PROGRAMS, ROOT

pytestmark = pytest.mark.processes

PROGRAM = PROGRAMS / "frozen_application.py"
OTLP = (
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-json-http",
)
TOML = () if sys.version_info >= (3, 15) else ("tomli",)
DATA = "".join(
    f"{(ROOT / 'codex_otel_logging' / name).stat().st_size}\n"
    for name in ("logging.ini", "cli/session.jsonl")
)


def run(*command: str | Path, folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a program in another folder, so that it cannot import the sources."""
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )


def assert_exports(application: tuple[str | Path, ...], name: str, protocol: str) -> None:
    if protocol == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    with Receiver() as receiver:
        if name == "otlp-grpc":
            exporter = {name: {"endpoint": receiver.grpc_endpoint}}
        else:
            exporter = {name: {"endpoint": receiver.http_endpoint, "protocol": protocol}}
        done = run(
            *application, json.dumps(exporter), folder=Path(application[-1]).parent, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, DATA, "")
        (event,) = receiver.events
    assert event.attributes["duration_ms"] == 1


def transports(*names: str) -> pytest.MarkDecorator:
    every = {
        "http": ("otlp-http", "binary"),
        "json": ("otlp-http", "json"),
        "grpc": ("otlp-grpc", "binary"),
    }
    return pytest.mark.parametrize(("name", "protocol"), [every[n] for n in names], ids=names)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the package, the exporters and PyInstaller."""
    pytest.importorskip("PyInstaller")
    return make_environment(tmp_path_factory.mktemp("venv"), *OTLP, "pyinstaller")


@pytest.fixture(scope="module")
def frozen(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application frozen by PyInstaller without options: the package brings its own hook."""
    folder = tmp_path_factory.mktemp("frozen")
    shutil.copy(PROGRAM, folder / "app.py")
    done = run(environment, "-m", "PyInstaller", "app.py", folder=folder, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / "app" / "app"


@transports("http", "json", "grpc")
def test_application_frozen_without_options_exports(frozen: Path, name: str, protocol: str) -> None:
    assert_exports((frozen,), name, protocol)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An empty environment's interpreter, and an application that zipapp packed for it."""
    folder = tmp_path_factory.mktemp("zipapp")
    make_environment(folder / "packages", *OTLP)
    (packages,) = (folder / "packages").glob("lib/python*/site-packages")
    shutil.copy(PROGRAM, packages / "__main__.py")
    zipapp.create_archive(packages, folder / "app.pyz")
    venv.create(folder / "empty", symlinks=True)
    return folder / "empty" / "bin" / "python", folder / "app.pyz"


@transports("http", "json")
def test_application_in_a_zip_archive_exports(
    archive: tuple[Path, Path], name: str, protocol: str
) -> None:
    assert_exports(archive, name, protocol)


def test_application_in_a_zip_archive_reports_that_it_cannot_export_over_grpc(
    archive: tuple[Path, Path],
) -> None:
    """Python cannot import extension modules from an archive, and grpc is one."""
    exporter = '{"otlp-grpc": {"endpoint": "http://127.0.0.1:9"}}'
    done = run(*archive, exporter, folder=archive[1].parent, timeout=60)
    assert (done.returncode, done.stdout) == (0, DATA)
    (left,) = done.stderr.splitlines()
    assert "exporter 'otlp-grpc' cannot be imported (ImportError: " in left


@pytest.fixture(scope="module")
def pex(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An empty environment's interpreter, and an application that pex packed for it."""
    pytest.importorskip("pex")
    folder = tmp_path_factory.mktemp("pex")
    python = make_environment(folder / "venv", *OTLP, "pex")
    sources = folder / "sources"
    sources.mkdir()
    shutil.copy(PROGRAM, sources / "app.py")
    options = ("--pre", "--venv-repository", folder / "venv", "--output-file", folder / "app.pex")
    package = f"codex_otel_logging@{ROOT}"
    command = (python, "-m", "pex", *options, "-D", sources, "-P", package, "-m", "app")
    done = run(*command, *OTLP, *TOML, folder=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    venv.create(folder / "empty", symlinks=True)
    return folder / "empty" / "bin" / "python", folder / "app.pex"


@transports("http", "json", "grpc")
def test_application_made_by_pex_exports(pex: tuple[Path, Path], name: str, protocol: str) -> None:
    assert_exports(pex, name, protocol)
