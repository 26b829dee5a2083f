"""The `OTEL_*` environment variables, read as the specification says.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
https://opentelemetry.io/docs/specs/otel/protocol/exporter/

An empty or blank variable counts as unset. A number, an enum value or a boolean that cannot be read
is ignored with a warning, and so is a header that cannot be sent. An endpoint or a file that cannot
work is a fault, because nothing could be exported. No message contains a value.
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
from .settings import LARGEST, Compression, ExporterConfig, ExporterName, Key, TlsConfig, keys_of

Report = Callable[[str, str], None]

SDK_DISABLED = "OTEL_SDK_DISABLED"
SERVICE_NAME = "OTEL_SERVICE_NAME"
RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"

EXPORTERS = "OTEL_EXPORTER_OTLP_"
"""How the variables of exporters begin; the one for logs counts before the one for all signals."""

LOGS_EXPORTERS = f"{EXPORTERS}LOGS_"
OTHER_EXPORTERS = tuple(f"{EXPORTERS}{signal}_" for signal in ("TRACES", "METRICS", "PROFILES"))

NEVER_READ = {
    "OTEL_LOGS_EXPORTER": "the setting exporter decides",
    f"{EXPORTERS}PROTOCOL": "the setting exporter decides",
    f"{LOGS_EXPORTERS}PROTOCOL": "the setting exporter decides",
    "OTEL_BLRP_EXPORT_TIMEOUT": "timeout_ms of the exporter decides",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "the setting max_attribute_length decides",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "the setting max_attribute_length decides",
}
"""Variables of the specification that a setting stands for, and which one."""

_SMALLEST_IN_MS = 100
"""A smaller timeout is in seconds, as the official Python exporters read it."""

_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether `OTEL_SDK_DISABLED` turns everything off."""
    return environ.get(SDK_DISABLED, "").strip().lower() == "true"


class Variables:
    """The variables of one environment.

    `warn` and `fault` receive the setting that a variable stands for, and what is ignored or cannot
    work. `decided` names the variables behind each setting that they decided.
    """

    def __init__(self, environ: Mapping[str, str], *, warn: Report, fault: Report) -> None:
        self._environ = environ
        self._warn = warn
        self._fault = fault
        self.decided: dict[str, tuple[str, ...]] = {}

    def text(self, variable: str) -> str:
        """Return the value of a variable; empty if it is unset."""
        return self._environ.get(variable, "").strip()

    def ignore(self, setting: str, variable: str, why: str) -> None:
        """Report that a variable is ignored."""
        self._warn(setting, f"environment variable {variable} ignored: {why}")

    def fail(self, setting: str, variable: str, why: str) -> None:
        """Report that a variable has a value that cannot work."""
        self._fault(setting, f"environment variable {variable}: {why}")

    def service_name(self) -> str:
        """Return the value of `OTEL_SERVICE_NAME`; empty if it is unset."""
        if name := self.text(SERVICE_NAME):
            self.decided["service_name"] = (SERVICE_NAME,)
        return name

    def resource_attributes(self) -> dict[str, str]:
        """Return the attributes of `OTEL_RESOURCE_ATTRIBUTES`; none if any of them is invalid.

        https://opentelemetry.io/docs/specs/otel/resource/sdk/
        """
        attributes = {}
        for number, pair in _pairs(self.text(RESOURCE_ATTRIBUTES)):
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
        """Return the value of the variable that stands in for a key under `batch`, if it is set."""
        if not (text := self.text(key.variable)):
            return None
        if re.fullmatch("[0-9]{1,10}", text) and key.smallest <= int(text) <= LARGEST:
            self.decided[f"batch.{name}"] = (key.variable,)
            return int(text)
        why = f"expected an integer from {key.smallest} to {LARGEST}"
        self.ignore("batch", key.variable, why)
        return None

    def exporter(self, name: ExporterName) -> ExporterConfig:
        """Return the exporter that the `OTEL_EXPORTER_OTLP_*` variables describe."""
        return _OtlpVariables(name, self).exporter()


def _pairs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the items of a list that are not empty, each with its number."""
    items = enumerate(text.split(","), start=1)
    return ((number, item) for number, item in items if item.strip())


class _OtlpVariables:
    """Reads the variables of one exporter; for each, the one for logs counts first."""

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
        return replace(exporter, tls=self._tls()) if exporter.uses_tls else exporter

    def _set(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the variables that are set, and their values; the one for logs first."""
        for variable in (f"{LOGS_EXPORTERS}{name}", f"{EXPORTERS}{name}"):
            if text := self._variables.text(variable):
                yield variable, text

    def _decides(self, setting: str, *variables: str) -> None:
        self._variables.decided[f"exporter.{setting}"] = variables

    def _ignore(self, variable: str, why: str) -> None:
        self._variables.ignore("exporter", variable, why)

    def _fail(self, variable: str, why: str) -> None:
        self._variables.fail("exporter", variable, why)

    def _http_endpoint(self) -> tuple[str, bool]:
        for variable, text in self._set("ENDPOINT"):
            self._decides("endpoint", variable)
            if problem := http_endpoint_problem(text):
                self._fail(variable, problem)
            elif not variable.startswith(
                LOGS_EXPORTERS
            ):  # a base address, to which the signal's path is added
                parts = urlsplit(text)
                text = parts._replace(path=f"{parts.path.rstrip('/')}{LOGS_PATH}").geturl()
            return text, False
        return f"http://localhost:4318{LOGS_PATH}", False

    def _grpc_endpoint(self) -> tuple[str, bool]:
        """Return the target with a scheme, which counts before `INSECURE`, and what that says."""
        for variable, text in self._set("ENDPOINT"):
            self._decides("endpoint", variable)
            scheme, separator, rest = text.partition("://")
            if separator and scheme.lower() in ("http", "https"):
                text = f"{scheme.lower()}://{re.split('[/?#]', rest)[0]}"  # gRPC has no path
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
        for variable, text in self._set("INSECURE"):
            self._decides("endpoint", endpoint, variable)
            if text.lower() not in ("true", "false"):
                self._ignore(variable, "expected true or false")
            return text.lower() == "true"
        return False

    def _compression(self) -> Compression:
        for variable, text in self._set("COMPRESSION"):
            if text.lower() in get_args(Compression):
                self._decides("compression", variable)
                return cast("Compression", text.lower())
            self._ignore(variable, f"expected {' or '.join(get_args(Compression))}")
        return "none"

    def _timeout_ms(self) -> int:
        for variable, text in self._set("TIMEOUT"):
            number = float(text) if _NUMBER.fullmatch(text) else -1.0
            if 0 <= number <= LARGEST:
                self._decides("timeout_ms", variable)
                return _in_ms(number)
            self._ignore(variable, "expected milliseconds, or seconds if less than 100")
        return 10_000

    def _headers(self) -> dict[str, str]:
        """Read `key=value` pairs, percent-encoded unless they contain a blank."""
        problem_of = http_header_problem if self._over_http else metadata_problem
        headers: dict[str, str] = {}
        for variable, text in self._set("HEADERS"):
            for number, pair in _pairs(text):
                name, equals, value = (part.strip() for part in pair.partition("="))
                if " " not in value:
                    name, value = unquote(name).strip(), unquote(value).strip()
                problem = problem_of(name, value) if equals else "expected key=value"
                if problem:
                    self._ignore(f"{variable}, item {number},", problem)
                else:
                    headers[name.lower()] = value
                    self._decides(f"headers.{name.lower()}", variable)
            break
        return headers

    def _tls(self) -> TlsConfig:
        """Read the files of the connection; one client file may hold certificate and key."""
        paths: dict[str, str] = {}
        variables: dict[str, str] = {}
        for field, key in keys_of(TlsConfig):
            for variable, path in self._set(_FILES[field.name]):
                if problem := file_problem(path):
                    self._fail(variable, problem)
                else:
                    paths[field.name], variables[field.name] = path, variable
                    self._decides(f"tls.{key.name}", variable)
                break
        if "client_certificate" in paths:
            paths.setdefault("client_private_key", paths["client_certificate"])
        elif paths.pop("client_private_key", None):
            self._ignore(variables["client_private_key"], "missing client certificate")
        tls = TlsConfig(**paths)
        for name, problem in certificate_problems(tls):
            self._fail(variables[name], problem)
        return tls


_FILES = {
    "ca_certificate": "CERTIFICATE",
    "client_certificate": "CLIENT_CERTIFICATE",
    "client_private_key": "CLIENT_KEY",
}
"""The end of the variable for each field of `TlsConfig`."""


def _in_ms(timeout: float) -> int:
    """Return a timeout in milliseconds; zero means no limit, which is the largest one."""
    if timeout < _SMALLEST_IN_MS:
        timeout *= 1000
    return max(round(timeout), 1) if timeout else LARGEST
