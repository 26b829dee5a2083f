"""An `[otel]` table becomes an `OtelConfig`; a bad one a `ConfigError` that lists every fault.

A misspelt key, a wrong type or a value that cannot work is a fault. Only a key that resembles no
known one is a warning: a newer Codex CLI may have defined it. Nothing here talks to the network,
and nothing of OpenTelemetry is imported. Header values, and what `${NAME}` was replaced by, appear
in no message and no `repr`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from .certificates import certificate_problems, file_problem
from .endpoints import (
    grpc_endpoint_problem,
    http_endpoint_problem,
    http_header_problem,
    metadata_problem,
)
from .environment import Variables
from .files import LARGEST_TOML, read_file
from .settings import (
    EXAMPLE_ENDPOINTS,
    LARGEST,
    BatchConfig,
    Compression,
    ExporterConfig,
    ExporterName,
    Protocol,
    TlsConfig,
    about,
    key_of,
    keys_of,
)
from .tables import Faults, TableReader, nearest, type_name, variables_in

ResourceValue = str | bool | int | float | list[Any]

EXPORTERS = ("none", *get_args(ExporterName))

DEFAULT_PATH = "${CODEX_HOME:-~/.codex}/config.toml"
"""The Codex CLI's own settings file, as a path to be expanded."""

OTHER_SIGNALS = ("trace_exporter", "metrics_exporter", "span_attributes", "tracestate")
"""Keys of the Codex CLI's `[otel]` table for traces and metrics; accepted and ignored."""

SET_ELSEWHERE = {
    "service.name": "service_name",
    "service.version": "the handler's app_version",
    "env": "environment",
}
"""Resource attributes that have a setting of their own."""


class ConfigError(ValueError):
    """The settings cannot be used; the message has one line for each fault.

    `faults` holds those lines: where, what, and what to do. None shows a header's value.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


ConfigError.__module__ = "codex_otel_logging"


@dataclass(frozen=True, slots=True)
class OtelConfig:
    """All settings. `OtelConfig()` holds the defaults, under which nothing is sent."""

    environment: str = field(default="dev", metadata=about("resource attribute `env`"))
    service_name: str = field(
        default="codex-cli", metadata=about("resource attribute `service.name`")
    )
    exporter: ExporterConfig | None = field(
        default=None,
        metadata=about(
            '`"none"`; `"otlp-http"` or `"otlp-grpc"`, configured by the standard '
            "`OTEL_EXPORTER_OTLP_*` variables; or a table for one of the two"
        ),
    )
    log_user_prompt: bool = field(
        default=False, metadata=about("send the text of prompts, instead of `[REDACTED]`")
    )
    log_tool_payloads: bool = field(
        default=True,
        metadata=about(
            "send `arguments` and `output` of tools; if not, they are `[REDACTED]` and their "
            "lengths are sent"
        ),
    )
    log_agent_responses: bool = field(
        default=False, metadata=about("send the text of `response`, instead of `[REDACTED]`")
    )
    log_guardian_assessments: bool = field(
        default=False, metadata=about("send the text of `rationale`, instead of `[REDACTED]`")
    )
    log_sse_deltas: bool = field(
        default=True,
        metadata=about(
            "send `codex.sse_event` of kind `response.output_text.delta`; if not, these are "
            "counted as ignored"
        ),
    )
    resource_attributes: Mapping[str, ResourceValue] = field(
        default_factory=dict, metadata=about("further attributes of the resource")
    )
    max_attribute_length: int = field(
        default=65_536,
        metadata=about(
            "characters of a text attribute, and elements of an array or map; what is longer is "
            "cut, and `<key>.truncated_length` says how long it was; 0 means no limit",
            smallest=0,
        ),
    )
    max_output_bytes: int | None = field(
        default=None,
        metadata=about(
            "bytes of a tool's `output`; no limit if absent",
            name="tool_result.max_bytes",
            smallest=0,
        ),
    )
    batch: BatchConfig = field(
        default_factory=BatchConfig, metadata=about("how events are queued, batched and retried")
    )
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What was ignored when the settings were read, one line each."""
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    """The environment variables behind each setting that they decided, as the table has none."""

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

        A file without the table gives the defaults, and so does a missing file if `missing_ok`.
        Paths under `tls` are relative to the file's folder.

        Args:
            path: the file. `~`, `$NAME`, `${NAME}` and `${NAME:-default}` in it are expanded. None
                means `default_path()`.
            missing_ok: whether a missing file gives the defaults.
            strict: whether an unknown key, or an invalid variable, is a fault instead of a warning.
            environ: where `${NAME}` in the table and the `OTEL_*` variables are looked up; None
                means `os.environ`.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or the table has faults.

        """
        return OtelFile.read(path, missing_ok=missing_ok).config(environ, strict=strict)

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
        """Read an `[otel]` table that is parsed already.

        Args:
            otel: the table.
            where: how messages call it.
            folder: what paths under `tls` are relative to; None means the working directory.
            strict: whether an unknown key, or an invalid variable, is a fault instead of a warning.
            environ: where `${NAME}` and the `OTEL_*` variables are looked up; None means
                `os.environ`.

        Raises:
            ConfigError: the table has faults; all of them are in it.

        """
        faults = Faults(strict=strict)
        table = TableReader(otel, where, faults, belongs=_place_of)
        config = _OtelTable(
            table, folder or Path(), os.environ if environ is None else environ
        ).read()
        if found := faults.in_order():
            raise ConfigError(*found)
        return replace(config, warnings=faults.warnings_in_order())


OtelConfig.__module__ = "codex_otel_logging"


def default_path() -> str:
    """Return the Codex CLI's settings file: in `$CODEX_HOME` if that is set, else in `~/.codex`."""
    return _expanded(DEFAULT_PATH)


def _expanded(path: str | os.PathLike[str]) -> str:
    """Return a path with its variables replaced; one without a value or a default stays."""
    text = os.fsdecode(path)
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: os.environ.get(found[1]) or found[2], text)
    return os.path.expandvars(text)


def _read(name: str) -> tuple[Path, bytes]:
    """Return the path of a settings file, with its home directory, and its contents.

    Raises:
        FileNotFoundError: there is no such file, or there cannot be one; `errno` tells which.
        OSError: the file cannot be read.

    """
    try:
        file = Path(name).expanduser()
        return file, read_file(file, LARGEST_TOML)
    except RuntimeError:
        # Containers run as users that have neither HOME nor an entry in the passwd file.
        raise FileNotFoundError(errno.EINVAL, "its home directory is not known") from None
    except ValueError:  # a NUL, or a lone surrogate
        raise FileNotFoundError(errno.EINVAL, "not the path of a file") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
            raise FileNotFoundError(error.errno, error.strerror) from None
        raise


_SETS_EXPORTER = re.compile(r"""[\s\["']*(otel["'\s]*\.[\s"']*)?exporter\b""")


def _exporter_twice(fault: str, text: str) -> str:
    """Return what to write if a TOML fault is a line that sets the exporter a second time.

    TOML's own message names neither the key nor the place where it has a value already.
    """
    if not fault.startswith(("Cannot overwrite a value", "Cannot declare")):
        return ""
    lines = text.split("\n")
    found = re.search(r"at line (\d+)", fault)
    line = lines[int(found[1]) - 1] if found else lines[-1]
    if not _SETS_EXPORTER.match(line):
        return ""
    return (
        "; the exporter is set twice: keep either the table, such as [otel.exporter.otlp-http], "
        "or the line exporter = ..., and delete the other"
    )


class OtelFile(NamedTuple):
    """The `[otel]` table of a TOML file as it is written; empty where there is none."""

    name: str
    folder: Path
    otel: Mapping[str, Any]

    @classmethod
    def read(
        cls, path: str | os.PathLike[str] | None = None, *, missing_ok: bool = False
    ) -> OtelFile:
        """Read a file; see `OtelConfig.from_toml`.

        Raises:
            ConfigError: the file cannot be read, or is not TOML.

        """
        # Imported late: configured from a mapping, the handler reads no TOML.
        from .toml import TOMLDecodeError, loads

        name = default_path() if path is None else _expanded(path)
        try:
            file, contents = _read(name)
            text = contents.decode("utf-8-sig")
            document = loads(text)
        except FileNotFoundError as error:
            if missing_ok:
                return cls(name, Path(name).parent, {})
            shown = name if name.isprintable() else repr(name)[1:-1]
            why = "" if error.errno == errno.ENOENT else f" ({error.strerror})"
            raise ConfigError(
                f"{shown}: no such file{why}; create it, or pass missing_ok=True to run without"
            ) from None
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8"
            ) from None
        except TOMLDecodeError as error:
            hint = _exporter_twice(str(error), text)
            raise ConfigError(f"{name}: not valid TOML: {error}{hint}") from None
        except (ValueError, RecursionError) as error:  # huge integers, tables nested too deep
            raise ConfigError(f"{name}: cannot be read: {error}") from None
        otel = document.get("otel", {})
        if not isinstance(otel, dict):
            raise ConfigError(f"{name}: otel: expected a table, got {type_name(otel)}")
        return cls(name, file.parent, otel)

    def config(
        self, environ: Mapping[str, str] | None = None, *, strict: bool = False
    ) -> OtelConfig:
        """Return the settings of the table; see `OtelConfig.from_table`."""
        return OtelConfig.from_table(
            self.otel,
            where=f"{self.name}: [otel]",
            folder=self.folder,
            strict=strict,
            environ=environ,
        )


class _OtelTable:
    """Reads the parts of the table."""

    def __init__(self, table: TableReader, folder: Path, environ: Mapping[str, str]) -> None:
        self._table = table
        self._folder = folder
        self._environ = environ
        self._variables = Variables(environ, warn=table.warn, fault=table.fault)

    def read(self) -> OtelConfig:
        table = self._table
        defaults = OtelConfig()
        for key in OTHER_SIGNALS:
            table.get(key)
        if "otel" in table:
            table.get("otel")
            table.fault("otel", "unknown key; pass the table's contents, not what is around it")
        exporter = self._exporter()
        if exporter is None:
            # A malformed variable must not be reported where nothing is exported.
            self._variables = Variables({}, warn=table.warn, fault=table.fault)
        config = OtelConfig(
            environment=table.string("environment", defaults.environment) or "",
            service_name=self._service_name(defaults.service_name),
            exporter=exporter,
            log_user_prompt=table.boolean("log_user_prompt", defaults.log_user_prompt),
            log_tool_payloads=table.boolean("log_tool_payloads", defaults.log_tool_payloads),
            log_agent_responses=table.boolean("log_agent_responses", defaults.log_agent_responses),
            log_guardian_assessments=table.boolean(
                "log_guardian_assessments", defaults.log_guardian_assessments
            ),
            log_sse_deltas=table.boolean("log_sse_deltas", defaults.log_sse_deltas),
            resource_attributes=self._resource_attributes(),
            max_attribute_length=table.integer(
                "max_attribute_length",
                defaults.max_attribute_length,
                key_of(OtelConfig, "max_attribute_length").smallest,
                LARGEST,
            ),
            max_output_bytes=self._max_output_bytes(),
            batch=self._batch(),
            variables=self._variables.decided,
        )
        table.finish()
        return config

    def _service_name(self, default: str) -> str:
        if "service_name" in self._table:
            return self._table.string("service_name", default) or ""
        self._table.get("service_name")
        return self._variables.service_name() or default

    def _exporter(self) -> ExporterConfig | None:
        table = self._table
        value = table.get("exporter")
        if not isinstance(value, Mapping):
            name = table.string("exporter", "none")
            if name in EXPORTERS[1:]:
                return self._variables.exporter(cast("ExporterName", name))
            if name == "statsig":
                table.warn("exporter", _STATSIG)
            elif name is not None and name != "none":
                table.fault("exporter", _unknown_exporter(name))
            return None
        if len(value) != 1:
            table.fault("exporter", "expected one exporter in the table: otlp-http or otlp-grpc")
            return None
        (name,) = value
        if name not in EXPORTERS[1:]:
            table.fault("exporter", _unknown_exporter(str(name)))
            return None
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
            table.fault("endpoint", f"missing; give the collector's address, such as {example!r}")
        elif endpoint is not None:
            problem = (http_endpoint_problem if over_http else grpc_endpoint_problem)(endpoint)
            if problem:
                table.fault("endpoint", problem)
        protocol = (
            table.choice("protocol", defaults.protocol, get_args(Protocol))
            if over_http
            else defaults.protocol
        )
        config = ExporterConfig(
            name=name,
            endpoint=endpoint or "",
            headers=self._headers(table, over_http=over_http),
            protocol=cast("Protocol", protocol),
            compression=cast(
                "Compression",
                table.choice("compression", defaults.compression, get_args(Compression)),
            ),
            timeout_ms=table.integer(
                "timeout_ms",
                defaults.timeout_ms,
                key_of(ExporterConfig, "timeout_ms").smallest,
                LARGEST,
            ),
            tls=self._tls(table, plaintext=(endpoint or "").lower().startswith("http://")),
            written_endpoint=table.get("endpoint"),
            replaced=self._replaced(table.get("endpoint")),
        )
        table.finish()
        return config

    def _replaced(self, endpoint: object) -> tuple[str, ...]:
        """Return what the variables in an endpoint stand for."""
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
            value = table.string(key)
            if key.lower() in seen:
                table.fault(key, "this header is there twice; upper and lower case are the same")
            elif value is not None and (problem := problem_of(key, value)):
                table.fault(key, problem)
            elif value is not None:
                headers[key if over_http else key.lower()] = value
            seen.add(key.lower())
        return headers

    def _tls(self, exporter: TableReader, *, plaintext: bool) -> TlsConfig | None:
        table = exporter.table("tls")
        if table is None:
            return None
        if plaintext:
            exporter.fault("tls", "the endpoint is plaintext; begin it with https:// to use TLS")
        keys = [each.name for _, each in keys_of(TlsConfig)]
        files = {key: self._file(table, key) for key in keys}
        table.finish()
        tls = TlsConfig(*files.values())
        if ("client-certificate" in table) != ("client-private-key" in table):
            missing = keys[2] if "client-certificate" in table else keys[1]
            table.fault(missing, "missing; a client certificate and its private key go together")
        elif all(files[key] is not None for key in keys if key in table):
            for field_name, problem in certificate_problems(tls):
                table.fault(key_of(TlsConfig, field_name).name, problem)
        return tls

    def _file(self, table: TableReader, key: str) -> str | None:
        name = table.string(key)
        if name is None:
            return None
        try:
            file = self._folder / Path(name).expanduser()
        except RuntimeError:
            table.fault(key, "its home directory is not known; write the path without ~")
            return None
        if problem := file_problem(file):
            table.fault(key, problem)
            return None
        return str(file)

    def _resource_attributes(self) -> dict[str, ResourceValue]:
        attributes: dict[str, ResourceValue] = {**self._variables.resource_attributes()}
        table = self._table.table("resource_attributes")
        for key in table.names() if table else ():
            assert table is not None
            value = table.get(key)
            if key in SET_ELSEWHERE:
                table.fault(key, f"cannot be set here; set {SET_ELSEWHERE[key]} instead")
            elif not key:
                table.fault(key, "an attribute needs a name")
            elif not _is_resource_value(value):
                table.fault(
                    key,
                    "expected a string, a number, a boolean or an array of one of them, "
                    f"got {type_name(value)}",
                )
            elif not _fits_64_bits(value):
                table.fault(key, "an integer must fit in 64 bits")
            else:
                attributes[key] = value
        return attributes

    def _max_output_bytes(self) -> int | None:
        table = self._table.table("tool_result")
        if table is None:
            return None
        smallest = key_of(OtelConfig, "max_output_bytes").smallest
        limit = table.integer("max_bytes", -1, smallest, LARGEST)
        table.finish()
        return None if limit < 0 else limit

    def _batch(self) -> BatchConfig:
        table = self._table.table("batch")
        defaults = BatchConfig()
        values = {}
        for each, key in keys_of(BatchConfig):
            default = getattr(defaults, each.name)
            if table is not None and each.name in table:
                values[each.name] = table.integer(each.name, default, key.smallest, LARGEST)
            else:
                variable = self._variables.batch_setting(each.name, key)
                values[each.name] = default if variable is None else variable
        if table is not None:
            for name in BatchConfig.__slots__:
                table.get(name)
            table.finish()
        if values["max_batch_size"] > values["max_queue_size"] >= 1:
            self._fit_batch_into_queue(values, written=table.names() if table else ())
        return BatchConfig(**values)

    def _fit_batch_into_queue(self, values: dict[str, int], written: Container[str]) -> None:
        """Make a batch no larger than the queue: the size that is not written gives way."""
        batch, queue = values["max_batch_size"], values["max_queue_size"]
        if "max_batch_size" not in written:
            values["max_batch_size"] = queue
        elif "max_queue_size" not in written:
            values["max_queue_size"] = batch
        else:
            self._table.fault(
                "batch",
                f"max_batch_size ({batch}) is more than max_queue_size ({queue}); "
                "a batch comes out of the queue",
            )


_TABLES = {
    OtelConfig: "[otel]",
    BatchConfig: "[otel.batch]",
    ExporterConfig: "the exporter's table: exporter = { otlp-http = { ... } }",
    TlsConfig: "the tls table of the exporter",
}


def _place_of(key: str) -> str | None:
    """Return the fault of a key that stands in another table than its own; None if it has none."""
    for settings, table in _TABLES.items():
        for each, known in keys_of(settings):
            outer, _, name = (known.name or each.name).rpartition(".")
            if name == key:
                place = f"belongs into {f'[otel.{outer}]' if outer else table}"
                return f"{place} (only {known.only} has it)" if known.only else place
    return None


_STATSIG = (
    "'statsig' is the Codex CLI's own service, which takes no events from here; nothing is sent. "
    "Use 'otlp-http' or 'otlp-grpc'"
)


def _unknown_exporter(name: str) -> str:
    if name == "none":
        return "'none' has no table; write exporter = \"none\""
    text = f"expected one of {', '.join(map(repr, EXPORTERS))}"
    if not re.fullmatch(r"[\w-]{1,32}", name):  # perhaps an address, with a password in it
        return text
    hint = nearest(name, EXPORTERS)
    return f"{text}; got {name!r}{hint if 'did you mean' in hint else ''}"


def _fits_64_bits(value: object) -> bool:
    """Return whether OTLP can carry each integer; TOML readers take hexadecimal of any length."""
    return all(
        -(1 << 63) <= item < 1 << 63
        for item in (value if isinstance(value, list) else [value])
        if isinstance(item, int)
    )


def _is_resource_value(value: object) -> bool:
    if isinstance(value, (str, bool, int, float)):
        return True
    return (
        isinstance(value, list)
        and len({type(item) for item in value}) <= 1
        and all(isinstance(item, (str, bool, int, float)) for item in value)
    )
