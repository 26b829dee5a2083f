"""The pytest fixture `codex_otel_events`: the events a test's application logs.

pytest loads this module in every session of every project that has the package, so it imports
nothing before the fixture is used. It needs no network, and nothing of OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .capture import CapturedEvents


@pytest.fixture
def codex_otel_events() -> Iterator[CapturedEvents]:
    """Events logged under `codex_otel` during the test, in order; nothing is sent meanwhile.

    Each has `name`, `attributes`, `logger` and `level`. The list also has `names`, `named(name)`,
    `problems` (what the catalog finds wrong with them) and `ignored` (records that are no events).
    """
    from .capture import capture_events

    with capture_events() as events:
        yield events
