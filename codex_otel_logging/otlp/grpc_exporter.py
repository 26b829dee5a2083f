"""Exports events over OTLP/gRPC, through the official exporter.

The official exporter gets an empty batch and makes the call. An interceptor on its channel sends
the request that `encoder` built, and keeps the answer, which `grpc_answers` converts to an outcome.
`docs/design.md` lists what is replaced in the official exporters, and why.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.sdk._logs.export import LogRecordExportResult

from ..config.files import MAX_PEM_BYTES, read_file
from ..config.settings import ExporterConfig, TlsConfig
from ..delivery.exporter import Outcome
from ..events.event import Event, SharedAttributes
from ..native import wall_clock
from .encoder import OtlpRequests
from .fork_gate import hold_forks
from .grpc_answers import judge
from .isolation import draw_own_random_numbers, isolated, original
from .reasons import forget_frames

_NO_OWN_RETRIES = (grpc.StatusCode.OK,)
"""The codes on which the official exporter retries: one that no failure has.

An empty tuple would select its default codes.
"""

_OWN_CONNECTIONS: Any = (("grpc.use_local_subchannel_pool", 1),)
"""The option that gives each channel its own connection.

By default, channels to the same address share connections, so a new channel would reuse a dead
connection of another one.
"""

_SPARE_DESCRIPTORS = 16
"""More file descriptors than gRPC needs for a channel."""


class GrpcExporter:
    """Exports events to an OTLP/gRPC collector; see `delivery.exporter.Exporter`."""

    def __init__(self, config: ExporterConfig, shared: SharedAttributes) -> None:
        self._config = config
        self._requests = OtlpRequests(shared)
        self._interceptor = _CallInterceptor(config)
        self._exporter = self._build()
        self._is_stale = False
        draw_own_random_numbers()

    @isolated
    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Send the events in one call and return the outcome.

        Blocks for at most the timeout of the settings, or `timeout_s` if that is shorter.

        Raises:
            InterruptedError: a fork has cancelled the call; another exporter is needed.
            OSError: a certificate file cannot be read, or too few files can be opened.
            ValueError: the official exporter made no call.

        """
        request = self._requests.request(events)
        if self._is_stale:
            self._rebuild()
        self._interceptor.reset(request, timeout_s)
        try:
            with hold_forks(on_timeout=self._exporter.cancel_call):
                self._exporter.export(())
        except OSError:
            raise
        except Exception:
            if self._interceptor.last is None:
                raise
            # There is an answer. The official exporter raises on some that it cannot decode.
        if isinstance(self._interceptor.last, Exception):  # gRPC's form of a failed call
            forget_frames(self._interceptor.last)
        if self._exporter.is_cancelled:
            raise InterruptedError(errno.EINTR, "interrupted by a fork")
        if self._interceptor.last is None:
            raise ValueError("the exporter made no call")
        outcome = judge(self._interceptor.last, len(request), self._config)
        # A collector that answers with RetryInfo has a working connection. After any other
        # temporary failure, the connection may be dead or a certificate may have expired: a channel
        # keeps a silent connection, and reads the certificate files only once.
        self._is_stale = outcome.verdict == "retry" and outcome.retry_after_s is None
        return outcome

    def shutdown(self) -> None:
        """Close the channel."""
        self._exporter.shutdown()

    def _build(self) -> _InterceptedExporter:
        return _InterceptedExporter(self._interceptor, **_arguments(self._config))

    def _rebuild(self) -> None:
        """Replace the channel and read the certificate files again.

        Raises:
            OSError: a certificate file cannot be read, or too few files can be opened.

        """
        with hold_forks():
            self._exporter.shutdown()
            self._exporter = self._build()


def _arguments(config: ExporterConfig) -> dict[str, Any]:
    return {
        "endpoint": config.endpoint,
        "insecure": not config.uses_tls,
        "credentials": _credentials(config.tls or TlsConfig()) if config.uses_tls else None,
        "timeout": config.timeout_ms / 1000,
        "compression": (
            grpc.Compression.Gzip
            if config.compression == "gzip"
            else grpc.Compression.NoCompression
        ),
    }


def _credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    files = (tls.ca_certificate, tls.client_private_key, tls.client_certificate)
    return grpc.ssl_channel_credentials(*(_content_of(file) if file else None for file in files))


def _content_of(file: str) -> bytes:
    """Return the content of a certificate file.

    Raises:
        OSError: it cannot be read, or is empty, as while it is being replaced.

    """
    content = read_file(file, MAX_PEM_BYTES)
    if not content:
        # gRPC ends the process if a key or a client certificate is empty. Without authorities, it
        # trusts the system's.
        raise OSError(errno.EINVAL, "a certificate file is empty")
    return content


class _InterceptedExporter(OTLPLogExporter):
    """The official exporter, with our interceptor on every channel that it creates.

    Its constructor takes no interceptor, and it creates a new channel after an outage. So the
    method that does this is overridden. It is private; a test notices when it is removed.
    """

    def __init__(self, interceptor: _CallInterceptor, **arguments: Any) -> None:
        self._interceptor = interceptor
        self.is_cancelled = False
        # Skips the constructor of `OTLPLogExporter`, which reads OTEL_EXPORTER_OTLP_LOGS_TIMEOUT
        # even if it gets a timeout, and raises if the variable is empty or invalid.
        arguments |= {"stub": LogsServiceStub, "result": LogRecordExportResult, "signal": "logs"}
        OTLPExporterMixin.__init__(
            self,
            retryable_error_codes=_NO_OWN_RETRIES,
            channel_options=_OWN_CONNECTIONS,
            **arguments,
        )

    def cancel_call(self) -> None:
        """Cancel the call that another thread is making. The exporter cannot be used afterwards."""
        self.is_cancelled = True
        self.shutdown()

    def _initialize_channel_and_stub(self) -> None:
        _check_descriptors()
        # `original` skips the wrappers of tracing agents, which would trace the calls.
        options = {"options": self._channel_options, "compression": self._compression}
        if self._insecure:
            self._channel = original(grpc.insecure_channel)(self._endpoint, **options)
        else:
            self._channel = original(grpc.secure_channel)(
                self._endpoint, self._credentials, **options
            )
        channel = original(grpc.intercept_channel)(self._channel, self._interceptor)
        self._client = self._stub(_Channel(channel))


class _Channel:
    """The part of a channel that the stub uses; takes serialized requests, accepts any response.

    If a response cannot be decoded, gRPC replaces the status OK with INTERNAL, and the events would
    count as rejected. But the status is final, as over HTTP: the collector has accepted them.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, **options: Any) -> Any:
        """Return the callable for a method."""
        options |= {"request_serializer": None, "response_deserializer": _read}
        return self._channel.unary_unary(method, **options)


def _read(response: bytes) -> ExportLogsServiceResponse:
    try:
        return ExportLogsServiceResponse.FromString(response)
    except DecodeError:
        return ExportLogsServiceResponse()


def _check_descriptors() -> None:
    """Check that gRPC can open the files that it needs.

    Raises:
        OSError: the process has too many files open.

    """
    # gRPC's C core aborts the whole process if it cannot open a file.
    with ExitStack() as opened:
        for _ in range(_SPARE_DESCRIPTORS):
            opened.enter_context(open(os.devnull))  # noqa: PTH123


class _CallInterceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Replaces the exporter's request and headers by our own, and keeps the last call in `last`."""

    def __init__(self, config: ExporterConfig) -> None:
        self._metadata = tuple(config.headers.items())
        self._request: bytes | None = None
        self._timeout_s: float | None = None
        self.last: Any = None

    def reset(self, request: bytes, timeout_s: float | None) -> None:
        """Forget the last call; send `request` in the next one, within `timeout_s` if given."""
        self._request = request
        self._timeout_s = timeout_s
        self.last = None

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Make the call with our request instead of the exporter's, and keep it."""
        details = _CallDetails(client_call_details)
        # Replaces the exporter's metadata, which may come from OTEL_EXPORTER_OTLP_HEADERS.
        details.metadata = self._metadata
        if self._timeout_s is not None:
            details.timeout = min(details.timeout, self._timeout_s)
        # gRPC for Python adds the timeout to `time.time()`, but its core compares the result with
        # the system's clock. If a test freezes Python's time, calls would fail at once or never.
        details.timeout += wall_clock() - time.time()
        self.last = continuation(details, self._request)
        self._request = None
        return self.last


class _CallDetails(grpc.ClientCallDetails):  # type: ignore[misc]
    """A copy of a call's details that can be changed; gRPC passes them as a named tuple."""

    def __init__(self, details: grpc.ClientCallDetails) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = details.metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
