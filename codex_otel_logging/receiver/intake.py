"""Decodes requests, a few at a time, and hands them over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from . import messages, refusals
from .bodies import Decompress
from .received import ReceivedRequest, Transport
from .refusals import RefusalError

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

MAX_CONCURRENT = 4
"""How many requests are decoded at once. Each takes up to a hundred times its size in memory."""

_MIN_BYTES_PER_ITEM = 40
"""The assumed minimum size of a record; it limits how many a request may hold.

Real records are larger. But an empty one takes two bytes in a request and 700 in memory.
"""


class Intake:
    """Decodes requests and hands them over.

    Args:
        on_request: called with each request, from several threads at once.
        max_bytes: maximum size of a request, as sent and as decompressed.

    """

    def __init__(self, on_request: Callable[[ReceivedRequest], object], max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._on_request = on_request
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT)

    def accept(
        self,
        transport: Transport,
        headers: Mapping[str, str],
        body: bytes,
        decompress: Decompress | None,
    ) -> None:
        """Decode a request and hand it over.

        Blocks while `MAX_CONCURRENT` others are being handled. `decompress` is None if the body is
        not compressed.

        Raises:
            RefusalError: the request is too large or malformed.
            Exception: raised by `on_request`.

        """
        with self._slots:
            message = self._decode(transport, body, decompress)
            self._on_request(ReceivedRequest(transport, headers, message))

    def _decode(
        self,
        transport: Transport,
        body: bytes,
        decompress: Decompress | None,
    ) -> ExportLogsServiceRequest:
        try:
            if decompress:
                body = decompress(body, self.max_bytes)
            message = messages.parse(body, transport)
        except RefusalError:
            raise
        except Exception as error:  # json, protobuf and zlib raise many types, RecursionError too
            # Only the type is reported: the text may quote the body.
            reason = f"invalid body: {type(error).__name__}"
            raise RefusalError(400, reason, refusals.SEND_LOGS) from error
        if not _has_at_most(self.max_bytes // _MIN_BYTES_PER_ITEM, message):
            raise RefusalError(413, *refusals.too_large(self.max_bytes))
        return message


def _has_at_most(limit: int, message: ExportLogsServiceRequest) -> bool:
    """Return whether a request has at most `limit` resources, scopes and log records in total."""
    left = limit
    for resource in message.resource_logs:
        left -= 1 + len(resource.scope_logs)
        for scope in resource.scope_logs:
            left -= len(scope.log_records)
            if left < 0:
                return False
        if left < 0:
            return False
    return True
