"""Alternatives to this package, each configured as its users would.

Packages that need a remote service or another protocol are not included (Datadog, Azure Monitor,
Google Cloud Logging, Loki).
"""

from __future__ import annotations

import logging
from importlib import import_module

from application import (
    ARGUMENTS,
    CALL_ID,
    COMMON_FIELDS,
    OUTPUT,
    Subject,
    WithConversation,
    temporary_directory,
)


class Nothing(logging.Handler):
    """A handler whose `emit` does nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        return


class Official(Subject):
    """OpenTelemetry's handler, batch processor and exporter with their defaults."""

    title = "OpenTelemetry's handler, HTTP"
    packages: tuple[str, ...] = (
        "opentelemetry-instrumentation-logging",
        "opentelemetry-exporter-otlp-proto-http",
    )
    transport: str | None = "http"

    def configure(self, endpoint: str) -> None:
        exporter = import_module(
            f"opentelemetry.exporter.otlp.proto.{self.transport}._log_exporter"
        )
        instrumentation = import_module("opentelemetry.instrumentation.logging.handler")
        logs = import_module("opentelemetry.sdk._logs")
        export = import_module("opentelemetry.sdk._logs.export")
        resources = import_module("opentelemetry.sdk.resources")
        resource = resources.Resource.create({"service.name": "codex-cli", "env": "dev"})
        self._provider = logs.LoggerProvider(resource=resource)
        self._provider.add_log_record_processor(
            export.BatchLogRecordProcessor(exporter.OTLPLogExporter(endpoint=endpoint))
        )
        self.logger.addHandler(instrumentation.LoggingHandler(logger_provider=self._provider))

    def flush(self) -> None:
        self._provider.force_flush()


class OfficialGrpc(Official):
    title = "OpenTelemetry's handler, gRPC"
    packages: tuple[str, ...] = (
        "opentelemetry-instrumentation-logging",
        "opentelemetry-exporter-otlp-proto-grpc",
    )
    transport = "grpc"


class Structlog(Official):
    """A structlog logger with bound context variables, in front of OpenTelemetry's handler."""

    title = "structlog, OpenTelemetry's handler, HTTP"
    packages: tuple[str, ...] = ("structlog", *Official.packages)

    def configure(self, endpoint: str) -> None:
        super().configure(endpoint)
        structlog = import_module("structlog")
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.render_to_log_kwargs,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=True,
        )
        structlog.contextvars.bind_contextvars(**COMMON_FIELDS)
        self._structlog = structlog.get_logger("codex_otel.tools")

    def log(self, count: int, output: str = OUTPUT) -> None:
        for _ in range(count):
            self._structlog.info(
                "codex.tool_result",
                tool_name="shell",
                call_id=CALL_ID,
                arguments=ARGUMENTS,
                duration_ms=153,
                success="false",
                output=output,
            )


class Logfire(Subject):
    """Logfire's handler with the user's own OTLP exporter; it exports spans."""

    title = "logfire, HTTP"
    packages: tuple[str, ...] = ("logfire", "opentelemetry-exporter-otlp-proto-http")
    transport = "http"

    def configure(self, endpoint: str) -> None:
        self._logfire = import_module("logfire")
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        export = import_module("opentelemetry.sdk.trace.export")
        processor = export.BatchSpanProcessor(exporter.OTLPSpanExporter(endpoint=endpoint))
        self._logfire.configure(
            send_to_logfire=False, console=False, additional_span_processors=[processor]
        )
        self.logger.addHandler(self._logfire.LogfireLoggingHandler())

    def flush(self) -> None:
        self._logfire.force_flush()


class Sentry(Subject):
    """Sentry's logs, captured from `logging` by its default integration."""

    title = "sentry-sdk, HTTP"
    packages: tuple[str, ...] = ("sentry-sdk",)
    transport = "http"

    def configure(self, endpoint: str) -> None:
        self._sentry = import_module("sentry_sdk")
        address = endpoint.split("/")[2]
        self._sentry.init(dsn=f"http://key@{address}/1", enable_logs=True)

    def flush(self) -> None:
        self._sentry.flush(timeout=120)


class Queued(WithConversation):
    """`QueueHandler` with a listener that discards records: the cost of a queue alone."""

    title = "`QueueHandler` to nothing"

    def configure(self, endpoint: str) -> None:
        handlers = import_module("logging.handlers")
        self._queue = import_module("queue").Queue()
        handlers.QueueListener(self._queue, Nothing()).start()
        self.logger.addHandler(handlers.QueueHandler(self._queue))

    def flush(self) -> None:
        self._queue.join()


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: the message and the fields, as applications write it."""

    def __init__(self) -> None:
        super().__init__()
        self._json = import_module("json")
        self._standard = logging.makeLogRecord({}).__dict__.keys()

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in record.__dict__.items() if k not in self._standard}
        line: str = self._json.dumps(
            {"time": record.created, "level": record.levelname, "event": record.msg, **fields}
        )
        return line


class JsonFile(Subject):
    """`FileHandler` with a JSON formatter: what keeps events on disk without this package."""

    title = "`FileHandler`, JSON"

    def configure(self, endpoint: str) -> None:
        handler = logging.FileHandler(f"{temporary_directory()}/events.jsonl")
        handler.setFormatter(_JsonFormatter())
        self.logger.addHandler(handler)
