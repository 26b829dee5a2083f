"""Reads the `OTEL_*` environment variables as the OpenTelemetry specification defines them.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
https://opentelemetry.io/docs/specs/otel/protocol/exporter/

An empty or blank variable counts as unset. An invalid number, enum value, boolean or header is
ignored with a warning, as the specification says. An invalid endpoint or certificate file is a
fault, because nothing could be exported. No message contains a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import cast, get_args
from urllib.parse import unquote, urlsplit

from .endpoints import (
    GRPC_SCHEMES,
    LOGS_PATH,
    grpc_endpoint_problem,
    http_endpoint_problem,
    http_header_problem,
    metadata_problem,
)
from .files import certificate_problems, file_problem
from .settings import (
    MAX_INTEGER,
    Compression,
    ExporterConfig,
    ExporterName,
    Key,
    TlsConfig,
    keys_of,
)

Report = Callable[[str, str], None]

SDK_DISABLED = "OTEL_SDK_DISABLED"
SERVICE_NAME = "OTEL_SERVICE_NAME"
RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"

EXPORTER_PREFIX = "OTEL_EXPORTER_OTLP_"
"""The prefix of an exporter's variables; a variable for logs overrides the one for all signals."""

LOGS_PREFIX = f"{EXPORTER_PREFIX}LOGS_"
OTHER_PREFIXES = tuple(
    f"{EXPORTER_PREFIX}{signal}_" for signal in ("TRACES", "METRICS", "PROFILES")
)

NEVER_READ = {
    "OTEL_LOGS_EXPORTER": "the setting exporter decides",
    f"{EXPORTER_PREFIX}PROTOCOL": "the setting exporter decides",
    f"{LOGS_PREFIX}PROTOCOL": "the setting exporter decides",
    "OTEL_BLRP_EXPORT_TIMEOUT": "timeout_ms of the exporter decides",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "the setting max_attribute_length decides",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "the setting max_attribute_length decides",
}
"""Variables of the specification that are never read, and the setting that replaces each."""

_MIN_MILLISECONDS = 100
"""A smaller timeout is read as seconds.

The specification says milliseconds, but OpenTelemetry's exporters for Python read seconds, so both
kinds of values are in use. Fewer than 100 are hardly meant as milliseconds, and more as seconds.
"""

_DECIMAL_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether `OTEL_SDK_DISABLED` is true; any other value counts as false."""
    # "Any value not explicitly defined here as a true value, including unset and empty values, MUST
    # be interpreted as false": that includes "1" and "yes".
    return environ.get(SDK_DISABLED, "").strip().lower() == "true"


class Variables:
    """Reads the variables of one environment.

    `warn` and `fault` are called with the name of a setting and a message. `decided` maps each
    setting whose value came from the environment to the variables that it came from.
    """

    def __init__(self, environ: Mapping[str, str], *, warn: Report, fault: Report) -> None:
        self._environ = environ
        self._warn = warn
        self._fault = fault
        self.decided: dict[str, tuple[str, ...]] = {}

    def text(self, variable: str) -> str:
        """Return the value of a variable; an empty string if it is unset."""
        return self._environ.get(variable, "").strip()

    def ignore(self, setting: str, variable: str, why: str) -> None:
        """Warn that a variable is ignored, and why."""
        self._warn(setting, f"environment variable {variable} ignored: {why}")

    def fail(self, setting: str, variable: str, why: str) -> None:
        """Report an invalid variable as a fault."""
        self._fault(setting, f"environment variable {variable}: {why}")

    def service_name(self) -> str:
        """Return the value of `OTEL_SERVICE_NAME`; an empty string if it is unset."""
        if name := self.text(SERVICE_NAME):
            self.decided["service_name"] = (SERVICE_NAME,)
        return name

    def resource_attributes(self) -> dict[str, str]:
        """Return the attributes of `OTEL_RESOURCE_ATTRIBUTES`; none of them if any is invalid.

        "In case of any error, e.g. failure during the decoding process, the entire environment
        variable value SHOULD be discarded": https://opentelemetry.io/docs/specs/otel/resource/sdk/
        """
        attributes = {}
        for number, pair in _list_items(self.text(RESOURCE_ATTRIBUTES)):
            key, equals, value = (part.strip() for part in pair.partition("="))
            if not (equals and key):
                why = f"item {number} must be key=value"
                self.ignore("resource_attributes", RESOURCE_ATTRIBUTES, why)
                return {}
            attributes[unquote(key)] = unquote(value)
        for key in attributes:
            self.decided[f"resource_attributes.{key}"] = (RESOURCE_ATTRIBUTES,)
        return attributes

    def batch_setting(self, name: str, key: Key) -> int | None:
        """Return the value of the variable for a key of `batch`; None if it is unset or invalid."""
        if not (text := self.text(key.variable)):
            return None
        # Ten digits at most: int() raises for more than 4300 of them.
        if re.fullmatch("[0-9]{1,10}", text) and key.smallest <= int(text) <= MAX_INTEGER:
            self.decided[f"batch.{name}"] = (key.variable,)
            return int(text)
        why = f"expected an integer from {key.smallest} to {MAX_INTEGER}"
        self.ignore("batch", key.variable, why)
        return None

    def exporter(self, name: ExporterName) -> ExporterConfig:
        """Return the exporter that the `OTEL_EXPORTER_OTLP_*` variables describe."""
        return _ExporterVariables(name, self).exporter()


def _list_items(text: str) -> Iterator[tuple[int, str]]:
    """Yield each non-empty item of a comma-separated list with its number, counted from 1."""
    items = enumerate(text.split(","), start=1)
    return ((number, item) for number, item in items if item.strip())


class _ExporterVariables:
    """Reads the variables of one exporter."""

    def __init__(self, name: ExporterName, variables: Variables) -> None:
        self._name = name
        self._over_http = name == "otlp-http"
        self._variables = variables

    def exporter(self) -> ExporterConfig:
        endpoint, insecure = self._http_endpoint() if self._over_http else self._grpc_endpoint()
        exporter = ExporterConfig(
            self._name,
            endpoint,
            headers=self._headers(),
            compression=self._compression(),
            timeout_ms=self._timeout_ms(),
            insecure=insecure,
        )
        # Without TLS the files are not read: a stale variable must not make the settings invalid.
        return replace(exporter, tls=self._tls()) if exporter.uses_tls else exporter

    def _values_of(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield each variable of that name that is set, with its value; the one for logs first.

        Callers stop after the first one, which overrides the other, unless they ignore it.
        """
        for variable in (f"{LOGS_PREFIX}{name}", f"{EXPORTER_PREFIX}{name}"):
            if text := self._variables.text(variable):
                yield variable, text

    def _mark_decided(self, setting: str, *variables: str) -> None:
        self._variables.decided[f"exporter.{setting}"] = variables

    def _ignore(self, variable: str, why: str) -> None:
        self._variables.ignore("exporter", variable, why)

    def _fail(self, variable: str, why: str) -> None:
        self._variables.fail("exporter", variable, why)

    def _http_endpoint(self) -> tuple[str, bool]:
        for variable, text in self._values_of("ENDPOINT"):
            self._mark_decided("endpoint", variable)
            if problem := http_endpoint_problem(text):
                self._fail(variable, problem)
            elif not variable.startswith(LOGS_PREFIX):
                # A base address. Only the variable for logs is used as it is written:
                # https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp
                parts = urlsplit(text)
                text = parts._replace(path=f"{parts.path.rstrip('/')}{LOGS_PATH}").geturl()
            return text, False
        return f"http://localhost:4318{LOGS_PATH}", False

    def _grpc_endpoint(self) -> tuple[str, bool]:
        """Return the target, and whether it is plaintext although no scheme says so.

        A scheme of the endpoint takes precedence over `INSECURE`, as the specification says.
        """
        for variable, text in self._values_of("ENDPOINT"):
            self._mark_decided("endpoint", variable)
            scheme, separator, rest = text.partition("://")
            if separator and scheme.lower() in ("http", "https"):
                # gRPC has no path; an address that was set for OTLP/HTTP may have one.
                text = f"{scheme.lower()}://{re.split('[/?#]', rest)[0]}"
                insecure = False
            else:
                insecure = self._insecure(variable)
            if text.startswith(GRPC_SCHEMES):
                return text, insecure
            if problem := grpc_endpoint_problem(text):
                self._fail(variable, problem)
            elif "://" not in text:
                text = f"{'http' if insecure else 'https'}://{text}"
            return text, False
        return "http://localhost:4317", False

    def _insecure(self, endpoint: str) -> bool:
        for variable, text in self._values_of("INSECURE"):
            self._mark_decided("endpoint", endpoint, variable)
            if text.lower() not in ("true", "false"):  # counts as false, so the connection is TLS
                self._ignore(variable, "expected true or false")
            return text.lower() == "true"
        return False

    def _compression(self) -> Compression:
        for variable, text in self._values_of("COMPRESSION"):
            if text.lower() in get_args(Compression):
                self._mark_decided("compression", variable)
                return cast("Compression", text.lower())
            # No return: an invalid variable for logs gives way to the one for all signals.
            self._ignore(variable, f"expected {' or '.join(get_args(Compression))}")
        return "none"

    def _timeout_ms(self) -> int:
        for variable, text in self._values_of("TIMEOUT"):
            # float() alone would accept "nan", "inf", "1_000" and digits of other scripts.
            number = float(text) if _DECIMAL_NUMBER.fullmatch(text) else -1.0
            if 0 <= number <= MAX_INTEGER:
                self._mark_decided("timeout_ms", variable)
                return _to_ms(number)
            self._ignore(variable, "expected milliseconds, or seconds if less than 100")
        return 10_000

    def _headers(self) -> dict[str, str]:
        """Return the headers, with names in lower case."""
        problem_of = http_header_problem if self._over_http else metadata_problem
        headers: dict[str, str] = {}
        for variable, text in self._values_of("HEADERS"):
            for number, pair in _list_items(text):
                name, equals, value = (part.strip() for part in pair.partition("="))
                # Values should be percent-encoded, but many people paste "Bearer <token>" as it is.
                # The space shows that it is not encoded; decoding would damage a '%' in the token.
                if " " not in value:
                    name, value = unquote(name).strip(), unquote(value).strip()
                problem = problem_of(name, value) if equals else "expected key=value"
                if problem:
                    self._ignore(f"{variable}, item {number},", problem)
                else:
                    headers[name.lower()] = value
                    self._mark_decided(f"headers.{name.lower()}", variable)
            break  # the variable for logs replaces the one for all signals; they are not merged
        return headers

    def _tls(self) -> TlsConfig:
        """Return the TLS files; one client file may hold both the certificate and its key."""
        paths: dict[str, str] = {}
        variables: dict[str, str] = {}
        for field, key in keys_of(TlsConfig):
            for variable, path in self._values_of(_FILE_VARIABLES[field.name]):
                if problem := file_problem(path):
                    self._fail(variable, problem)
                else:
                    paths[field.name], variables[field.name] = path, variable
                    self._mark_decided(f"tls.{key.name}", variable)
                break
        # requests and the official exporters accept a certificate file that also holds the key.
        if "client_certificate" in paths:
            paths.setdefault("client_private_key", paths["client_certificate"])
        elif paths.pop("client_private_key", None):
            self._ignore(variables["client_private_key"], "missing client certificate")
        tls = TlsConfig(**paths)
        for name, problem in certificate_problems(tls):
            self._fail(variables[name], problem)
        return tls


_FILE_VARIABLES = {
    "ca_certificate": "CERTIFICATE",
    "client_certificate": "CLIENT_CERTIFICATE",
    "client_private_key": "CLIENT_KEY",
}
"""The end of the variable's name for each field of `TlsConfig`."""


def _to_ms(timeout: float) -> int:
    """Return a timeout in milliseconds; 0 means no limit and becomes the largest timeout."""
    if timeout < _MIN_MILLISECONDS:
        timeout *= 1000
    return max(round(timeout), 1) if timeout else MAX_INTEGER
