"""Validates endpoints and headers before anything is sent.

Each check returns an error message, or None if the value is valid. No message contains any part of
the value: an address may hold a password, a header a token.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

LOGS_PATH = "/v1/logs"
"""The path for logs: https://opentelemetry.io/docs/specs/otlp/#otlphttp-request."""

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
METADATA_KEY = r"[0-9A-Za-z_.-]+"
GRPC_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""Prefixes of gRPC's own target names: https://github.com/grpc/grpc/blob/master/doc/naming.md.

Environment variables may hold such a target; the setting `endpoint` must name a host.
"""

_RESERVED_HEADERS = ("content-encoding", "content-length", "content-type", "transfer-encoding")


def http_endpoint_problem(endpoint: str) -> str | None:
    """Return what is invalid in the address of an OTLP/HTTP collector, or None."""
    if not endpoint.lower().startswith(("http://", "https://")):
        return "must begin with https:// or http://"
    parts = _parse(endpoint)
    if isinstance(parts, str):
        return parts
    return "must not have a fragment (#...)" if parts.fragment else None


def grpc_endpoint_problem(endpoint: str) -> str | None:
    """Return what is invalid in the address of an OTLP/gRPC collector, or None."""
    scheme, separator, _ = endpoint.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        return "expected https://host:port, http://host:port or host:port"
    parts = _parse(endpoint if separator else f"https://{endpoint}")
    if isinstance(parts, str):
        return parts
    allowed_paths = ("", "/") if separator else ("",)
    if parts.path not in allowed_paths or parts.query or parts.fragment:
        return "must not have a path; end the address after the port"
    if "@" in parts.netloc:
        return "must not contain a user or password; use headers"
    return None


def userinfo_of(address: str) -> str:
    """Return the user and password of an address as written, even if the address is invalid.

    The result is masked in messages, so it must be found where no URL parser finds it.
    """
    scheme, separator, rest = address.partition("://")
    rest = rest if separator else scheme
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", authority):
        authority = rest  # not a host and port: the password has an unencoded '/', '?' or '#'
    return authority.rpartition("@")[0]


def _parse(endpoint: str) -> SplitResult | str:
    """Return the parts of an address, or an error message."""
    # urlsplit removes tabs and newlines: events would go to another address than the one written.
    if any(character.isspace() or not character.isprintable() for character in endpoint):
        return "must not contain whitespace or control characters"
    # Parsers disagree on the host of "http://a\@b": some read the backslash as a slash.
    if "\\" in endpoint:
        return "must not contain a backslash"
    try:
        parts = urlsplit(endpoint)
        if parts.port == 0:  # a port above 65535 raises ValueError by itself
            raise ValueError
    except ValueError:
        return "invalid host or port"
    if not parts.hostname:
        return "missing host"
    if parts.netloc.endswith(":"):  # as a script writes it whose variable is empty
        return "missing port after the colon"
    # "a..b" would fail only when the name is resolved, with a UnicodeError.
    labels = parts.hostname.removesuffix(".").split(".")
    if ":" not in parts.hostname and (not all(labels) or parts.hostname.startswith("*")):
        return "invalid host or port"
    return parts


def http_header_problem(name: str, value: str) -> str | None:
    """Return what is invalid in a header, or None.

    https://www.rfc-editor.org/rfc/rfc9110#section-5
    """
    if not re.fullmatch(TOKEN, name):
        return "invalid header name; use letters, digits and hyphens"
    if name.lower() in _RESERVED_HEADERS:
        return "reserved header; the exporter sets it"
    if value != value.strip():
        return "the value must not begin or end with whitespace"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return "the value must not contain control characters"
    try:
        value.encode("latin-1")  # as http.client encodes it
    except UnicodeEncodeError:
        return "the value must contain Latin-1 characters only"
    return None


def metadata_problem(name: str, value: str) -> str | None:
    """Return what is invalid in an entry of gRPC metadata, or None.

    https://grpc.io/docs/guides/metadata/
    """
    if not re.fullmatch(METADATA_KEY, name):
        return "invalid metadata key; use letters, digits, hyphens, dots and underscores"
    if name.lower().startswith("grpc-"):
        return "reserved metadata key; must not begin with grpc-"
    if name.lower().endswith("-bin"):
        return "binary metadata (-bin) is not supported"
    if value != value.strip():
        return "the value must not begin or end with whitespace"
    if not (value.isascii() and value.isprintable()):
        return "the value must contain printable ASCII characters only"
    return None
