"""Masks secrets in text that comes from a collector or a library.

Secrets are header values, credentials and query of the endpoint, what `${NAME}` was replaced by in
it, and the credentials of the environment's proxies. Each is masked as a whole, in its parts, and
in the spellings in which a collector or a library may repeat it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from ..config.endpoints import userinfo_of
from ..config.settings import ExporterConfig

MASK = "***"

_SHORTEST = 4
"""Shorter strings are no secrets, and every other word may contain them."""

_HEADER_SEPARATORS = re.compile(r"[^!-~]+|[,;:=\"']+")
_URL_SEPARATORS = re.compile(r"[^!-~]+|[/?&=#@:,;]+")

_PUBLIC_WORDS = frozenset(("basic", "bearer", "http", "https", "logs", "token"))
"""Parts of a secret that are not secret: schemes, and the standard path."""


def mask(text: str, config: ExporterConfig) -> str:
    """Return `text` with every secret of `config` and of the environment's proxies masked."""
    for secret in secrets_of(config):
        text = text.replace(secret, MASK)
    return text


def secrets_of(config: ExporterConfig) -> list[str]:
    """Return the strings to mask, the longest first."""
    found = {*_of_headers(config.headers.values()), *_of_address(config.endpoint)}
    for value in config.replaced:
        found |= {value, *_parts(value, _URL_SEPARATORS)}
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy"):
            found.update(_credentials(userinfo_of(value)))
    spelled = {s for secret in _long(found) for s in _spellings(secret)}
    return sorted(_long(spelled), key=lambda s: (-len(s), s))


def _long(strings: Iterable[str]) -> Iterator[str]:
    return (s for s in strings if len(s) >= _SHORTEST)


def _parts(text: str, separators: re.Pattern[str]) -> Iterator[str]:
    return (part for part in separators.split(text) if part.lower() not in _PUBLIC_WORDS)


def _of_headers(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield value
        yield from _parts(value, _HEADER_SEPARATORS)
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                yield from _credentials(base64.b64decode(credentials).decode())


def _of_address(address: str) -> Iterator[str]:
    """Yield what is secret in an address: user, password, and the query with its values."""
    yield from _credentials(userinfo_of(address))
    with suppress(ValueError):
        query = urlsplit(address).query
        yield query
        for pair in re.split("[&;]", query):
            name, equals, value = pair.partition("=")
            yield from (value, unquote_plus(value)) if equals else (name,)


def _credentials(userinfo: str) -> Iterator[str]:
    """Yield `user:password`, its two parts, and its Basic authentication (RFC 7617)."""
    user, _, password = userinfo.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    yield from (userinfo, user, password)
    if userinfo:
        for encoding in ("utf-8", "latin-1"):  # libraries differ
            encoded = base64.b64encode(pair.encode(encoding, "replace")).decode()
            yield from (encoded, encoded.rstrip("="))


def _spellings(secret: str) -> Iterator[str]:
    """Yield a secret as it is, percent-decoded, percent-encoded, and escaped."""
    yield from (secret, unquote(secret), quote(secret), quote(secret, safe=""), quote_plus(secret))
    yield json.dumps(secret)[1:-1]
