"""The parts of the settings: exporter, TLS, batching; frozen, with the documented defaults.

Their `repr` shows neither a header's value nor anything that `${NAME}` was replaced by.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

ExporterName = Literal["otlp-http", "otlp-grpc"]
Protocol = Literal["binary", "json"]
Compression = Literal["none", "gzip"]


@dataclass(frozen=True, slots=True, repr=False)
class TlsConfig:
    """The files of a TLS connection; None means the system's authorities, no client certificate."""

    ca_certificate: str | None = None
    client_certificate: str | None = None
    client_private_key: str | None = None

    def __repr__(self) -> str:
        given = ", ".join(f"{name}=..." for name in self.__slots__ if getattr(self, name))
        return f"TlsConfig({given})"


@dataclass(frozen=True, slots=True, repr=False)
class ExporterConfig:
    """Where the events go, and how.

    Without an `endpoint` (the exporter was a bare name) the OTLP defaults and the standard
    `OTEL_EXPORTER_OTLP_*` variables decide everything else; with one, they decide nothing.
    `written_endpoint` is the endpoint before `${NAME}` was replaced.
    """

    name: ExporterName
    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    protocol: Protocol = "binary"
    compression: Compression = "none"
    timeout_ms: int = 10_000
    tls: TlsConfig | None = None
    written_endpoint: str | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        names = ", ".join(f"{name!r}: '***'" for name in self.headers)
        return (
            f"ExporterConfig(name={self.name!r}, endpoint={self.safe_endpoint!r}, "
            f"headers={{{names}}}, protocol={self.protocol!r}, compression={self.compression!r}, "
            f"timeout_ms={self.timeout_ms}, tls={self.tls!r})"
        )

    @property
    def safe_endpoint(self) -> str | None:
        """The endpoint as it was written, without what may be secret: user, password, query."""
        endpoint = self.written_endpoint or self.endpoint
        if endpoint is None:
            return None
        scheme, separator, rest = endpoint.rpartition("://")
        host, slash, path = rest.partition("/")
        path = path.partition("?")[0].partition("#")[0]
        return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"

    @property
    def secrets(self) -> list[str]:
        """What nobody may repeat: the headers' values, their words, the endpoint's secrets.

        For an exporter without settings of its own, the headers are the environment's.
        """
        parts = urlsplit(self.endpoint or "")
        values = [*self.headers.values(), parts.username, parts.password, parts.query]
        values += [unquote(value) for value in (parts.username, parts.password) if value]
        if self.endpoint is None:
            for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"):
                for pair in os.environ.get(variable, "").split(","):
                    values.append(unquote(pair.partition("=")[2].strip()))
        words = [word for value in values if value for word in (value, *value.split())]
        return sorted(set(words), key=len, reverse=True)


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How events are queued, batched and retried; times in milliseconds, sizes in bytes."""

    schedule_delay_ms: int = 1000
    max_batch_size: int = 512
    max_queue_size: int = 131_072
    max_queue_bytes: int = 88 * 1024 * 1024
    max_request_bytes: int = 3_670_016
    retry_for_ms: int = 300_000
    shutdown_timeout_ms: int = 2000
