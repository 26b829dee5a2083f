"""What all events of a handler have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..config.otel_config import ResourceValue
from ..values import AttributeValue


class SharedAttributes(NamedTuple):
    """Attributes of the resource, and default attributes of every event."""

    resource: Mapping[str, ResourceValue]
    defaults: Mapping[str, AttributeValue]
