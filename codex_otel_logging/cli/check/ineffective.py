"""Environment variables that look as if they mattered, and why they do not.

Only names are shown, never values: `OTEL_EXPORTER_OTLP_HEADERS` holds secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ...config.otel_config import OtelConfig
from ...config.settings import BatchConfig, keys_of
from .effective import Setting

_OF_EXPORTERS = "OTEL_EXPORTER_OTLP_"
_OF_LOGS = f"{_OF_EXPORTERS}LOGS_"
_OF_OTHER_SIGNALS = tuple(
    f"{_OF_EXPORTERS}{signal}_" for signal in ("TRACES", "METRICS", "PROFILES")
)

_NEVER_READ = {
    "OTEL_LOGS_EXPORTER": "the setting exporter decides",
    f"{_OF_EXPORTERS}PROTOCOL": "the setting exporter decides",
    f"{_OF_LOGS}PROTOCOL": "the setting exporter decides",
    "OTEL_BLRP_EXPORT_TIMEOUT": "timeout_ms of the exporter decides",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "the setting max_attribute_length decides",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "the setting max_attribute_length decides",
}

_FOR_SETTINGS = {
    "OTEL_SERVICE_NAME": "service_name in the file decides",
    "OTEL_RESOURCE_ATTRIBUTES": "service_name, environment and resource_attributes decide",
    **{
        key.variable: f"batch.{each.name} in the file decides" for each, key in keys_of(BatchConfig)
    },
}


def ineffective_variables(config: OtelConfig, settings: Iterable[Setting]) -> Mapping[str, str]:
    """Return the variables that are set and decide nothing, each with the reason.

    Args:
        config: the settings.
        settings: the same, with the variables that decided.

    """
    effective = {name for setting in settings for name in setting.variables}
    found = {}
    for name, value in sorted(os.environ.items()):
        warned = any(re.search(rf"\b{name}\b", warning) for warning in config.warnings)
        if name not in effective and value.strip() and not warned:
            reason = _reason(name, value, config)
            if reason:
                found[name] = reason
    return found


def _reason(name: str, value: str, config: OtelConfig) -> str | None:
    if name == "OTEL_SDK_DISABLED":
        known = value.strip().lower() in ("true", "false")
        return None if known else "only the value true turns everything off"
    if name in _NEVER_READ:
        return _NEVER_READ[name]
    of_exporters = name.startswith(_OF_EXPORTERS) and not name.startswith(_OF_OTHER_SIGNALS)
    if not of_exporters and name not in _FOR_SETTINGS:
        return None
    if config.exporter is None:
        return "exporter is none"
    if not of_exporters:
        return _FOR_SETTINGS[name]
    if config.exporter.written_endpoint is not None:
        return "the exporter's table decides"
    specific = name.replace(_OF_EXPORTERS, _OF_LOGS)
    if os.environ.get(specific) and specific != name:
        return f"{specific} decides"
    return f"{config.exporter.name} makes no use of it here"
