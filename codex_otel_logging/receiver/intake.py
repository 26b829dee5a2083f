"""Decodes requests, a few at a time, and hands them on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from . import messages, refusals
from .received import ReceivedRequest, Transport
from .refusals import RefusalError

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

AT_ONCE = 4
"""How many requests are decoded at once; each takes up to a hundred times its size meanwhile."""

_BYTES_PER_ITEM = 40
"""No real log record is smaller. One of two bytes takes 700 bytes in Python."""


class Intake:
    """Decodes requests and hands them to `receive`.

    Args:
        receive: called with each request, from several threads at once.
        max_bytes: how large a request may be, as sent and as decompressed.

    """

    def __init__(self, receive: Callable[[ReceivedRequest], object], max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._receive = receive
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def take(
        self,
        transport: Transport,
        headers: Mapping[str, str],
        body: bytes,
        decompress: Callable[[bytes, int], bytes] | None,
    ) -> None:
        """Decode a request and hand it on; blocks while too many others are decoded.

        `decompress` is a function of `bodies`, or None if the body is not compressed.

        Raises:
            RefusalError: it is too large or malformed.
            Exception: what `receive` raises.

        """
        with self._slots:
            message = self._decode(transport, body, decompress)
            self._receive(ReceivedRequest(transport, headers, message))

    def _decode(
        self,
        transport: Transport,
        body: bytes,
        decompress: Callable[[bytes, int], bytes] | None,
    ) -> ExportLogsServiceRequest:
        try:
            if decompress:
                body = decompress(body, self.max_bytes)
            message = messages.parse(body, transport)
        except RefusalError:
            raise
        except Exception as error:
            reason = f"the body cannot be read: {type(error).__name__}"
            raise RefusalError(400, reason, refusals.SEND_LOGS) from error
        if not _has_at_most(self.max_bytes // _BYTES_PER_ITEM, message):
            raise RefusalError(413, *refusals.too_large(self.max_bytes))
        return message


def _has_at_most(limit: int, message: ExportLogsServiceRequest) -> bool:
    """Return whether a request has at most `limit` resources, scopes and log records in all."""
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
