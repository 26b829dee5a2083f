"""Determines the route to a collector: its address, whether TLS is used, and the proxy.

Follows the rules of the exporters: those of `requests` for HTTP, and gRPC's own for gRPC. Only the
command `check` needs the route; exporters find theirs themselves.
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
    """A host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the environment variable that sets it.

    An `opaque` proxy opens no tunnel to the collector: it forwards requests itself, or it is not a
    plain HTTP proxy (HTTPS, SOCKS).
    """

    address: Address
    variable: str
    authorization: str = field(default="", repr=False)
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The route to a collector.

    `host_shown` is the host as written in the settings, with `${NAME}` not replaced: it may be
    printed.
    """

    collector: Address
    host_shown: str
    tls: bool
    proxy: Proxy | None = None

    @property
    def first(self) -> Address:
        """The address that the connection goes to: the proxy's, if there is one."""
        return self.proxy.address if self.proxy else self.collector

    @property
    def setting(self) -> str:
        """The source of that address: an environment variable, or the exporter's `endpoint`."""
        return self.proxy.variable if self.proxy else "endpoint"


_DEFAULT_PORTS = {"https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
"""The ports of proxies without one, as urllib3 and PySocks choose them; otherwise it is 80."""

_DEFAULT_PORT_OF_GRPC = 443
"""gRPC connects to a plain HTTP proxy without a port on this one, as for any other address."""


def route_to(exporter: ExporterConfig) -> Route | None:
    """Return the route of an exporter's requests, or None if its endpoint has no host and port."""
    endpoint = exporter.endpoint
    # gRPC also accepts targets of other kinds, such as "unix:/path", which have no host and port.
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
    # Not with `urlsplit`: it would write `${HOST}` in lower case, and reject `${PORT}`.
    netloc = exporter.safe_endpoint.rpartition("://")[2].partition("/")[0]
    return Route(collector, re.sub(r":[^:\]]*$", "", netloc), tls, proxy)


def _http_proxy(endpoint: str) -> Proxy | None:
    from requests.utils import get_environ_proxies, select_proxy

    url = select_proxy(endpoint, get_environ_proxies(endpoint))
    if not url:
        return None
    scheme = urlsplit(endpoint).scheme
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    return _parse_proxy(url, variable, tunnels=scheme == "https")


def _grpc_proxy(host: str) -> Proxy | None:
    """Return the proxy that gRPC uses, if any.

    https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
    """
    for name in ("no_grpc_proxy", "no_proxy"):
        if (patterns := os.environ.get(name)) is not None:
            if any(_bypasses_proxy(host, each.strip()) for each in patterns.split(",")):
                return None
            break  # gRPC reads only the first variable that is set, even if it is empty
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        if (url := os.environ.get(name)) is not None:
            # gRPC supports plain HTTP proxies only, and ignores others.
            if not url.startswith("http://"):
                return None
            return _parse_proxy(url, name, tunnels=True, default_port=_DEFAULT_PORT_OF_GRPC)
    return None


def _bypasses_proxy(host: str, pattern: str) -> bool:
    """Return whether an entry of `no_proxy`, an IP network or a domain, matches the host."""
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
    domain = pattern.lower().removeprefix(".")
    return bool(domain) and f".{host.lower()}".endswith(f".{domain}")


def _parse_proxy(
    url: str, variable: str, *, tunnels: bool, default_port: int | None = None
) -> Proxy | None:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or default_port or _DEFAULT_PORTS.get(parts.scheme, 80)
        address = Address(parts.hostname or "", port)
    except ValueError:
        return None
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    opaque = not tunnels or parts.scheme != "http"
    return Proxy(address, variable, authorization, opaque)


def usual_authorities(exporter: ExporterConfig) -> str | None:
    """Return the file with the certificate authorities that the exporter trusts by default.

    None means gRPC's built-in authorities, which are in no file; Python's default ones are usually
    the same.
    """
    if not exporter.over_http:
        return os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    variables = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    return next(
        (os.environ[name] for name in variables if os.environ.get(name)), DEFAULT_CA_BUNDLE_PATH
    )
