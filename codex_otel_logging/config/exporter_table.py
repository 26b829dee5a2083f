"""Reads the `exporter` setting: a name, or a table for one exporter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast, get_args

from ..text import suggestion
from .endpoints import (
    METADATA_KEY,
    TOKEN,
    grpc_endpoint_problem,
    http_endpoint_problem,
    http_header_problem,
    metadata_problem,
)
from .environment import Variables
from .expansion import variables_in
from .files import certificate_problems, file_problem
from .settings import (
    EXAMPLE_ENDPOINTS,
    ExporterConfig,
    ExporterName,
    TlsConfig,
    key_of,
    keys_of,
)
from .tables import TableReader, plain_settings

if TYPE_CHECKING:
    from pathlib import Path

NO_EXPORTER = "none"

_NAMES = get_args(ExporterName)

EXPORTERS = (NO_EXPORTER, *_NAMES)


class ExporterTable:
    """Reads the `exporter` setting of an `[otel]` table.

    Args:
        table: the `[otel]` table.
        variables: the `OTEL_*` variables, which configure an exporter that is only a name.
        folder: the folder that paths under `tls` are relative to.
        environ: the variables that `${NAME}` refers to.

    """

    def __init__(
        self,
        table: TableReader,
        variables: Variables,
        folder: Path | None,
        environ: Mapping[str, str],
    ) -> None:
        self._table = table
        self._variables = variables
        self._folder = folder
        self._environ = environ

    def read(self) -> ExporterConfig | None:
        """Return the exporter; None for `"none"` and for anything that is not an exporter."""
        table = self._table
        value = table.get("exporter")
        if not isinstance(value, Mapping):
            name = table.string("exporter", NO_EXPORTER)
            if name in _NAMES:
                return self._variables.exporter(cast("ExporterName", name))
            if name == "statsig":  # valid for the Codex CLI, so a file with it must load here
                table.warn("exporter", _STATSIG)
            elif name is not None and name != NO_EXPORTER:
                table.fault("exporter", _unknown_exporter(name))
            return None
        if len(value) != 1:
            table.fault("exporter", "expected one table, otlp-http or otlp-grpc")
            return None
        (name,) = value
        if name not in _NAMES:
            table.fault("exporter", _unknown_exporter(str(name)))
            return None
        # Of this setting, only the strings in the inner table may contain variables.
        outer = table.table("exporter")
        inner = outer and outer.table(name, environ=self._environ)
        if inner is None:
            return None
        return self._exporter_table(cast("ExporterName", name), inner)

    def _exporter_table(self, name: ExporterName, table: TableReader) -> ExporterConfig:
        over_http = name == "otlp-http"
        defaults = ExporterConfig(name, "")
        endpoint = table.string("endpoint")
        if "endpoint" not in table:
            example = EXAMPLE_ENDPOINTS[name]
            table.fault("endpoint", f"missing; set the collector's address, such as {example!r}")
        elif endpoint is not None:
            problem = (http_endpoint_problem if over_http else grpc_endpoint_problem)(endpoint)
            if problem:
                table.fault("endpoint", problem)
        # Built even after a fault, so that the faults of the other keys are found as well.
        config = ExporterConfig(
            name=name,
            endpoint=endpoint or "",
            headers=self._headers(table, over_http=over_http),
            tls=self._tls(table, plaintext=(endpoint or "").lower().startswith("http://")),
            written_endpoint=table.get("endpoint"),
            variable_values=self._variable_values(table.get("endpoint")),
            **plain_settings(table, defaults, name),
        )
        table.finish()
        return config

    def _variable_values(self, endpoint: object) -> tuple[str, ...]:
        """Return the values of the variables in an endpoint, which messages must not show."""
        names = variables_in(endpoint) if isinstance(endpoint, str) else ()
        return tuple(self._environ[name] for name in names if self._environ.get(name))

    def _headers(self, exporter: TableReader, *, over_http: bool) -> dict[str, str]:
        table = exporter.table("headers")
        if table is None:
            return {}
        problem_of = http_header_problem if over_http else metadata_problem
        headers: dict[str, str] = {}
        seen: set[str] = set()
        for key in table.names():
            # A header written as one text, "Authorization: Bearer ...", has its value in the name.
            # So an invalid name is shown up to its first invalid character, in this fault only.
            valid = re.match(TOKEN if over_http else METADATA_KEY, key)
            start = valid[0] if valid else ""
            if start != key and (problem := problem_of(key, "")):
                table.fault(key, problem, shown=f"{start}...")
                continue
            value = table.string(key)
            # One of them would silently replace the other.
            if key.lower() in seen:
                table.fault(key, "duplicate header; names are case-insensitive")
            elif value is not None and (problem := problem_of(key, value)):
                table.fault(key, problem)
            elif value is not None:
                # gRPC rejects metadata keys with upper-case letters.
                headers[key if over_http else key.lower()] = value
            seen.add(key.lower())
        return headers

    def _tls(self, exporter: TableReader, *, plaintext: bool) -> TlsConfig | None:
        table = exporter.table("tls")
        if table is None:
            return None
        if plaintext:
            exporter.fault("tls", "requires an endpoint that begins with https://")
        files = {key.name: self._file(table, key.name) for _, key in keys_of(TlsConfig)}
        table.finish()
        tls = TlsConfig(*files.values())
        missing = {"client-certificate", "client-private-key"} - {*table.names()}
        if len(missing) == 1:
            (key,) = missing
            table.fault(key, "missing; set the client certificate and its key together")
        elif all(file is not None for key, file in files.items() if key in table):
            # Only if each file is readable: an unreadable one is a fault already.
            for field_name, problem in certificate_problems(tls):
                table.fault(key_of(TlsConfig, field_name).name, problem)
        return tls

    def _file(self, table: TableReader, key: str) -> str | None:
        name = table.string(key)
        if name is None:
            return None
        from pathlib import Path  # a tenth of the start-up time, and few settings name a file

        try:
            file = (self._folder or Path()) / Path(name).expanduser()
        except RuntimeError:
            table.fault(key, "unknown home directory; write the path without ~")
            return None
        if problem := file_problem(file):
            table.fault(key, problem)
            return None
        return str(file)


_STATSIG = (
    "'statsig' is available to the Codex CLI only; nothing is exported. "
    "Use 'otlp-http' or 'otlp-grpc'"
)


def _unknown_exporter(name: str) -> str:
    if name == NO_EXPORTER:
        return "'none' must not be a table; write exporter = \"none\""
    text = f"expected one of {', '.join(map(repr, EXPORTERS))}"
    if not re.fullmatch(r"[\w-]{1,32}", name):  # may be an address that contains a password
        return text
    return f"{text}; got {name!r}{suggestion(name, EXPORTERS)}"
