"""Finds OpenTelemetry environment variables that are set and have no effect, and says why.

Only names are reported, never values: `OTEL_EXPORTER_OTLP_HEADERS` holds secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ...config import environment
from ...config.otel_config import OtelConfig
from ...config.settings import BatchConfig, keys_of
from .effective import Setting

_FOR_SETTINGS = {
    environment.SERVICE_NAME: "service_name in the file takes precedence",
    environment.RESOURCE_ATTRIBUTES: "service_name, environment and resource_attributes take "
    "precedence",
    **{
        key.variable: f"batch.{each.name} in the file takes precedence"
        for each, key in keys_of(BatchConfig)
    },
}
"""The variables that are read for a setting, and why one of them may have no effect."""


def ineffective_variables(config: OtelConfig, settings: Iterable[Setting]) -> Mapping[str, str]:
    """Return the variables that are set but have no effect, each with the reason.

    Args:
        config: the settings.
        settings: the same settings, with the variables that set them.

    """
    effective = {name for setting in settings for name in setting.variables}
    found = {}
    for name, value in sorted(os.environ.items()):
        # An invalid value is already named in a warning.
        warned = any(re.search(rf"\b{name}\b", warning) for warning in config.warnings)
        # An empty variable counts as unset:
        # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
        if name not in effective and value.strip() and not warned:
            reason = _reason(name, value, config)
            if reason:
                found[name] = reason
    return found


def _reason(name: str, value: str, config: OtelConfig) -> str | None:
    if name == environment.SDK_DISABLED:
        known = value.strip().lower() in ("true", "false")
        return None if known else "only the value true has an effect"
    if name in environment.NEVER_READ:
        return environment.NEVER_READ[name]
    # OTEL_EXPORTER_OTLP_* without those for other signals, which this package never reads.
    of_exporters = name.startswith(environment.EXPORTER_PREFIX) and not name.startswith(
        environment.OTHER_PREFIXES
    )
    if not of_exporters and name not in _FOR_SETTINGS:
        return None
    if config.exporter is None:
        return "exporter is none"
    if not of_exporters:
        return _FOR_SETTINGS[name]
    if not config.exporter.is_bare:
        return "the exporter's table takes precedence"
    specific = name.replace(environment.EXPORTER_PREFIX, environment.LOGS_PREFIX)
    if os.environ.get(specific) and specific != name:
        return f"{specific} takes precedence"
    return f"{config.exporter.name} does not use it"
