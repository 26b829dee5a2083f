"""Reads the body of an HTTP request in bounded memory, whatever length the sender declares.

https://www.rfc-editor.org/rfc/rfc9112#section-6
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping

from ..text import brief
from . import refusals
from .refusals import RefusalError

Decompress = Callable[[bytes, int], bytes]
"""Decompresses a body, up to a limit in bytes: `from_gzip` or `from_deflate`."""

# `int` alone is too lenient: it accepts "+2", "1_0" and Arabic digits, which a proxy may read
# differently. Numbers of more than 18 digits are far beyond any limit.
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?\r?\n", re.DOTALL)
_MAX_CHUNK_LINE = 4096
_MAX_TRAILER_BYTES = 65_536


def has_body(headers: Mapping[str, str]) -> bool:
    """Return whether a body follows the headers, whose names are in lower case."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def read_body(stream: io.BufferedIOBase, headers: Mapping[str, str], limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        RefusalError: the body is larger, malformed or incomplete. The stream's position is then
            unknown, so the connection must be closed.

    """
    encoding = headers.get("transfer-encoding")
    length = headers.get("content-length", "0")
    if encoding is None:
        if not _LENGTH.fullmatch(length):
            raise _malformed(f"invalid Content-Length {brief(length)}")
        return _read(stream, _checked(limit, int(length)))
    # A request with both may be an attempt to hide a second request from a proxy (RFC 9112, 6.3).
    if "content-length" in headers:
        raise _malformed("Content-Length and Transfer-Encoding must not both be set")
    if encoding.strip().lower() != "chunked":
        raise RefusalError(
            501, f"unsupported Transfer-Encoding {brief(encoding)}", refusals.MALFORMED
        )
    return _read_chunks(stream, limit)


def from_gzip(body: bytes, limit: int) -> bytes:
    """Decompress a gzip body of at most `limit` decompressed bytes.

    Raises:
        RefusalError: the content is larger.
        Exception: the body is not valid gzip.

    """
    # Decompresses no more than one byte beyond the limit: 2 MB of gzip can hold 2 GB.
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        content = file.read(limit + 1)
    _checked(limit, len(content))
    return content


def from_deflate(body: bytes, limit: int) -> bytes:
    """Decompress a deflate body with a zlib header, as gRPC sends it; otherwise as `from_gzip`."""
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(body, limit + 1)
    _checked(limit, len(content))
    if not decompressor.eof:  # incomplete; zlib itself does not complain
        raise EOFError
    return content


def _read_chunks(stream: io.BufferedIOBase, limit: int) -> bytes:
    # A `bytearray`, because many small chunks appended to `bytes` would take quadratic time.
    body = bytearray()
    while size := _chunk_size(stream):
        _checked(limit, len(body) + size)
        body += _read(stream, size)
        if stream.readline(2) not in (b"\r\n", b"\n"):
            raise _malformed("a chunk does not match its size")
    left = _MAX_TRAILER_BYTES
    while (line := stream.readline(left)).strip():
        left -= len(line)
    if not line.endswith(b"\n"):
        raise _malformed("the trailer section is too long or incomplete")
    return bytes(body)


def _chunk_size(stream: io.BufferedIOBase) -> int:
    line = stream.readline(_MAX_CHUNK_LINE)
    match = _CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise _malformed(f"invalid chunk size {brief(line.decode('latin-1').strip())}")
    return int(match[1], 16)


def _read(stream: io.BufferedIOBase, size: int) -> bytes:
    read = stream.read(size)
    if len(read) < size:
        raise _malformed("the body is incomplete")
    return read


def _checked(limit: int, size: int) -> int:
    """Return `size`; refuse the request if it exceeds the limit."""
    if size > limit:
        raise RefusalError(413, *refusals.too_large(limit))
    return size


def _malformed(reason: str) -> RefusalError:
    return RefusalError(400, reason, refusals.MALFORMED)
