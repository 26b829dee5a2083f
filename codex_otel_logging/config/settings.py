"""The parts of the settings: exporter, TLS, batching; frozen, with the documented defaults.

A field with `setting` is a key of the `[otel]` table. What is to be known of it stands there and
nowhere else: reading, the schema and README take it from there. The settings' `repr` shows neither
a header's value nor anything that `${NAME}` was replaced by.
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

LARGEST = (1 << 31) - 1
"""The largest integer of any setting."""

EXAMPLE_ENDPOINTS: dict[ExporterName, str] = {
    "otlp-http": f"https://localhost:4318{LOGS_PATH}",
    "otlp-grpc": "https://localhost:4317",
}


class Key(NamedTuple):
    """What is to be known of a key of the table beside its type and default.

    `description` is Markdown. `name` is the key where the field is called something else,
    `smallest` the lower limit of an integer, `choices` what a string may be, `variable` the
    environment variable that decides where the key is absent, `exporter` the only one that has it.
    """

    description: str
    name: str = ""
    smallest: int = 1
    variable: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()
    exporter: ExporterName | None = None


def setting(description: str, **more: Any) -> dict[str, Key]:
    """Return the metadata of a field that is a key; `more` are the other arguments of `Key`."""
    return {"key": Key(description, **more)}


def keys_of(settings: Any) -> list[tuple[Field[Any], Key]]:
    """Return the fields of a class of settings that are keys, and what is to be known of each."""
    return [(each, each.metadata["key"]) for each in fields(settings) if "key" in each.metadata]


def key_of(settings: Any, name: str) -> Key:
    """Return what is to be known of the field `name`."""
    return next(found for each, found in keys_of(settings) if each.name == name)


@dataclass(frozen=True, slots=True, repr=False)
class TlsConfig:
    """The files of a TLS connection; None means the system's authorities, no client certificate."""

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

    `written_endpoint` is the endpoint before `${NAME}` was replaced, `replaced` what was put in. An
    exporter that was a bare name has neither.
    `insecure` means plaintext where the endpoint has no scheme that says so.
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
    written_endpoint: str | None = field(default=None, compare=False)
    replaced: tuple[str, ...] = field(default=(), compare=False)
    insecure: bool = False

    def __repr__(self) -> str:
        names = ", ".join(f"{name!r}: '***'" for name in self.headers)
        return (
            f"ExporterConfig(name={self.name!r}, endpoint={self.safe_endpoint!r}, "
            f"headers={{{names}}}, protocol={self.protocol!r}, compression={self.compression!r}, "
            f"timeout_ms={self.timeout_ms}, tls={self.tls!r})"
        )

    @property
    def safe_endpoint(self) -> str:
        """The endpoint as it was written, without what may be secret: user, password, query."""
        endpoint = self.written_endpoint or self.endpoint
        if userinfo := userinfo_of(endpoint):
            endpoint = endpoint.replace(f"{userinfo}@", "", 1)
        return re.split("[?#]", endpoint, maxsplit=1)[0]

    @property
    def is_bare(self) -> bool:
        """Whether the setting was a name only, so that the environment describes the exporter."""
        return self.written_endpoint is None

    @property
    def over_http(self) -> bool:
        """Whether the exporter speaks OTLP/HTTP; otherwise, it speaks OTLP/gRPC."""
        return self.name == "otlp-http"

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        endpoint = self.endpoint.lower()
        if self.over_http:
            return endpoint.startswith("https://")
        return not (self.insecure or endpoint.startswith("http://"))


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How events are queued, batched and retried; times in milliseconds, sizes in bytes.

    The variables: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
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
