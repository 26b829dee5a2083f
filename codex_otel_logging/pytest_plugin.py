"""The pytest fixture `codex_otel_events`, which captures the events that a test logs.

pytest loads this module in every session of every project that has the package installed, so it
imports nothing else before the fixture is used. The fixture needs neither network nor
OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import CapturedEvents

_AUTOUSE_OPTION = "codex_otel_events_autouse"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option `codex_otel_events_autouse`."""
    text = "capture the events of every test, so that no test exports any (default: false)"
    parser.addini(_AUTOUSE_OPTION, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the autouse fixture only if the option is set, so that no other test pays for it."""
    if config.getini(_AUTOUSE_OPTION):
        config.pluginmanager.register(_Autouse())


class _Autouse:
    @pytest.fixture(autouse=True)
    def _codex_otel_events_autouse(self, codex_otel_events: CapturedEvents) -> None:
        """Use `codex_otel_events` in every test."""


@pytest.fixture
def codex_otel_events() -> Iterator[CapturedEvents]:
    """Capture the events that the test logs under `codex_otel`; none of them is exported.

    The list is in order. Each event has `name`, `attributes`, `logger` and `level`. The list also
    has `names`, `named(name)`, `problems` (faults of the events) and `ignored` (records that are
    not events).

    A test without this fixture exports its events as the application does. The ini option
    `codex_otel_events_autouse = true` adds it to every test.
    """
    from .testing import capture_events

    with capture_events() as events:
        yield events
