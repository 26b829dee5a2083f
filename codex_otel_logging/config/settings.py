"""The settings of exporter, TLS, batching and spool, as frozen dataclasses with defaults.

A field with `setting` is a key of the `[otel]` table. Its metadata is the only place that describes
the key: reading, the schema and the documentation use it. No `repr` shows a header's value or the
value of a `${NAME}` in the exporter's table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

from .endpoints import LOGS_PATH, userinfo_of

ExporterName = Literal["otlp-http", "otlp-grpc"]
Protocol = Literal["binary", "json"]
Compression = Literal["none", "gzip"]

MAX_INTEGER = (1 << 31) - 1
"""The maximum of every integer setting."""

EXAMPLE_ENDPOINTS: dict[ExporterName, str] = {
    "otlp-http": f"http://localhost:4318{LOGS_PATH}",
    "otlp-grpc": "http://localhost:4317",
}


class Key(NamedTuple):
    """Describes a key of the `[otel]` table, except for its type and default.

    Attributes:
        description: a phrase in Markdown.
        name: the key, if it differs from the field's name; a dot separates a table and its key.
        smallest: the minimum of an integer.
        largest: the maximum of an integer.
        variable: the environment variable that is read if the key is absent.
        required: whether the key must be present.
        choices: the valid strings.
        exporter: the only exporter that has the key; None if both have it.

    """

    description: str
    name: str = ""
    smallest: int = 1
    largest: int = MAX_INTEGER
    variable: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()
    exporter: ExporterName | None = None


def setting(description: str, **more: Any) -> dict[str, Key]:
    """Return the metadata of a field that is a key; `more` are further attributes of `Key`."""
    return {"key": Key(description, **more)}


def keys_of(settings: Any) -> list[tuple[Field[Any], Key]]:
    """Return the fields of a settings class that are keys of the table, each with its `Key`."""
    return [(each, each.metadata["key"]) for each in fields(settings) if "key" in each.metadata]


def key_of(settings: Any, name: str) -> Key:
    """Return the `Key` of the field `name` of a settings class."""
    return next(found for each, found in keys_of(settings) if each.name == name)


@dataclass(frozen=True, slots=True, repr=False)
class TlsConfig:
    """The PEM files of a TLS connection.

    Without `ca_certificate`, the system's authorities are trusted; without `client_certificate`, no
    client certificate is sent.
    """

    ca_certificate: str | None = field(
        default=None,
        metadata=setting(
            "PEM file of certificate authorities to trust instead of the system's, relative to the "
            "TOML file",
            name="ca-certificate",
        ),
    )
    client_certificate: str | None = field(
        default=None,
        metadata=setting(
            "PEM file of the client certificate, relative to the TOML file",
            name="client-certificate",
        ),
    )
    client_private_key: str | None = field(
        default=None,
        metadata=setting(
            "PEM file of the client certificate's unencrypted key, relative to the TOML file",
            name="client-private-key",
        ),
    )

    def __repr__(self) -> str:
        given = ", ".join(f"{name}=..." for name in self.__slots__ if getattr(self, name))
        return f"TlsConfig({given})"


@dataclass(frozen=True, slots=True, repr=False)
class ExporterConfig:
    """The exporter, and where and how it sends events.

    `written_endpoint` is the endpoint as written, before `${NAME}` is expanded; `variable_values`
    are the values of its variables. Neither is set if the setting was only the exporter's name.
    `insecure` means plaintext for a gRPC target without `http://` or `https://`.
    """

    name: ExporterName
    endpoint: str = field(
        metadata=setting(
            "the collector's address, used exactly as written; over gRPC, `http://` means "
            "plaintext and anything else TLS",
            required=True,
        ),
    )
    headers: Mapping[str, str] = field(
        default_factory=dict, metadata=setting("headers sent with every request")
    )
    protocol: Protocol = field(
        default="binary",
        metadata=setting(
            '`"binary"` or `"json"`; HTTP only', exporter="otlp-http", choices=get_args(Protocol)
        ),
    )
    compression: Compression = field(
        default="none", metadata=setting('`"none"` or `"gzip"`', choices=get_args(Compression))
    )
    timeout_ms: int = field(
        default=10_000, metadata=setting("timeout of one request in milliseconds")
    )
    tls: TlsConfig | None = field(default=None, metadata=setting("files of the TLS connection"))
    # Not compared: exporters are equal if they export to the same place in the same way, however
    # that is written. `attachment` finds events that are exported twice by comparing exporters.
    written_endpoint: str | None = field(default=None, compare=False)
    variable_values: tuple[str, ...] = field(default=(), compare=False)
    insecure: bool = False

    def __repr__(self) -> str:
        # Tracebacks and debuggers show it: no value of a header, and no secret of the endpoint.
        names = ", ".join(f"{name!r}: '***'" for name in self.headers)
        return (
            f"ExporterConfig(name={self.name!r}, endpoint={self.safe_endpoint!r}, "
            f"headers={{{names}}}, protocol={self.protocol!r}, compression={self.compression!r}, "
            f"timeout_ms={self.timeout_ms}, tls={self.tls!r})"
        )

    @property
    def safe_endpoint(self) -> str:
        """The endpoint as written, without the parts that may be secret: user, password, query."""
        # As written, `${NAME}` included: the value of a variable in the path may be a key.
        return _without_secrets(self.written_endpoint or self.endpoint)

    @property
    def destination(self) -> str:
        """Exporter and address, without secrets: where events on disk may be exported to.

        A path that is not in the endpoint as written came from a variable. It may be a key, so a
        part of its hash takes its place: another key may be that of another tenant.
        """
        address = _without_secrets(self.endpoint)
        scheme, separator, rest = address.rpartition("://")
        host, _, path = rest.partition("/")
        is_written = self.is_bare or f"/{path}" in (self.written_endpoint or "")
        if not is_written and path not in ("", "v1/logs"):
            from hashlib import sha256  # slow to import, and rarely needed

            digest = sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            address = f"{scheme}{separator}{host}/({digest})"
        return f"{self.name} {address}"

    @property
    def is_bare(self) -> bool:
        """Whether the setting was only a name; `OTEL_*` variables then configure the exporter."""
        return self.written_endpoint is None

    @property
    def over_http(self) -> bool:
        """Whether the exporter uses OTLP/HTTP; otherwise it uses OTLP/gRPC."""
        return self.name == "otlp-http"

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        endpoint = self.endpoint.lower()
        if self.over_http:
            return endpoint.startswith("https://")
        return not (self.insecure or endpoint.startswith("http://"))


def _without_secrets(address: str) -> str:
    """Return an address without user, password, query and fragment."""
    if userinfo := userinfo_of(address):
        address = address.replace(f"{userinfo}@", "", 1)
    return re.split("[?#]", address, maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How events are queued, batched and retried. Times are in milliseconds.

    The variables are those of the specification's batch log record processor:
    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """

    schedule_delay_ms: int = field(
        default=1000,
        metadata=setting(
            "maximum time in milliseconds that an event waits for its batch to fill",
            smallest=0,
            variable="OTEL_BLRP_SCHEDULE_DELAY",
        ),
    )
    max_batch_size: int = field(
        default=1024,
        metadata=setting(
            "maximum number of events in one request", variable="OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"
        ),
    )
    max_queue_size: int = field(
        default=131_072,
        metadata=setting(
            "maximum number of queued events; further events are dropped and counted",
            variable="OTEL_BLRP_MAX_QUEUE_SIZE",
        ),
    )
    max_queue_bytes: int = field(
        default=110 * 1024 * 1024,
        metadata=setting(
            "maximum memory of queued events in bytes; 110 MiB hold 125,000 typical tool results"
        ),
    )
    max_request_bytes: int = field(
        default=3_670_016, metadata=setting("maximum bytes in one request")
    )
    retry_for_ms: int = field(
        default=300_000,
        metadata=setting(
            "how long in milliseconds a failed export is retried before its events are dropped",
            smallest=0,
        ),
    )
    shutdown_timeout_ms: int = field(
        default=2000,
        metadata=setting(
            "time in milliseconds without progress after which the flush at exit gives up",
            smallest=0,
        ),
    )


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Where queued events are kept on disk, so that they survive the process.

    `path` is absolute.
    """

    path: str = field(
        metadata=setting(
            "directory for queued events, created with mode 0700; relative to the TOML file",
            required=True,
        )
    )
    max_bytes: int = field(
        default=512 << 20,
        metadata=setting(
            "maximum size in bytes of all files in the directory, which several processes may "
            "share; beyond it, further events are kept in memory only",
            largest=1 << 50,
        ),
    )
    keep_for_ms: int = field(
        default=604_800_000,
        metadata=setting(
            "time in milliseconds after which events that cannot be exported are dropped; 0 means "
            "no limit",
            smallest=0,
        ),
    )
