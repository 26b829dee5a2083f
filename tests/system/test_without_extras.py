"""The package without extras: an environment with only the package and, if needed, tomli."""

from __future__ import annotations

import sys

import pytest

import codex_otel_logging
from support.environments import make_environment
from support.fixtures import RunPython
from support.paths import read_program

PROGRAM = read_program("core_only")

NOTHING = str(codex_otel_logging.Stats())


@pytest.fixture(scope="module")
def core_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with only the package and its requirements."""
    return str(make_environment(tmp_path_factory.mktemp("core")))


def run_core(run_python: RunPython, core_python: str, handler: str) -> tuple[list[str], str]:
    done = run_python(PROGRAM, handler, python=core_python, PYTHONPATH="")
    return done.stdout.splitlines(), done.stderr


def test_environment_lacks_opentelemetry(run_python: RunPython, core_python: str) -> None:
    done = run_python("import opentelemetry", python=core_python, PYTHONPATH="")
    assert "No module named 'opentelemetry'" in done.stderr


def test_exporter_none_needs_no_extra_and_does_nothing(
    run_python: RunPython, core_python: str
) -> None:
    lines, errors = run_core(run_python, core_python, '{"otel": {}}')
    assert errors == ""
    assert lines == [f"True {NOTHING} 1", "runs on", "[]"]


@pytest.mark.parametrize(
    ("exporter", "extra"),
    [
        ('"otlp-http"', "http"),
        ('{"otlp-http": {"endpoint": "http://127.0.0.1:9/v1/logs"}}', "http"),
        ('{"otlp-http": {"endpoint": "http://127.0.0.1:9/", "protocol": "json"}}', "json"),
        ('{"otlp-grpc": {"endpoint": "http://127.0.0.1:9"}}', "grpc"),
    ],
)
def test_missing_exporter_is_one_warning_and_the_application_runs_on(
    run_python: RunPython, core_python: str, exporter: str, extra: str
) -> None:
    lines, errors = run_core(run_python, core_python, f'{{"otel": {{"exporter": {exporter}}}}}')
    (warning,) = errors.splitlines()  # logging is not configured yet: it goes to standard error
    assert "needs an extra package: pip install" in warning
    assert f"'codex_otel_logging[{extra}]'" in warning
    assert lines == [f"True {NOTHING} 1", "runs on", "[]"]


def test_missing_exporter_is_an_error_with_strict(run_python: RunPython, core_python: str) -> None:
    handler = '{"otel": {"exporter": "otlp-grpc"}, "strict": true}'
    _, errors = run_core(run_python, core_python, handler)
    assert (
        "codex_otel_logging.ConfigError: exporter 'otlp-grpc' needs an extra package: "
        "pip install 'codex_otel_logging[grpc]'"
    ) in errors


@pytest.mark.parametrize("command", ["demo", "listen"])
def test_demo_and_listen_name_the_extra_they_need(
    run_python: RunPython, core_python: str, command: str
) -> None:
    program = "import sys; from codex_otel_logging.__main__ import main; sys.exit(main())"
    done = run_python(program, command, python=core_python, PYTHONPATH="")
    assert done.returncode == 1
    assert done.stderr == (
        "the receiver needs an extra package: pip install 'codex_otel_logging[otel]'\n"
    )


def test_check_names_the_extra_it_needs(run_python: RunPython, core_python: str) -> None:
    program = """
import sys
from pathlib import Path
from codex_otel_logging.__main__ import main
Path("otel.toml").write_text('[otel]\\nexporter = "otlp-http"')
sys.exit(10 * main(["check", "otel.toml"]) + main(["check", "otel.toml", "--send"]))
"""
    done = run_python(program, python=core_python, PYTHONPATH="")
    assert done.returncode == 11
    assert (
        "Nothing is sent: exporter 'otlp-http' needs an extra package: pip install" in done.stdout
    )
    assert done.stderr == ""


def test_catalog_needs_no_extra(run_python: RunPython, core_python: str) -> None:
    program = "from codex_otel_logging.__main__ import main; main(['catalog'])"
    done = run_python(program, python=core_python, PYTHONPATH="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == codex_otel_logging.catalog.markdown()


@pytest.mark.parametrize(
    "program",
    [
        "import codex_otel_logging; help(codex_otel_logging)",
        "import codex_otel_logging; help(codex_otel_logging.Receiver)",
        "from codex_otel_logging import *; print(CodexOtelHandler, Receiver)",
        "import codex_otel_logging, inspect; print(inspect.getmembers(codex_otel_logging))",
    ],
    ids=["help", "help of the receiver", "star import", "getmembers"],
)
def test_public_names_can_be_imported_and_inspected(
    run_python: RunPython, core_python: str, program: str
) -> None:
    """Only building a `Receiver` needs an extra, not importing it."""
    done = run_python(program, python=core_python, PYTHONPATH="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Receiver" in done.stdout


def test_building_a_receiver_names_the_extra_it_needs(
    run_python: RunPython, core_python: str
) -> None:
    program = "from codex_otel_logging import Receiver; Receiver()"
    done = run_python(program, python=core_python, PYTHONPATH="")
    assert done.stderr.endswith(
        "ImportError: the receiver needs an extra package: pip install 'codex_otel_logging[otel]'\n"
    )


def test_building_a_handler_imports_no_exporter_even_if_installed(
    run_python: RunPython,
) -> None:
    program = """
import sys, threading
import codex_otel_logging
handler = codex_otel_logging.from_table({"exporter": "otlp-http"})
heavy = ("opentelemetry", "requests", "urllib3", "grpc", "google", "asyncio", "http", "ssl")
print([name for name in heavy if name in sys.modules], threading.active_count())
"""
    assert run_python(program).stdout == "[] 1\n"


def test_python_version_is_supported() -> None:
    assert sys.version_info >= (3, 10)
