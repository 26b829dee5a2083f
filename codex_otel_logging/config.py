"""An `[otel]` table becomes an `OtelConfig`; a bad one a `ConfigError` that lists every fault.

The settings are frozen dataclasses; their defaults are the documented ones. Reading is strict: an
unknown key, a wrong type or a value that cannot work is a fault, never a warning. Nothing here
talks to the network, and nothing of OpenTelemetry is imported. Header values, and what `${NAME}`
was replaced by, appear in no message and no `repr`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import SplitResult, unquote, urlsplit

import tomli

from .tables import Faults, TableReader, nearest, type_name

ExporterName = Literal["otlp-http", "otlp-grpc"]
Protocol = Literal["binary", "json"]
Compression = Literal["none", "gzip"]
ResourceValue = str | bool | int | float | list[Any]

EXPORTERS = ("none", "otlp-http", "otlp-grpc")

_OTHER_SIGNALS = ("trace_exporter", "metrics_exporter", "span_attributes", "tracestate")
"""Keys that Codex has in its `[otel]` table for traces and metrics; accepted and left alone."""

_SET_ELSEWHERE = {
    "service.name": "service_name",
    "service.version": "the handler's app_version",
    "env": "environment",
}
"""Resource attributes that have a setting of their own."""

_BATCH_VARIABLES = {
    "schedule_delay_ms": "OTEL_BLRP_SCHEDULE_DELAY",
    "max_batch_size": "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "max_queue_size": "OTEL_BLRP_MAX_QUEUE_SIZE",
}
"""https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/"""


class ConfigError(ValueError):
    """The settings cannot be used; the message has one line for each fault.

    `faults` holds those lines: where, what, and what to do. Neither shows a header's value.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The files of a TLS connection; None means the system's authorities, no client certificate."""

    ca_certificate: str | None = None
    client_certificate: str | None = None
    client_private_key: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ExporterConfig:
    """Where the events go, and how.

    Without an `endpoint` (the exporter was a bare name) the OTLP defaults and the standard
    `OTEL_EXPORTER_OTLP_*` variables decide everything else; with one, they decide nothing.
    """

    name: ExporterName
    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    protocol: Protocol = "binary"
    compression: Compression = "none"
    timeout_ms: int = 10_000
    tls: TlsConfig | None = None

    def __repr__(self) -> str:
        names = ", ".join(f"{name!r}: '***'" for name in self.headers)
        return (
            f"ExporterConfig(name={self.name!r}, endpoint={self.safe_endpoint!r}, "
            f"headers={{{names}}}, protocol={self.protocol!r}, compression={self.compression!r}, "
            f"timeout_ms={self.timeout_ms}, tls={self.tls!r})"
        )

    @property
    def safe_endpoint(self) -> str | None:
        """The endpoint without what may be secret in it: user, password, query."""
        if self.endpoint is None:
            return None
        if "://" not in self.endpoint:
            return self.endpoint.rpartition("@")[2]
        parts = urlsplit(self.endpoint)
        return parts._replace(
            netloc=parts.netloc.rpartition("@")[2], query="", fragment=""
        ).geturl()


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How events are queued, batched and retried; times in milliseconds, sizes in bytes."""

    schedule_delay_ms: int = 1000
    max_batch_size: int = 512
    max_queue_size: int = 131_072
    max_queue_bytes: int = 64 * 1024 * 1024
    max_request_bytes: int = 3_670_016
    retry_for_ms: int = 300_000
    shutdown_timeout_ms: int = 2000


@dataclass(frozen=True, slots=True)
class OtelConfig:
    """All settings; immutable. `OtelConfig()` holds the defaults, under which nothing is sent."""

    environment: str = "dev"
    service_name: str = "codex-cli"
    exporter: ExporterConfig | None = None
    log_user_prompt: bool = False
    log_tool_payloads: bool = True
    resource_attributes: Mapping[str, ResourceValue] = field(
        default_factory=lambda: MappingProxyType({})
    )
    max_attribute_length: int = 65_536
    max_output_bytes: int | None = None
    batch: BatchConfig = field(default_factory=BatchConfig)

    @classmethod
    def from_toml(
        cls,
        path: str | os.PathLike[str],
        *,
        missing_ok: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> OtelConfig:
        """Read the `[otel]` table of a TOML file; the file's other tables are not looked at.

        `~` and `$VAR` in the path are expanded. A file without the table gives the defaults, and so
        does a missing file if `missing_ok`. Paths under `tls` are relative to the file's folder.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or the table has faults.

        """
        file = Path(os.path.expandvars(path)).expanduser()
        try:
            text = file.read_bytes().decode()
            document = tomli.loads(text)
        except FileNotFoundError:
            if missing_ok:
                return cls()
            raise ConfigError(
                f"{file}: no such file; create it, or pass missing_ok=True to run without"
            ) from None
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8"
            ) from None
        except tomli.TOMLDecodeError as error:
            raise ConfigError(f"{file}: not valid TOML: {error}") from None
        otel = document.get("otel", {})
        if not isinstance(otel, dict):
            raise ConfigError(f"{file}: otel: expected a table, got {type_name(otel)}")
        return cls.from_table(otel, where=f"{file}: [otel]", folder=file.parent, environ=environ)

    @classmethod
    def from_table(
        cls,
        otel: Mapping[str, Any],
        *,
        where: str = "[otel]",
        folder: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> OtelConfig:
        """Read an `[otel]` table that is parsed already.

        Args:
            otel: the table.
            where: how messages call it.
            folder: what paths under `tls` are relative to; None means the working directory.
            environ: where `${NAME}` and the `OTEL_*` variables are looked up; None means
                `os.environ`.

        Raises:
            ConfigError: the table has faults; all of them are in it.

        """
        faults = Faults()
        reader = _OtelTable(
            TableReader(otel, where, faults),
            folder or Path(),
            os.environ if environ is None else environ,
        )
        config = reader.read()
        if found := faults.in_order():
            raise ConfigError(*found)
        return config


class _OtelTable:
    """Reads the table's parts, in the order of the documentation."""

    def __init__(self, table: TableReader, folder: Path, environ: Mapping[str, str]) -> None:
        self._table = table
        self._folder = folder
        self._environ = environ

    def read(self) -> OtelConfig:
        table = self._table
        for key in _OTHER_SIGNALS:
            table.get(key)
        if "otel" in table:
            table.get("otel")
            table.fault("otel", "unknown key; pass the table's contents, not what is around it")
        exporter = self._exporter()
        config = OtelConfig(
            environment=table.string("environment", OtelConfig().environment) or "",
            service_name=table.string("service_name", OtelConfig().service_name) or "",
            exporter=exporter,
            log_user_prompt=table.boolean("log_user_prompt", OtelConfig().log_user_prompt),
            log_tool_payloads=table.boolean("log_tool_payloads", OtelConfig().log_tool_payloads),
            resource_attributes=self._resource_attributes(with_environment=exporter is not None),
            max_attribute_length=table.integer(
                "max_attribute_length", OtelConfig().max_attribute_length, minimum=0
            ),
            max_output_bytes=self._max_output_bytes(),
            batch=self._batch(with_environment=exporter is not None),
        )
        table.finish()
        return config

    def _exporter(self) -> ExporterConfig | None:
        table = self._table
        value = table.get("exporter")
        if isinstance(value, dict):
            outer = table.table("exporter")
            assert outer is not None
            if len(value) != 1:
                table.fault(
                    "exporter", "expected one exporter in the table: otlp-http or otlp-grpc"
                )
                return None
            (name,) = value
            if name not in EXPORTERS[1:]:
                table.fault("exporter", _unknown_exporter(name))
                return None
            inner = outer.table(name, environ=self._environ)
            return None if inner is None else self._exporter_table(name, inner)
        name = table.string("exporter", "none")
        if name is not None and name not in EXPORTERS:
            table.fault("exporter", _unknown_exporter(name))
            return None
        if name is None or name == "none":
            return None
        return ExporterConfig(cast("ExporterName", name))

    def _exporter_table(self, name: ExporterName, table: TableReader) -> ExporterConfig:
        over_http = name == "otlp-http"
        endpoint = table.string("endpoint")
        if "endpoint" not in table:
            example = "https://localhost:4318/v1/logs" if over_http else "https://localhost:4317"
            table.fault("endpoint", f"missing; give the collector's address, such as {example!r}")
        elif endpoint is not None:
            problem = (_http_endpoint_problem if over_http else _grpc_endpoint_problem)(endpoint)
            if problem:
                table.fault("endpoint", problem)
        headers = {}
        if (headers_table := table.table("headers")) is not None:
            headers = headers_table.strings(
                _http_header_problem if over_http else _metadata_problem
            )
        config = ExporterConfig(
            name=name,
            endpoint=endpoint or "",
            headers=MappingProxyType(headers if over_http else _lower_case(headers)),
            protocol=cast(
                "Protocol",
                table.choice("protocol", "binary", ("binary", "json")) if over_http else "binary",
            ),
            compression=cast("Compression", table.choice("compression", "none", ("none", "gzip"))),
            timeout_ms=table.integer("timeout_ms", ExporterConfig(name).timeout_ms, minimum=1),
            tls=self._tls(table, plaintext=(endpoint or "").lower().startswith("http://")),
        )
        table.finish()
        return config

    def _tls(self, exporter: TableReader, *, plaintext: bool) -> TlsConfig | None:
        table = exporter.table("tls")
        if table is None:
            return None
        if plaintext:
            exporter.fault("tls", "the endpoint is plaintext; begin it with https:// to use TLS")
        keys = ("ca-certificate", "client-certificate", "client-private-key")
        files = {key: self._file(table, key) for key in keys}
        table.finish()
        authority, certificate, private_key = files.values()
        if ("client-certificate" in table) != ("client-private-key" in table):
            missing = keys[2] if "client-certificate" in table else keys[1]
            table.fault(missing, "missing; a client certificate and its private key go together")
        elif all(files[key] is not None for key in keys if key in table):
            _check_certificates(table, authority, certificate, private_key)
        return TlsConfig(authority, certificate, private_key)

    def _file(self, table: TableReader, key: str) -> str | None:
        name = table.string(key)
        if name is None:
            return None
        file = self._folder / Path(name).expanduser()
        try:
            with file.open("rb"):
                return str(file)
        except OSError as error:
            table.fault(key, f"the file cannot be read: {error.strerror}")
            return None

    def _resource_attributes(self, *, with_environment: bool) -> Mapping[str, ResourceValue]:
        attributes: dict[str, ResourceValue] = {}
        if with_environment:
            attributes |= self._environment_resource()
        if (table := self._table.table("resource_attributes")) is not None:
            for key, value in self._table.get("resource_attributes").items():
                if key in _SET_ELSEWHERE:
                    table.fault(key, f"cannot be set here; set {_SET_ELSEWHERE[key]} instead")
                elif not key:
                    table.fault(key, "an attribute needs a name")
                elif not _is_resource_value(value):
                    table.fault(
                        key,
                        "expected a string, a number, a boolean or an array of one of them, "
                        f"got {type_name(value)}",
                    )
                else:
                    attributes[key] = value
        return MappingProxyType(attributes)

    def _environment_resource(self) -> dict[str, ResourceValue]:
        """Read `OTEL_RESOURCE_ATTRIBUTES`, the lowest layer of the resource.

        https://opentelemetry.io/docs/specs/otel/resource/sdk/
        """
        variable = "OTEL_RESOURCE_ATTRIBUTES"
        attributes: dict[str, ResourceValue] = {}
        for number, item in enumerate(self._environ.get(variable, "").split(","), start=1):
            if not item.strip():
                continue
            key, equals, value = item.partition("=")
            if equals and key.strip():
                attributes[unquote(key.strip())] = unquote(value.strip())
            else:
                self._table.fault(
                    "resource_attributes",
                    f"in the environment variable {variable}, item {number} is not key=value",
                )
        return attributes

    def _max_output_bytes(self) -> int | None:
        table = self._table.table("tool_result")
        if table is None:
            return None
        limit = table.integer("max_bytes", -1, minimum=0)
        table.finish()
        return None if limit < 0 else limit

    def _batch(self, *, with_environment: bool) -> BatchConfig:
        table = self._table.table("batch")
        defaults = BatchConfig()
        values: dict[str, int] = {}
        for key in BatchConfig.__slots__:
            minimum = (
                0 if key in ("schedule_delay_ms", "retry_for_ms", "shutdown_timeout_ms") else 1
            )
            if table is not None and key in table:
                values[key] = table.integer(key, getattr(defaults, key), minimum=minimum)
            elif with_environment and (text := self._environ.get(_BATCH_VARIABLES.get(key, ""))):
                if text.strip().isdecimal() and int(text) >= minimum:
                    values[key] = int(text)
                else:
                    self._table.fault(
                        "batch",
                        f"the environment variable {_BATCH_VARIABLES[key]} "
                        f"should be an integer of at least {minimum}",
                    )
            if table is not None:
                table.get(key)
        config = BatchConfig(**values)
        if table is not None:
            table.finish()
        if config.max_batch_size > config.max_queue_size:
            self._table.fault(
                "batch",
                f"max_batch_size ({config.max_batch_size}) is more than max_queue_size "
                f"({config.max_queue_size}); a batch comes out of the queue",
            )
        return config


def _unknown_exporter(name: str) -> str:
    if name == "statsig":
        return "'statsig' is for metrics only; events go to 'otlp-http' or 'otlp-grpc'"
    expected = ", ".join(map(repr, EXPORTERS))
    return f"expected one of {expected}; got {name!r}{_did_you_mean(name)}"


def _did_you_mean(name: str) -> str:
    hint = nearest(name, EXPORTERS)
    return hint if "did you mean" in hint else ""


def _split(endpoint: str) -> SplitResult | str:
    """Return an address in parts, or what is wrong with it; shows nothing of it."""
    if any(character.isspace() or not character.isprintable() for character in endpoint):
        return "the address has a blank or a control character in it"
    try:
        parts = urlsplit(endpoint)
        if parts.port == 0:
            raise ValueError
    except ValueError:
        return "not an address: the host or the port cannot be read"
    return parts if parts.hostname else "the address has no host"


def _http_endpoint_problem(endpoint: str) -> str | None:
    if not endpoint.lower().startswith(("http://", "https://")):
        return "expected an address that begins with https:// or http://"
    parts = _split(endpoint)
    return parts if isinstance(parts, str) else None


def _grpc_endpoint_problem(endpoint: str) -> str | None:
    scheme, separator, _ = endpoint.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        return "expected https://host:port, http://host:port or host:port"
    parts = _split(endpoint if separator else f"https://{endpoint}")
    if isinstance(parts, str):
        return parts
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "a gRPC address has no path; end it after the port"
    if "@" in parts.netloc:
        return "a gRPC address has no user or password; use headers"
    return None


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METADATA_KEY = re.compile(r"[0-9A-Za-z_.-]+")


def _http_header_problem(name: str, value: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "not a header name; use letters, digits and hyphens"
    if value != value.strip():
        return "the value begins or ends with a blank or a line break"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return "the value has a control character in it"
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return "the value has a character that an HTTP header cannot carry (outside Latin-1)"
    return None


def _metadata_problem(name: str, value: str) -> str | None:
    """Say what gRPC would refuse: https://grpc.io/docs/guides/metadata/."""
    if not _METADATA_KEY.fullmatch(name):
        return "not a metadata key; use letters, digits, hyphens, dots and underscores"
    if name.lower().startswith("grpc-"):
        return "keys that begin with grpc- belong to gRPC itself"
    if name.lower().endswith("-bin"):
        return "binary metadata (-bin) cannot be written here"
    if value != value.strip():
        return "the value begins or ends with a blank or a line break"
    if not (value.isascii() and value.isprintable()):
        return "the value has a character that gRPC metadata cannot carry (outside printable ASCII)"
    return None


def _lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _check_certificates(
    table: TableReader, authority: str | None, certificate: str | None, private_key: str | None
) -> None:
    import ssl  # slow to import, and only TLS needs it

    context = ssl.create_default_context()
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError:
            table.fault("ca-certificate", "no certificate in PEM form is in the file")
    if certificate is not None and private_key is not None:
        try:
            context.load_cert_chain(certificate, private_key, password="")
        except (ssl.SSLError, ValueError):
            table.fault(
                "client-certificate",
                "not a PEM certificate that fits an unencrypted client-private-key",
            )


def _is_resource_value(value: object) -> bool:
    if isinstance(value, (str, bool, int, float)):
        return True
    return (
        isinstance(value, list)
        and len({type(item) for item in value}) <= 1
        and all(isinstance(item, (str, bool, int, float)) for item in value)
    )
