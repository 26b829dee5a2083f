"""The settings in effect and the source of each: the file, an environment variable, a default.

A `Setting` holds no secrets: neither header values nor the values of `${NAME}` references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...config.exporter_table import EXPORTERS
from ...config.otel_config import SET_ELSEWHERE, OtelConfig
from ...config.settings import BatchConfig, ExporterConfig, SpoolConfig, TlsConfig, keys_of
from ...config.tables import variables_in
from ...otlp.masking import MASK


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in effect: its key, its value as it may be printed, and its source.

    `variables` are the environment variables that set it, or that the file refers to as `${NAME}`.
    """

    key: str
    value: Any
    source: Literal["file", "environment", "default"]
    variables: tuple[str, ...] = ()


def settings(config: OtelConfig, otel: Mapping[str, Any]) -> list[Setting]:
    """Return all settings of `config`, which was parsed from the table `otel`."""
    return [
        *_general(config, otel),
        *_exporter(config, otel),
        *_batch(config, otel),
        *_spool(config, otel),
    ]


def _general(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    for field, key in keys_of(OtelConfig):
        table, _, name = (key.name or field.name).rpartition(".")
        if field.name not in ("exporter", "batch", "spool", "resource_attributes"):
            written = otel.get(table, {}) if table else otel
            yield _from(config, written, key.name or field.name, getattr(config, field.name), name)
    written = otel.get("resource_attributes", {})
    for name, value in config.resource_attributes.items():
        # `env` and `service.name` are settings of their own, listed above.
        if name in written or name not in SET_ELSEWHERE:
            yield _from(config, written, f"resource_attributes.{name}", value, name)


def _batch(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    for field, _ in keys_of(BatchConfig):
        value = getattr(config.batch, field.name)
        yield _from(config, otel.get("batch", {}), f"batch.{field.name}", value, field.name)


def _spool(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the settings of the spool, with the path as written in the file."""
    if config.spool is not None:
        table = otel["spool"]
        for field, _ in keys_of(SpoolConfig):
            value = table.get(field.name, getattr(config.spool, field.name))
            yield _from(config, table, f"spool.{field.name}", value, field.name)


def _exporter(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the exporter's settings, with paths and endpoint as written in the file."""
    exporter = config.exporter
    name = EXPORTERS[0] if exporter is None else exporter.name
    yield Setting("exporter", name, "file" if "exporter" in otel else "default")
    if exporter is None:
        return
    # A bare name, exporter = "otlp-http", takes everything from OTEL_* variables and defaults.
    is_table = isinstance(otel["exporter"], Mapping)
    table = otel["exporter"][exporter.name] if is_table else {}
    for field, key in keys_of(ExporterConfig):
        # The endpoint without credentials and query, and with `${NAME}` as written.
        if key.exporter in (None, exporter.name) and field.name not in ("headers", "tls"):
            attribute = "safe_endpoint" if field.name == "endpoint" else field.name
            value = getattr(exporter, attribute)
            yield _from(config, table, f"exporter.{field.name}", value, field.name)
    headers = table.get("headers", {})
    # Even their lengths stay hidden: MASK is the same for all values.
    for name in headers if is_table else exporter.headers:
        yield _from(config, headers, f"exporter.headers.{name}", MASK, name)
    paths = table.get("tls", {})
    for field, key in keys_of(TlsConfig):
        path = paths.get(key.name) or getattr(exporter.tls, field.name, None)
        if path:
            yield _from(config, paths, f"exporter.tls.{key.name}", path, key.name)


def _from(config: OtelConfig, table: Mapping[str, Any], key: str, value: Any, name: str) -> Setting:
    """Return a setting with its source: the table, or the variables that set it, or the default."""
    if name in table:
        # Only strings can refer to variables.
        text = table[name] if isinstance(table[name], str) else ""
        return Setting(key, value, "file", tuple(dict.fromkeys(variables_in(text))))
    variables = config.variables.get(key, ())
    return Setting(key, value, "environment" if variables else "default", variables)
