"""Reads the body of an HTTP request, in memory that is bounded whatever its sender claims.

https://www.rfc-editor.org/rfc/rfc9112#section-6
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Mapping

from ..text import brief
from . import refusals
from .refusals import RefusalError

# No sender means a longer number; 18 digits are far beyond any limit.
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?\r?\n", re.DOTALL)
_MAX_CHUNK_LINE = 4096
_MAX_TRAILER_BYTES = 65_536


def has_body(headers: Mapping[str, str]) -> bool:
    """Return whether a body follows the headers; their names are in lower case."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def read_body(stream: io.BufferedIOBase, headers: Mapping[str, str], limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        RefusalError: it is larger, malformed, or not there as a whole; where the next request
            begins is not known then.

    """
    encoding = headers.get("transfer-encoding")
    length = headers.get("content-length", "0")
    if encoding is None:
        if not _LENGTH.fullmatch(length):
            raise _malformed(f"invalid Content-Length {brief(length)}")
        return _read(stream, _within(limit, int(length)))
    if "content-length" in headers:  # two lengths: an attempt to hide a second request
        raise _malformed("Content-Length and Transfer-Encoding exclude each other")
    if encoding.strip().lower() != "chunked":
        raise RefusalError(
            501, f"unsupported Transfer-Encoding {brief(encoding)}", refusals.MALFORMED
        )
    return _read_chunks(stream, limit)


def from_gzip(body: bytes, limit: int) -> bytes:
    """Return the at most `limit` bytes that a body compresses.

    Raises:
        RefusalError: there are more; no more than `limit` and one were decompressed.
        Exception: the body is not gzip.

    """
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        content = file.read(limit + 1)
    _within(limit, len(content))
    return content


def from_deflate(body: bytes, limit: int) -> bytes:
    """Do the same for deflate with the header of zlib, as gRPC uses it."""
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(body, limit + 1)
    _within(limit, len(content))
    if not decompressor.eof:
        raise EOFError
    return content


def _read_chunks(stream: io.BufferedIOBase, limit: int) -> bytes:
    body = bytearray()
    while size := _chunk_size(stream):
        _within(limit, len(body) + size)
        body += _read(stream, size)
        if stream.readline(2) not in (b"\r\n", b"\n"):
            raise _malformed("a chunk does not have the size that it gives")
    left = _MAX_TRAILER_BYTES
    while (line := stream.readline(left)).strip():
        left -= len(line)
    if not line.endswith(b"\n"):
        raise _malformed("the trailer of the chunks is too long, or not there as a whole")
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
        raise _malformed("the body ended early")
    return read


def _within(limit: int, size: int) -> int:
    if size > limit:
        raise RefusalError(413, *refusals.too_large(limit))
    return size


def _malformed(reason: str) -> RefusalError:
    return RefusalError(400, reason, refusals.MALFORMED)
