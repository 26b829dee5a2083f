"""The exporters' libraries write nothing to the application's handlers or to stderr."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver, diagnostics
from codex_otel_logging.otlp import noise
from support.collectors import over_grpc, over_http
from support.paths import PROGRAMS, ROOT

PROGRAM = PROGRAMS / "quiet_application.py"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `quiet_application.py`, without the warning filters of this test run."""

    def run(exporter: Any, *modules: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(PROGRAM), json.dumps(exporter), *modules],
            cwd=tmp_path,
            env={
                "PATH": os.defpath,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def exporters(receiver: Receiver) -> dict[str, Any]:
    """Return the `exporter` setting of each transport."""
    return {
        "binary": over_http(receiver),
        "json": {"otlp-http": {"endpoint": receiver.http_endpoint, "protocol": "json"}},
        "grpc": over_grpc(receiver),
    }


@pytest.mark.parametrize("transport", ["binary", "json", "grpc"])
@pytest.mark.parametrize(
    ("modules", "environment"),
    [
        ((), {}),
        ((), {"OTEL_RESOURCE_ATTRIBUTES": "team=a,"}),
        ((), {"OTEL_RESOURCE_ATTRIBUTES": "team"}),
        ((), {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "gcp"}),
        ((), {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer s3cr3t"}),
        ((), {"OTEL_PYTHON_CONTEXT": "absent"}),
        (("opentelemetry.sdk.resources",), {"OTEL_RESOURCE_ATTRIBUTES": "team=a,"}),
        (("opentelemetry.sdk.resources",), {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "gcp"}),
    ],
    ids=str,
)
def test_import_and_export_write_nothing(
    run: Run,
    receiver: Receiver,
    transport: str,
    modules: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    if transport == "json":
        pytest.importorskip("opentelemetry.exporter.otlp.json.http")
    done = run(exporters(receiver)[transport], *modules, **environment)
    assert done.stdout.splitlines() == ["exported 1"]
    assert done.stderr == ""


def test_warnings_of_the_import_are_not_shown(run: Run, receiver: Receiver, tmp_path: Path) -> None:
    """Importing requests warns about versions of chardet that it does not know."""
    (tmp_path / "chardet.py").write_text('__version__ = "99.0.0"')
    done = run(exporters(receiver)["binary"])
    assert done.stdout.splitlines() == ["exported 1"]
    assert done.stderr == ""


@pytest.mark.parametrize("endpoint", ["http://collector.invalid:4317", "https://127.0.0.1:9"])
@pytest.mark.parametrize("proxy", ["", "https://127.0.0.1:9", "http://127.0.0.1:9"])
def test_grpc_core_writes_nothing_during_an_outage(run: Run, endpoint: str, proxy: str) -> None:
    variables = {"http_proxy": proxy, "https_proxy": proxy} if proxy else {}
    done = run({"otlp-grpc": {"endpoint": endpoint}}, **variables)
    assert done.stdout.splitlines() == ["exported 0"]
    assert done.stderr == ""


def test_grpc_core_honors_the_applications_verbosity(run: Run) -> None:
    endpoint = "http://collector.invalid:4317"
    variables = {"http_proxy": "https://127.0.0.1:9", "GRPC_VERBOSITY": "ERROR"}
    done = run({"otlp-grpc": {"endpoint": endpoint}}, **variables)
    assert "scheme not supported in proxy URI" in done.stderr


class Records(logging.Handler):
    """Collects the messages that reach the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def root() -> Iterator[Records]:
    handler = Records()
    logging.root.addHandler(handler)
    yield handler
    logging.root.removeHandler(handler)


def in_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)


class TestQuietImport:
    def test_logger_created_during_the_import_is_silent_on_this_thread_only(
        self, root: Records
    ) -> None:
        with noise.quiet_import():
            logger = logging.getLogger("test_noise.created_inside")
            logger.error("own")
            in_thread(lambda: logger.error("the application's"))
        logger.error("later")
        assert root.messages == ["the application's", "later"]

    def test_logger_that_another_thread_creates_is_not_filtered(self, root: Records) -> None:
        with noise.quiet_import():
            in_thread(lambda: logging.getLogger("test_noise.others").error("one"))
        assert logging.getLogger("test_noise.others").filters == []
        assert root.messages == ["one"]

    def test_logger_class_of_the_application_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own(logging.Logger):
            pass

        before = logging.getLoggerClass()
        with noise.quiet_import():
            pass
        logging.setLoggerClass(Own)
        try:
            assert type(logging.getLogger("test_noise.own_class")) is Own
            with noise.quiet_import():
                assert type(logging.getLogger("test_noise.own_class_2")) is Own
        finally:
            logging.setLoggerClass(before)
        assert type(logging.getLogger("test_noise.usual_class")) is before

    def test_second_import_installs_no_second_hook(self) -> None:
        with noise.quiet_import():
            hook = logging.root.manager.loggerClass
        with noise.quiet_import():
            assert logging.root.manager.loggerClass is hook

    def test_warnings_of_other_threads_are_shown(self) -> None:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            with noise.quiet_import():
                warnings.warn("own", UserWarning, stacklevel=1)
                in_thread(lambda: warnings.warn("other's", UserWarning, stacklevel=1))
            warnings.warn("later", UserWarning, stacklevel=1)
        assert [str(each.message) for each in shown] == ["other's", "later"]

    def test_showwarning_replaced_meanwhile_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: list[str] = []

        def show(message: Any, *_: Any) -> None:
            shown.append(str(message))

        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restores it
        with noise.quiet_import():
            warnings.showwarning = show  # type: ignore[assignment]
        assert warnings.showwarning is show

    def test_suppression_can_be_nested(self) -> None:
        with diagnostics.suppress_own_records():
            with diagnostics.suppress_own_records():
                assert diagnostics.is_own_export()
            assert diagnostics.is_own_export()
        assert not diagnostics.is_own_export()
