"""Turns an `[otel]` table into an `OtelConfig`, or raises a `ConfigError` that lists every fault.

A misspelt key, a wrong type and an invalid value are faults. An unknown key that resembles no known
one is a warning: a newer Codex CLI may define it. Nothing here uses the network or imports
OpenTelemetry. No message and no `repr` contains a header's value, or the value of a `${NAME}` in
the exporter's table. One in `spool.path` is part of a path that messages must name.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..values import MAX_INT64, MIN_INT64
from .environment import Variables
from .exporter_table import ExporterTable
from .files import absolute_path, directory_problem
from .settings import (
    MAX_INTEGER,
    BatchConfig,
    ExporterConfig,
    SpoolConfig,
    TlsConfig,
    key_of,
    keys_of,
    setting,
)
from .tables import ConfigError, Faults, TableReader, plain_settings, type_name

if TYPE_CHECKING:
    from pathlib import Path

    from .toml_file import OtelFile

ResourceValue = str | bool | int | float | list[Any]

OTHER_SIGNALS = ("trace_exporter", "metrics_exporter", "span_attributes", "tracestate")
"""Keys of the Codex CLI's `[otel]` table for traces and metrics: accepted and ignored."""

SET_ELSEWHERE = {
    "service.name": "service_name",
    "service.version": "the handler's app_version",
    "env": "environment",
}
"""Resource attributes that another setting determines, and which one."""


@dataclass(frozen=True, slots=True)
class OtelConfig:
    """All settings. `OtelConfig()` holds the defaults, with which nothing is exported."""

    environment: str = field(default="dev", metadata=setting("resource attribute `env`"))
    service_name: str = field(
        default="codex-cli", metadata=setting("resource attribute `service.name`")
    )
    exporter: ExporterConfig | None = field(
        default=None,
        metadata=setting(
            '`"none"`; `"otlp-http"` or `"otlp-grpc"`, configured by the standard '
            "`OTEL_EXPORTER_OTLP_*` variables; or a table for one of the two"
        ),
    )
    log_user_prompt: bool = field(
        default=False, metadata=setting("send the text of prompts instead of `[REDACTED]`")
    )
    log_tool_payloads: bool = field(
        default=True,
        metadata=setting(
            "send `arguments` and `output` of tools; if false, they are `[REDACTED]` and only "
            "their lengths are sent"
        ),
    )
    log_agent_responses: bool = field(
        default=False, metadata=setting("send the text of `response` instead of `[REDACTED]`")
    )
    log_guardian_assessments: bool = field(
        default=False, metadata=setting("send the text of `rationale` instead of `[REDACTED]`")
    )
    log_sse_deltas: bool = field(
        default=True,
        metadata=setting(
            "send `codex.sse_event` events of kind `response.output_text.delta`; if false, they "
            "are counted as ignored"
        ),
    )
    resource_attributes: Mapping[str, ResourceValue] = field(
        default_factory=dict, metadata=setting("additional resource attributes")
    )
    max_attribute_length: int = field(
        default=65_536,
        metadata=setting(
            "maximum characters of a text attribute and elements of an array or map; a longer "
            "value is cut, and `<key>.truncated_length` holds its length; 0 means no limit",
            smallest=0,
        ),
    )
    max_output_bytes: int | None = field(
        default=None,
        metadata=setting(
            "maximum bytes of a tool's `output`, if it is a text; no limit if absent",
            name="tool_result.max_bytes",
            smallest=0,
        ),
    )
    batch: BatchConfig = field(
        default_factory=BatchConfig, metadata=setting("how events are queued, batched and retried")
    )
    spool: SpoolConfig | None = field(
        default=None,
        metadata=setting("keep queued events on disk, so that they survive the process"),
    )
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Warnings about ignored keys and variables, one line each."""
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    """The environment variables that each setting came from, for settings the table omits."""

    @classmethod
    def from_toml(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        missing_ok: bool = False,
        strict: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> OtelConfig:
        """Read the `[otel]` table of a TOML file; the file's other tables are ignored.

        Returns the defaults if the file has no such table. `spool.path` and the paths under `tls`
        are relative to the file's folder.

        Args:
            path: the file; `~`, `$NAME`, `${NAME}` and `${NAME:-default}` are expanded. None means
                `$CODEX_HOME/config.toml`, or `~/.codex/config.toml` if `CODEX_HOME` is unset or
                empty.
            missing_ok: return the defaults if the file does not exist.
            strict: raise for unknown keys and invalid environment variables instead of adding them
                to `warnings`.
            environ: the variables that `${NAME}` refers to, and the `OTEL_*` variables; None means
                `os.environ`.

        Raises:
            ConfigError: the file cannot be read, is not valid TOML, or its table has faults.

        """
        from .toml_file import OtelFile  # a handler that is built from a mapping needs no TOML

        file = OtelFile.read(path, missing_ok=missing_ok)
        return cls.from_file(file, strict=strict, environ=environ)

    @classmethod
    def from_file(
        cls, file: OtelFile, *, strict: bool = False, environ: Mapping[str, str] | None = None
    ) -> OtelConfig:
        """Read the `[otel]` table of a parsed file; see `from_table`."""
        return cls.from_table(
            file.otel,
            where=f"{file.name}: [otel]",
            folder=file.folder,
            strict=strict,
            environ=environ,
        )

    @classmethod
    def from_table(
        cls,
        otel: Mapping[str, Any],
        *,
        where: str = "[otel]",
        folder: Path | None = None,
        strict: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> OtelConfig:
        """Read a parsed `[otel]` table.

        Args:
            otel: the contents of the table.
            where: the name of the table in messages.
            folder: the folder that `spool.path` and the paths under `tls` are relative to; None
                means the working directory.
            strict: raise for unknown keys and invalid environment variables instead of adding them
                to `warnings`.
            environ: the variables that `${NAME}` refers to, and the `OTEL_*` variables; None means
                `os.environ`.

        Raises:
            ConfigError: the table has faults; `faults` lists all of them.

        """
        faults = Faults(strict=strict)
        table = TableReader(otel, where, faults, misplaced=_misplaced_key_fault)
        config = _OtelTable(table, folder, os.environ if environ is None else environ).read()
        if found := faults.in_order():
            raise ConfigError(*found)
        return replace(config, warnings=faults.warnings_in_order())


OtelConfig.__module__ = "codex_otel_logging"


class _OtelTable:
    """Reads an `[otel]` table part by part."""

    def __init__(self, table: TableReader, folder: Path | None, environ: Mapping[str, str]) -> None:
        self._table = table
        self._folder = folder
        self._environ = environ
        self._variables = Variables(environ, warn=table.warn, fault=table.fault)

    def read(self) -> OtelConfig:
        table = self._table
        defaults = OtelConfig()
        table.declare(*OTHER_SIGNALS, "service_name")
        # `from_table(tomllib.load(file))` passes the whole document; "unknown key" would not help.
        if "otel" in table:
            table.declare("otel")
            table.fault("otel", "unknown key; pass the contents of the [otel] table")
        exporter = ExporterTable(table, self._variables, self._folder, self._environ).read()
        if exporter is None:
            # Nothing is exported, so no variable has an effect and none is worth a warning.
            self._variables = Variables({}, warn=table.warn, fault=table.fault)
        config = OtelConfig(
            environment=table.string("environment", defaults.environment) or "",
            service_name=self._service_name(defaults.service_name),
            exporter=exporter,
            resource_attributes=self._resource_attributes(),
            max_output_bytes=self._max_output_bytes(),
            batch=self._batch(),
            spool=self._spool(),
            variables=self._variables.decided,
            **plain_settings(table, defaults),
        )
        table.finish()
        return config

    def _service_name(self, default: str) -> str:
        if "service_name" in self._table:
            return self._table.string("service_name", default) or ""
        return self._variables.service_name() or default

    def _resource_attributes(self) -> dict[str, ResourceValue]:
        # The lowest layer of the resource; the table's attributes override it.
        attributes: dict[str, ResourceValue] = {**self._variables.resource_attributes()}
        table = self._table.table("resource_attributes")
        if table is None:
            return attributes
        for key in table.names():
            value = table.get(key)
            if key in SET_ELSEWHERE:
                table.fault(key, f"cannot be set here; set {SET_ELSEWHERE[key]} instead")
            elif not key:
                table.fault(key, "attribute names must not be empty")
            elif not _is_resource_value(value):
                table.fault(
                    key,
                    "expected a string, a number, a boolean or an array of one of these, "
                    f"got {type_name(value)}",
                )
            elif not _fits_64_bits(value):
                table.fault(key, "integers must fit in 64 bits")
            else:
                attributes[key] = value
        return attributes

    def _max_output_bytes(self) -> int | None:
        table = self._table.table("tool_result")
        if table is None:
            return None
        smallest = key_of(OtelConfig, "max_output_bytes").smallest
        limit = table.integer("max_bytes", -1, smallest, MAX_INTEGER)
        table.finish()
        return None if limit < 0 else limit

    def _batch(self) -> BatchConfig:
        table = self._table.table("batch")
        defaults = BatchConfig()
        values = {}
        for each, key in keys_of(BatchConfig):
            default = getattr(defaults, each.name)
            if table is not None and each.name in table:
                values[each.name] = table.integer(each.name, default, key.smallest, key.largest)
            else:
                variable = self._variables.batch_setting(each.name, key)
                values[each.name] = default if variable is None else variable
        if table is not None:
            table.declare(*BatchConfig.__slots__)
            table.finish()
        if values["max_batch_size"] > values["max_queue_size"] >= 1:
            self._fit_batch_into_queue(values, written=table.names() if table else ())
        return BatchConfig(**values)

    def _spool(self) -> SpoolConfig | None:
        table = self._table.table("spool", environ=self._environ)
        if table is None:
            return None
        written = table.string("path")
        if "path" not in table:
            table.fault("path", "missing; the directory for queued events")
        settings = plain_settings(table, SpoolConfig(""))
        table.finish()
        if not written:
            if written == "":
                table.fault("path", "must not be empty")
            return None
        try:
            path = absolute_path(written, self._folder)
        except OSError:  # it has been removed
            table.fault("path", "unknown working directory; write an absolute path")
            return None
        if path is None:
            table.fault("path", "unknown home directory; write the path without ~")
            return None
        if (problem := directory_problem(path)) is not None:
            table.fault("path", problem)
        return SpoolConfig(path, **settings)

    def _fit_batch_into_queue(self, values: dict[str, int], written: Container[str]) -> None:
        """Limit the batch size to the queue size, by changing the size that the table omits."""
        # A size from the table is never changed. A default or a variable gives way, so that it is
        # never a fault to set only one of the two.
        batch, queue = values["max_batch_size"], values["max_queue_size"]
        if "max_batch_size" not in written:
            values["max_batch_size"] = queue
        elif "max_queue_size" not in written:
            values["max_queue_size"] = batch
        else:
            self._table.fault(
                "batch",
                f"max_batch_size ({batch}) must be at most max_queue_size ({queue})",
            )


_TABLES = {
    OtelConfig: "[otel]",
    BatchConfig: "[otel.batch]",
    SpoolConfig: "[otel.spool]",
    ExporterConfig: "the exporter's table: exporter = { otlp-http = { ... } }",
    TlsConfig: "the tls table of the exporter",
}
"""The name, in messages, of the table that holds the keys of each settings class."""


def _misplaced_key_fault(key: str) -> str | None:
    """Return the fault of a key that belongs in another table, or None if no table has it."""
    for settings, table in _TABLES.items():
        for each, known in keys_of(settings):
            outer, _, name = (known.name or each.name).rpartition(".")
            if name == key:
                place = f"belongs in {f'[otel.{outer}]' if outer else table}"
                return f"{place} ({known.exporter} only)" if known.exporter else place
    return None


def _fits_64_bits(value: object) -> bool:
    """Return whether every integer fits in 64 bits. OTLP requires that; TOML readers do not."""
    return all(
        MIN_INT64 <= item <= MAX_INT64
        for item in (value if isinstance(value, list) else [value])
        if isinstance(item, int)
    )


def _is_resource_value(value: object) -> bool:
    """Return whether OTLP allows a value as a resource attribute.

    Arrays must be homogeneous: https://opentelemetry.io/docs/specs/otel/common/#attribute
    """
    if isinstance(value, (str, bool, int, float)):
        return True
    return (
        isinstance(value, list)
        and len({type(item) for item in value}) <= 1
        and all(isinstance(item, (str, bool, int, float)) for item in value)
    )
