"""The pytest fixture `codex_otel_events`: the events a test's application logs.

pytest loads this module in every session of every project that has the package, so it imports
nothing before the fixture is used. It needs no network, and nothing of OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import CapturedEvents

_AUTOUSE = "codex_otel_events_autouse"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option `codex_otel_events_autouse`."""
    text = "capture the events of every test, so that no test exports any (default: false)"
    parser.addini(_AUTOUSE, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the autouse fixture where the option asks for it; elsewhere no test pays for it."""
    if config.getini(_AUTOUSE):
        config.pluginmanager.register(_Autouse())


class _Autouse:
    @pytest.fixture(autouse=True)
    def _codex_otel_events_autouse(self, codex_otel_events: CapturedEvents) -> None:
        """Use `codex_otel_events` in every test."""


@pytest.fixture
def codex_otel_events() -> Iterator[CapturedEvents]:
    """Events logged under `codex_otel` during the test, in order; nothing is exported meanwhile.

    A test without this fixture exports as the application does. With the ini option
    `codex_otel_events_autouse = true`, every test has it.

    Each has `name`, `attributes`, `logger` and `level`. The list also has `names`, `named(name)`,
    `problems` (what the catalog finds wrong with them) and `ignored` (records that are no events).
    """
    from .testing import capture_events

    with capture_events() as events:
        yield events
