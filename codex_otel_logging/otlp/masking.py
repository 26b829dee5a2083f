"""Masks secrets in text from a collector or a library before it is logged or printed.

Secrets are header values, the endpoint's credentials and query, values that replaced a `${NAME}`,
and the credentials of proxies in the environment. Each is masked as a whole, in its parts, and in
every notation in which a collector or a library may repeat it.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from ..config.endpoints import userinfo_of
from ..config.settings import ExporterConfig

MASK = "***"

_MIN_LENGTH = 4
"""Shorter strings are not masked: as secrets they are worthless, and many words contain them."""

# Anything that is not printable ASCII separates parts, and so does punctuation. A collector that
# rejects a header such as "api-key=s3cret; org=acme" may repeat only one part of it.
_HEADER_SEPARATORS = re.compile(r"[^!-~]+|[,;:=\"']+")
_URL_SEPARATORS = re.compile(r"[^!-~]+|[/?&=#@:,;]+")

_PUBLIC_WORDS = frozenset(("basic", "bearer", "http", "https", "logs", "token"))
"""Parts that stay readable: authentication and URL schemes, and words of the standard path."""


def mask(text: str, config: ExporterConfig) -> str:
    """Return `text` with every secret of `config` and of the environment's proxies masked."""
    for secret in _secrets_of(config):
        text = _in_any_notation(secret).sub(MASK, text)
    return text


def _secrets_of(config: ExporterConfig) -> list[str]:
    """Return the strings to mask, longest first.

    The order matters: a secret that contains another one must be replaced before it.
    """
    found = {*_in_headers(config.headers.values()), *_in_url(config.endpoint)}
    for value in config.variable_values:
        found |= {value, *_parts(value, _URL_SEPARATORS)}
    # Read at each call: requests and gRPC read the variables when they connect.
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            # `get`: another thread may have removed the variable meanwhile.
            found.update(_credentials(userinfo_of(os.environ.get(name, ""))))
    found |= {unquote(secret) for secret in found}
    return sorted((s for s in found if len(s) >= _MIN_LENGTH), key=lambda s: (-len(s), s))


def _parts(text: str, separators: re.Pattern[str]) -> Iterator[str]:
    return (part for part in separators.split(text) if part.lower() not in _PUBLIC_WORDS)


def _in_headers(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield value
        yield from _parts(value, _HEADER_SEPARATORS)
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "basic":
            # A collector decodes these and may name the user, or quote the pair.
            with suppress(binascii.Error, UnicodeDecodeError):
                yield from _credentials(base64.b64decode(credentials).decode())


def _in_url(url: str) -> Iterator[str]:
    """Yield the secrets in a URL: user, password, the query, and the query's values."""
    yield from _credentials(userinfo_of(url))
    with suppress(ValueError):  # not a valid URL
        query = urlsplit(url).query
        yield query
        for pair in re.split("[&;]", query):
            name, equals, value = pair.partition("=")
            # Without "=" the name is the value, as in "?s3cret".
            yield from (value, unquote_plus(value)) if equals else (name,)


def _credentials(userinfo: str) -> Iterator[str]:
    """Yield `user:password`, its two parts, and its Basic authentication (RFC 7617)."""
    user, _, password = userinfo.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    yield from (userinfo, user, password)
    if userinfo:
        for encoding in ("utf-8", "latin-1"):  # requests uses Latin-1, RFC 7617 suggests UTF-8
            encoded = base64.b64encode(pair.encode(encoding, "replace")).decode()
            yield from (encoded, encoded.rstrip("="))


def _in_any_notation(secret: str) -> re.Pattern[str]:
    """Return a pattern for a secret, of which any character may be encoded or escaped.

    Case is ignored: requests sends a host in lower case, and so proxies quote it.
    """
    return re.compile("".join(map(_character, secret)), re.IGNORECASE)


def _character(character: str) -> str:
    """Return a pattern for a character: as it is, percent-encoded, or as in JSON or HTML."""
    if character.isascii() and character.isalnum():  # never encoded
        return character
    code = f"{ord(character):x}"
    notations = {
        character,
        quote(character, safe=""),
        f"%{code}",
        quote_plus(character),
        json.dumps(character)[1:-1],
        f"\\u{code:0>4}",
        f"\\x{code:0>2}",
        f"\\{character}",
        html.escape(character),
        f"&#{ord(character)};",
        f"&#x{code};",
    }
    return f"(?:{'|'.join(map(re.escape, sorted(notations)))})"
