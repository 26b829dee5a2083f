"""The settings as they take effect, and where each came from: the file, a variable, a default.

For an exporter that is a bare name the standard `OTEL_EXPORTER_OTLP_*` variables decide, as the
official exporters read them: https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
Nothing that may be secret is in a `Setting`: no header's value, nothing that `${NAME}` was
replaced by.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit

from ..config import EXPORTERS, SERVICE_NAME_VARIABLE, SET_ELSEWHERE, OtelConfig
from ..settings import BatchConfig, Compression, ExporterConfig, TlsConfig, keys_of
from ..tables import variables_in
from .route import GRPC_SCHEMES

HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting in effect: its key, its value as it may be shown, and where that came from.

    `variables` are the environment variables it was made from: those that decided, or those that
    were named in the file.
    """

    key: str
    value: Any
    source: Literal["file", "environment", "default"]
    variables: tuple[str, ...] = ()


def settings(config: OtelConfig, otel: Mapping[str, Any]) -> list[Setting]:
    """Return all settings of `config`, which was read from the table `otel`."""
    return [*_general(config, otel), *_exporter(config, otel), *_batch(config, otel)]


def _general(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    for field, key in keys_of(OtelConfig):
        table, _, name = (key.name or field.name).rpartition(".")
        if field.name in ("exporter", "batch", "resource_attributes"):
            continue
        written = otel.get(table, {}) if table else otel
        variable = SERVICE_NAME_VARIABLE if field.name == "service_name" else ""
        value = getattr(config, field.name)
        yield _from_table_or_variable(config, key.name or field.name, value, written, variable)
    written = otel.get("resource_attributes", {})
    for name, value in config.resource_attributes.items():
        if name in written:
            yield Setting(f"resource_attributes.{name}", value, "file")
        elif name not in SET_ELSEWHERE:
            variables = ("OTEL_RESOURCE_ATTRIBUTES",)
            yield Setting(f"resource_attributes.{name}", value, "environment", variables)


def _batch(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    for field, key in keys_of(BatchConfig):
        name, value = f"batch.{field.name}", getattr(config.batch, field.name)
        written = otel.get("batch", {})
        yield _from_table_or_variable(config, name, value, written, key.variable)


def _from_table_or_variable(
    config: OtelConfig, key: str, value: Any, table: Mapping[str, Any], variable: str
) -> Setting:
    """Return a setting for which a variable counts where the table has none."""
    if key.rpartition(".")[2] in table:
        return Setting(key, value, "file")
    if config.exporter is not None and os.environ.get(variable, "").strip():
        return Setting(key, value, "environment", (variable,))
    return Setting(key, value, "default")


def _exporter(config: OtelConfig, otel: Mapping[str, Any]) -> Iterator[Setting]:
    exporter = config.exporter
    name = EXPORTERS[0] if exporter is None else exporter.name
    yield Setting("exporter", name, "file" if "exporter" in otel else "default")
    if exporter is None:
        return
    if exporter.endpoint is None:
        yield from _Environment(exporter).settings()
    else:
        yield from _written(exporter, otel["exporter"][exporter.name])


def _written(exporter: ExporterConfig, table: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the settings of an exporter's table, paths and address as they were written."""
    for field, key in keys_of(ExporterConfig):
        if key.only not in (None, exporter.name) or field.name in ("headers", "tls"):
            continue
        value = getattr(exporter, field.name)
        if field.name == "endpoint":
            value = exporter.safe_endpoint
        yield _from_table(f"exporter.{field.name}", value, table, field.name)
    for name in table.get("headers", {}):
        yield _from_table(f"exporter.headers.{name}", HIDDEN, table["headers"], name)
    for name, path in table.get("tls", {}).items():
        yield _from_table(f"exporter.tls.{name}", path, table["tls"], name)


def _from_table(key: str, value: Any, table: Mapping[str, Any], name: str) -> Setting:
    if name not in table:
        return Setting(key, value, "default")
    text = table[name] if isinstance(table[name], str) else ""
    return Setting(key, value, "file", tuple(dict.fromkeys(variables_in(text))))


def in_effect(exporter: ExporterConfig) -> ExporterConfig:
    """Return an exporter with all that the environment decides for it."""
    return exporter if exporter.endpoint is not None else _Environment(exporter).exporter()


class _Environment:
    """What the standard variables say for an exporter that is a bare name."""

    def __init__(self, exporter: ExporterConfig) -> None:
        self._exporter = exporter
        self._over_http = exporter.name == "otlp-http"

    def exporter(self) -> ExporterConfig:
        """Return the exporter with the settings that the variables give it."""
        timeout, _ = self._value("TIMEOUT")
        return replace(
            self._exporter,
            endpoint=self._endpoint()[0],
            headers=self._headers()[0],
            timeout_ms=round(float(timeout or 10) * 1000),
            compression=cast("Compression", self._compression()),
            tls=TlsConfig(*(self._value(name)[0] for name in _CERTIFICATES)),
        )

    def settings(self) -> Iterator[Setting]:
        """Yield the same as settings to be shown."""
        exporter = self.exporter()
        yield _decided("endpoint", exporter.safe_endpoint, self._endpoint()[1])
        if self._over_http:
            yield _decided("protocol", exporter.protocol, ())
        yield _decided("compression", exporter.compression, self._value("COMPRESSION")[1])
        yield _decided("timeout_ms", exporter.timeout_ms, self._value("TIMEOUT")[1])
        for name in exporter.headers:
            yield _decided(f"headers.{name}", HIDDEN, self._headers()[1])
        for (_, key), variable in zip(keys_of(TlsConfig), _CERTIFICATES, strict=True):
            path, variables = self._value(variable)
            if path:
                yield _decided(f"tls.{key.name}", path, variables)

    def _value(self, name: str) -> tuple[str | None, tuple[str, ...]]:
        """Return what a variable says, the one for logs first, and its name if it does."""
        for variable in (f"OTEL_EXPORTER_OTLP_LOGS_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            if value := os.environ.get(variable):
                return value, (variable,)
        return None, ()

    def _compression(self) -> str:
        compression = (self._value("COMPRESSION")[0] or "none").strip().lower()
        return compression if self._over_http or compression == "gzip" else "none"

    def _headers(self) -> tuple[dict[str, str], tuple[str, ...]]:
        text, variables = self._value("HEADERS")
        pairs = [pair.partition("=") for pair in (text or "").split(",")]
        return {
            unquote(name).strip().lower(): unquote(value).strip()
            for name, equals, value in pairs
            if equals and name.strip()
        }, variables

    def _endpoint(self) -> tuple[str, tuple[str, ...]]:
        endpoint, variables = self._value("ENDPOINT")
        if self._over_http:
            if endpoint is None:
                return "http://localhost:4318/v1/logs", ()
            if variables == ("OTEL_EXPORTER_OTLP_ENDPOINT",):
                endpoint = f"{endpoint.removesuffix('/')}/v1/logs"
            return endpoint, variables
        return self._grpc_endpoint(endpoint or "http://localhost:4317", variables)

    def _grpc_endpoint(self, endpoint: str, named: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Return an address that says by its scheme whether there is TLS."""
        if endpoint.startswith(GRPC_SCHEMES):
            return endpoint, named
        parts = urlsplit(endpoint)
        target = parts.netloc or endpoint
        if parts.scheme == "https":
            return f"https://{target}", named
        insecure, variables = self._value("INSECURE")
        if insecure is None:
            return f"{'http' if parts.scheme == 'http' else 'https'}://{target}", named
        plaintext = insecure.lower() == "true"
        return f"{'http' if plaintext else 'https'}://{target}", (*named, *variables)


_CERTIFICATES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
"""The end of the variable for each field of `TlsConfig`."""


def _decided(key: str, value: Any, variables: tuple[str, ...]) -> Setting:
    return Setting(f"exporter.{key}", value, "environment" if variables else "default", variables)
