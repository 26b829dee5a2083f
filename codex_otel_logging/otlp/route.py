"""The way to a collector: its address, whether with TLS, and through which proxy.

It is found as the exporters find it: `requests` for HTTP, gRPC's own variables for gRPC.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..config.endpoints import GRPC_SCHEMES
from ..config.settings import ExporterConfig


class Address(NamedTuple):
    """A host's name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the environment variable that names it.

    One that is `opaque` opens no tunnel to the collector: it takes requests itself, or is no plain
    HTTP proxy.
    """

    address: Address
    variable: str
    authorization: str = field(default="", repr=False)
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a collector.

    `host_shown` is its host as the settings have it, before `${NAME}` is replaced.
    """

    collector: Address
    host_shown: str
    tls: bool
    proxy: Proxy | None = None

    @property
    def first(self) -> Address:
        """Where the connection goes."""
        return self.proxy.address if self.proxy else self.collector

    @property
    def setting(self) -> str:
        """What names that address: a variable of the environment, or the exporter's `endpoint`."""
        return self.proxy.variable if self.proxy else "endpoint"


def route_to(exporter: ExporterConfig) -> Route | None:
    """Return the way of an exporter's requests, or None if its address has no host and port."""
    endpoint = exporter.endpoint or ""
    if "://" not in endpoint if exporter.over_http else endpoint.startswith(GRPC_SCHEMES):
        return None
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        tls = parts.scheme == "https"
        default_port = 443 if tls or not exporter.over_http else 80
        collector = Address(parts.hostname or "", parts.port or default_port)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not collector.host:
        return None
    proxy = _http_proxy(endpoint) if exporter.over_http else _grpc_proxy(collector.host)
    netloc = (exporter.safe_endpoint or "").rpartition("://")[2].partition("/")[0]
    return Route(collector, re.sub(r":[^:\]]*$", "", netloc), tls, proxy)


def _http_proxy(endpoint: str) -> Proxy | None:
    from requests.utils import get_environ_proxies, select_proxy

    url = select_proxy(endpoint, get_environ_proxies(endpoint))
    if not url:
        return None
    scheme = urlsplit(endpoint).scheme
    names = [f"{scheme}_proxy", f"{scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY"]
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    return _proxy(url, variable, tunnels=scheme == "https")


def _grpc_proxy(host: str) -> Proxy | None:
    """Return the proxy that gRPC takes.

    https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
    """
    for name in ("no_grpc_proxy", "no_proxy"):
        if exceptions := os.environ.get(name):
            if any(_is_exception(host, each.strip()) for each in exceptions.split(",")):
                return None
            break
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        if url := os.environ.get(name):
            return _proxy(url, name, tunnels=True) if url.startswith("http://") else None
    return None


def _is_exception(host: str, exception: str) -> bool:
    if not exception:
        return False
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    return host.lower().endswith(exception.lower())


def _proxy(url: str, variable: str, *, tunnels: bool) -> Proxy | None:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        address = Address(parts.hostname or "", parts.port or 80)
    except ValueError:
        return None
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    opaque = not tunnels or parts.scheme != "http"
    return Proxy(address, variable, authorization, opaque)


def usual_authorities(exporter: ExporterConfig) -> str | None:
    """Return the file of the authorities that the exporter trusts when the settings name none.

    gRPC brings its own; this machine's stand for them.
    """
    if not exporter.over_http:
        return os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    variables = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    return next(
        (os.environ[name] for name in variables if os.environ.get(name)), DEFAULT_CA_BUNDLE_PATH
    )
