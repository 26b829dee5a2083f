"""Exports events over OTLP/HTTP, as protobuf or JSON, through the official exporters.

The official exporter posts with our `requests.Session` (`http_session`, on the connections of
`http_connections`), and `http_answers` converts the answer to an outcome. For protobuf, it gets an
empty batch, and the session posts the request that `encoder` built. `docs/design.md` lists what is
replaced in the official exporters, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config.settings import ExporterConfig
from ..delivery.exporter import Outcome
from ..events.event import Event, SharedAttributes
from .encoder import OtlpRequests
from .http_answers import judge, unanswered
from .http_session import Session
from .isolation import draw_own_random_numbers, isolated
from .sdk_records import OtlpRecords

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter


class HttpExporter:
    """Sends events to an OTLP/HTTP collector; see `delivery.exporter.Exporter`."""

    def __init__(self, config: ExporterConfig, shared: SharedAttributes) -> None:
        self._config = config
        # JSON is encoded by the official exporter, from the SDK's log records.
        self._records = OtlpRecords(shared) if config.protocol == "json" else None
        self._requests = OtlpRequests(shared)
        self._session = Session(config)
        self._exporter = (_json_exporter if config.protocol == "json" else _protobuf_exporter)(
            config, self._session
        )
        draw_own_random_numbers()

    @isolated
    def export(self, events: Sequence[Event], timeout_s: float | None = None) -> Outcome:
        """Post the events in one request and return the outcome.

        Blocks for at most the timeout of the settings, or `timeout_s` if that is shorter.

        Raises:
            ValueError: the events cannot be encoded.

        """
        self._session.reset(timeout_s)
        if self._records is not None:
            self._exporter.export(self._records.batch(events))
        else:
            self._session.body = self._requests.request(events)
            self._exporter.export(())
        if (error := self._session.error) is not None:
            return unanswered(error, self._config)
        if (answer := self._session.answer) is None:  # the exporter sent nothing
            raise ValueError("the exporter could not encode the events")
        return judge(answer, self._config)

    def shutdown(self) -> None:
        """Close the connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _protobuf_exporter(config: ExporterConfig, session: Session) -> LogRecordExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter(
        endpoint=config.endpoint,
        headers=dict(config.headers),
        timeout=config.timeout_ms / 1000,
        compression=Compression(config.compression),
        session=session,
    )


def _json_exporter(config: ExporterConfig, session: Session) -> LogRecordExporter:
    # This exporter has no `session` argument. It takes a transport, but only as a private argument,
    # and the module with the transports is private as well. A test notices when either changes.
    from opentelemetry.exporter.http.transport._requests import RequestsHTTPTransport
    from opentelemetry.exporter.otlp.common.http import Compression
    from opentelemetry.exporter.otlp.json.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter(
        endpoint=config.endpoint,
        headers=dict(config.headers),
        timeout=config.timeout_ms / 1000,
        compression=Compression(config.compression),
        _transport=RequestsHTTPTransport(session=session),
    )
