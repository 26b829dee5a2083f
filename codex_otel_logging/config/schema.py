"""Builds the JSON Schema of a TOML file with an `[otel]` table, for completion in editors.

The schema is derived from the settings classes. It rejects only what strict reading rejects, but
not all of it: a schema cannot see unset variables, missing files or most relations between keys.

https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from . import otel_config
from . import settings as parts
from .endpoints import METADATA_KEY, TOKEN
from .expansion import EXPANDABLE
from .exporter_table import EXPORTERS, NO_EXPORTER
from .otel_config import OTHER_SIGNALS, SET_ELSEWHERE, OtelConfig
from .settings import (
    EXAMPLE_ENDPOINTS,
    BatchConfig,
    ExporterConfig,
    ExporterName,
    Key,
    SpoolConfig,
    TlsConfig,
    keys_of,
)

Schema = dict[str, Any]

_VARIABLE = {"pattern": r"\$\{"}
"""Matches a string with a variable, whose value cannot be checked before it is expanded."""

_SCHEME = "[Hh][Tt][Tt][Pp][Ss]?://"
_HOST = r"[^\s/?#\\@]+"

_ENDPOINTS: dict[ExporterName, str] = {
    "otlp-http": rf"^{_SCHEME}[^\s/?#\\][^\s#\\]*$",
    "otlp-grpc": rf"^({_SCHEME}{_HOST}/?|{_HOST})$",
}

_HEADER_NAMES: dict[ExporterName, str] = {
    "otlp-http": rf"^{TOKEN}$",
    "otlp-grpc": rf"^{METADATA_KEY}$",
}

_RESOURCE_VALUES = [{"type": "string"}, {"type": "boolean"}, {"type": "number"}]


def schema() -> Schema:
    """Return the schema of a whole TOML file; tables other than `otel` may hold anything."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TOML file with the settings of codex_otel_logging",
        "type": "object",
        "properties": {"otel": _otel()},
        "additionalProperties": True,
        "x-tombi-toml-version": "v1.1.0",  # allows inline tables over several lines
    }


def _otel() -> Schema:
    table = _table("which events are exported, and where", _properties(OtelConfig))
    others = {"description": "for the Codex CLI's traces or metrics; ignored here"}
    table["properties"] |= dict.fromkeys(OTHER_SIGNALS, others)
    return table


def _table(description: str, properties: Schema, required: list[str] | None = None) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _properties(settings: type, exporter: ExporterName | None = None) -> Schema:
    """Return the schemas of a settings class's keys, for one exporter or outside of any."""
    types = get_type_hints(settings, {**vars(parts), **vars(otel_config)})
    properties: Schema = {}
    for field, key in keys_of(settings):
        if key.exporter not in (None, exporter):
            continue
        # A dotted name is a key in a table of its own, such as tool_result.max_bytes.
        table, _, name = (key.name or field.name).rpartition(".")
        entry = {"description": _description(key), **_default(field)}
        entry |= _schema_of_special_key(field.name, exporter) or _schema_of_type(
            types[field.name], key, exporter
        )
        if table:
            entry = _table(f"limits of a {table.replace('_', ' ')}", {name: entry})
        properties[table or name] = entry
    return properties


def _description(key: Key) -> str:
    return f"{key.description}; or `{key.variable}`" if key.variable else key.description


def _default(field: Field[Any]) -> Schema:
    if field.name == "exporter":
        return {"default": NO_EXPORTER}
    if field.default_factory is dict:
        return {"default": {}}
    return {} if field.default in (None, MISSING) else {"default": field.default}


def _schema_of_type(kind: Any, key: Key, exporter: ExporterName | None) -> Schema:
    """Return the schema of a Python type; `X | None` means X, because TOML has no null."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Literal:  # only exporters have such keys, so variables are allowed
        return {"type": "string", "anyOf": [{"enum": list(get_args(kind))}, _VARIABLE]}
    if kinds:
        (kind,) = kinds
    if kind is bool:
        return {"type": "boolean"}
    if kind is int:
        return {"type": "integer", "minimum": key.smallest, "maximum": key.largest}
    if kind is str:
        return {"type": "string", **({"pattern": EXPANDABLE} if exporter else {})}
    assert kind in (BatchConfig, SpoolConfig, TlsConfig)
    required = [field.name for field, key in keys_of(kind) if key.required]
    table = _table(key.description, _properties(kind, exporter), required)
    if kind is TlsConfig:
        certificate, private_key = (f"client-{each}" for each in ("certificate", "private-key"))
        table["dependentRequired"] = {certificate: [private_key], private_key: [certificate]}
    return table


def _schema_of_special_key(name: str, exporter: ExporterName | None) -> Schema | None:
    """Return the schema of a key that its Python type does not describe fully, or None."""
    if name == "exporter":
        return _exporter()
    if name == "resource_attributes":
        return _resource_attributes()
    if name == "path":
        return {"type": "string", "minLength": 1, "pattern": EXPANDABLE}
    if name == "endpoint" and exporter:
        return {
            "type": "string",
            "allOf": [
                {"pattern": EXPANDABLE},
                {"anyOf": [{"pattern": _ENDPOINTS[exporter]}, _VARIABLE]},
            ],
            "examples": [EXAMPLE_ENDPOINTS[exporter]],
        }
    if name == "headers" and exporter:
        return {
            "type": "object",
            "propertyNames": {"pattern": _HEADER_NAMES[exporter]},
            "additionalProperties": {"type": "string", "pattern": EXPANDABLE},
        }
    return None


def _exporter() -> Schema:
    tables = {name: _exporter_table(name) for name in get_args(ExporterName)}
    one_table = {
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"oneOf": [{"enum": list(EXPORTERS)}, one_table]}


def _exporter_table(name: ExporterName) -> Schema:
    required = [field.name for field, key in keys_of(ExporterConfig) if key.required]
    over = "HTTP" if name == "otlp-http" else "gRPC"
    return _table(f"a collector over OTLP/{over}", _properties(ExporterConfig, name), required)


def _resource_attributes() -> Schema:
    arrays: list[Mapping[str, Any]] = [
        {"type": "array", "items": each} for each in _RESOURCE_VALUES
    ]
    return {
        "type": "object",
        "propertyNames": {"minLength": 1, "not": {"enum": list(SET_ELSEWHERE)}},
        "additionalProperties": {"anyOf": [*_RESOURCE_VALUES, *arrays]},
    }
