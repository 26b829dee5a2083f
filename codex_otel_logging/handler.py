"""The handler: settings, events, delivery and exporters, put together under logging's contract.

`from_toml`, `from_table` and `configure` build one; `flush` waits for all of them.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

from . import attachment, diagnostics
from .attachment import EVENT_LOGGER
from .config.environment import is_disabled
from .config.otel_config import OtelConfig
from .config.settings import ExporterConfig
from .config.tables import ConfigError
from .delivery import lifecycle
from .delivery.flushing import flush_all
from .delivery.forks import PROCESS_MARK, reset_in_child
from .delivery.lifecycle import Pipeline
from .delivery.queue import Stats
from .delivery.worker import Worker
from .diagnostics import is_own_export
from .events.checks import EventChecks
from .events.event import Event, SharedAttributes
from .events.reader import EventReader
from .events.redaction import Redaction
from .otlp import fork_gate
from .otlp.factory import connect, import_beside_greenlets, missing_package, prepare

if TYPE_CHECKING:
    from typing_extensions import Unpack

FLUSH_TIMEOUT_S = 10.0
"""How long `CodexOtelHandler.flush()` waits when it is not told."""

_sinks: list[Callable[[Event], object]] = []
"""What takes the events of all handlers in place of their queues; only the last one gets them."""


class CodexOtelHandler(logging.Handler):
    """Sends the events logged under `codex_otel` to an OTLP collector.

    Attach it to the logger `codex_otel` only. Building it imports nothing of OpenTelemetry, starts
    no thread and opens no connection; the first event does. Logging through it never raises and
    never blocks. All methods may be called from any thread.

    Args:
        config: the path of a TOML file with an `[otel]` table, an `[otel]` table that is parsed
            already, an `OtelConfig`, or None for the defaults, under which nothing is sent.
        app_version: the application's version: the default of `app.version`, and the resource's
            `service.version`.
        missing_ok: whether a TOML file that does not exist means the defaults.
        strict: whether an exporter whose package is not installed, a key that is not known, or an
            environment variable that is invalid raises instead of being one warning.
        level: the lowest level that is sent.

    Raises:
        ConfigError: the settings have faults; all of them are in it.

    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | OtelConfig | None = None,
        *,
        app_version: str | None = None,
        missing_ok: bool = False,
        strict: bool = False,
        level: int | str = logging.NOTSET,
    ) -> None:
        # All that can fail comes first: logging keeps a list of the handlers that were begun.
        settings = _settings(config, missing_ok=missing_ok, strict=strict)
        self._exporter_config = _usable_exporter(settings, strict=strict)
        self._pipeline: Pipeline | None = None
        super().__init__(level)
        self._checks = EventChecks()
        self._reader = EventReader(
            Redaction(
                log_user_prompt=settings.log_user_prompt,
                log_tool_payloads=settings.log_tool_payloads,
                log_agent_responses=settings.log_agent_responses,
                log_guardian_assessments=settings.log_guardian_assessments,
            ),
            max_attribute_length=settings.max_attribute_length,
            max_output_bytes=settings.max_output_bytes,
            log_sse_deltas=settings.log_sse_deltas,
            report=self._checks.field,
        )
        attachment.register(self, self._exporter_config)
        if self._exporter_config is not None:
            fork_gate.register()
            self._pipeline = _pipeline(
                self._exporter_config,
                shared_attributes_of(settings, app_version),
                settings,
                self._checks,
            )
            # A handler that nobody closed must not leave its thread behind.
            weakref.finalize(self, self._pipeline.close).atexit = False

    def __repr__(self) -> str:
        level = logging.getLevelName(self.level)
        return f"<CodexOtelHandler {_destination(self._exporter_config)} ({level})>"

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that passes the filters.

        Takes no lock of its own, as `emit` needs none: `logging.shutdown` calls `flush` with the
        handler's lock held, and no logging call may wait for that.
        """
        if self._pipeline is None:
            return False
        passed: bool | logging.LogRecord = self.filter(record)
        if passed is not True:
            if not passed:
                return False
            if isinstance(passed, logging.LogRecord):
                record = passed
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the event that a record logs; a record that logs none is counted as ignored."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        try:
            event = self._reader.read(record)
            if not PROCESS_MARK[0]:
                reset_in_child()
            if event is not None:
                if _sinks:
                    _divert(event)
                else:
                    pipeline.worker.queue.put(event)
            elif record.name != diagnostics.DIAGNOSTICS_LOGGER and not is_own_export():
                pipeline.worker.queue.ignore()
                self._checks.ignored(record)
        except Exception:
            self.handleError(record)

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Deliver what was logged before the call.

        Waits for at most `timeout` seconds (10 when None), and when the process is ending as the
        exit hook does. True when all of it has been delivered or finally given up. When somebody
        reconfigures logging it does not wait at all: the lock that logging holds meanwhile may be
        the one that the worker needs to go on.
        """
        if self._pipeline is None:
            return True
        if _logging_is_locked_here():
            self._pipeline.request_flush()
            return self._pipeline.stats().queued == 0
        if lifecycle.is_ending():
            self._pipeline.flush_at_exit()
            return self._pipeline.stats().queued == 0
        return self._pipeline.flush(FLUSH_TIMEOUT_S if timeout is None else timeout)

    def close(self) -> None:
        """Let the worker deliver what is queued, disconnect and end; does not wait for it.

        The exit hook waits. A handler that is still attached works again with the next event.
        """
        if self._pipeline is not None and not lifecycle.is_ending():
            self._pipeline.close()
        super().close()

    def stats(self) -> Stats:
        """Return what became of the records so far; consistent at every moment."""
        if self._pipeline is None:
            return Stats()
        return self._pipeline.stats()


CodexOtelHandler.__module__ = "codex_otel_logging"


class HandlerOptions(TypedDict, total=False):
    """The keyword arguments of `CodexOtelHandler`, for type checkers."""

    app_version: str | None
    missing_ok: bool
    strict: bool
    level: int | str


def from_toml(
    path: str | os.PathLike[str] | None = None, **options: Unpack[HandlerOptions]
) -> CodexOtelHandler:
    """Build a handler from the `[otel]` table of a TOML file; a factory for `dictConfig`.

    `~`, `$NAME` and `${NAME:-default}` in the path are expanded. None means the Codex CLI's own
    file, `$CODEX_HOME/config.toml` or else `~/.codex/config.toml`. `options` are the keyword
    arguments of `CodexOtelHandler`, which also says what is raised.
    """
    return CodexOtelHandler(_default_path() if path is None else path, **options)


def from_table(otel: Mapping[str, Any], **options: Unpack[HandlerOptions]) -> CodexOtelHandler:
    """Build a handler from an `[otel]` table that is parsed already; a factory for `dictConfig`.

    In a `dictConfig` dictionary, `"cfg://otel"` names the table under its key `otel`. `options` are
    the keyword arguments of `CodexOtelHandler`, which also says what is raised.
    """
    return CodexOtelHandler(otel, **options)


_configuring = threading.Lock()
_configured: weakref.ref[CodexOtelHandler] | None = None
"""The handler that `configure` attached last, while it exists."""


def configure(
    config: str | os.PathLike[str] | Mapping[str, Any] | OtelConfig | None = None,
    **options: Unpack[HandlerOptions],
) -> CodexOtelHandler:
    """Build a handler and attach it to the logger `codex_otel`; for scripts and notebooks.

    Sets the logger's level to INFO and `propagate` to False, so that events reach no other handler.
    A later call replaces the handler that an earlier one attached; the old one exports what it
    holds. May be called from any thread; does not block. Applications that configure logging with
    `dictConfig` or `fileConfig` add the handler there instead.

    Args:
        config: the path of a TOML file with an `[otel]` table, an `[otel]` table that is parsed
            already, or an `OtelConfig`. None means the file that `from_toml()` reads.
        options: the keyword arguments of `CodexOtelHandler`.

    Raises:
        ConfigError: the settings have faults, or the file is missing and `missing_ok` is false; the
            handler attached before stays.

    """
    global _configured
    handler = CodexOtelHandler(_default_path() if config is None else config, **options)
    logger = logging.getLogger(EVENT_LOGGER)
    with fork_gate.hold_forks(), _configuring:
        before = None if _configured is None else _configured()
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        if before is not None:
            logger.removeHandler(before)
            before.close()
        _configured = weakref.ref(handler)
    return handler


@contextmanager
def divert_events(sink: Callable[[Event], object]) -> Iterator[None]:
    """Hand the events of all handlers to `sink` inside the `with` block, instead of queueing them.

    That includes handlers built inside the block. `sink` is called on the application thread that
    logs, for each event a handler reads, as its settings redact it. Blocks may overlap in any
    order; the one entered last gets the events.
    """
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


def _divert(event: Event) -> None:
    for sink in _sinks[-1:]:  # another thread may have left its block meanwhile
        sink(event)


def flush(timeout: float | None = None) -> bool:
    """Export what all handlers of this process have queued, and wait until it is settled.

    For the shutdown hook of a framework that ends the process without Python's exit hooks; in a
    coroutine, `await asyncio.to_thread(codex_otel_logging.flush)`. Waits for at most `timeout`
    seconds in all (10 when None). True when everything accepted before the call was exported or
    finally given up. May be called from any thread.
    """
    return flush_all(lifecycle.watched(), FLUSH_TIMEOUT_S if timeout is None else timeout)


def _default_path() -> str:
    from .config.toml_file import default_path  # configured from a mapping, nothing reads TOML

    return default_path()


def _settings(config: object, *, missing_ok: bool, strict: bool) -> OtelConfig:
    if config is None:
        return OtelConfig()
    if isinstance(config, OtelConfig):
        settings = config
    elif isinstance(config, Mapping):
        settings = OtelConfig.from_table(config, strict=strict)
    elif isinstance(config, (str, os.PathLike)):
        settings = OtelConfig.from_toml(config, missing_ok=missing_ok, strict=strict)
    else:
        raise ConfigError(
            "config: expected the path of a TOML file, an [otel] table, an OtelConfig or None, "
            f"got {type(config).__name__}"
        )
    for warning in settings.warnings:
        diagnostics.warn("%s", warning)
    return settings


def _usable_exporter(settings: OtelConfig, *, strict: bool) -> ExporterConfig | None:
    """Return the exporter of the settings, or None when nothing is to be sent or can be."""
    exporter = settings.exporter
    if exporter is None or is_disabled(os.environ):
        return None
    if (missing := missing_package(exporter)) is None:
        return exporter
    if strict:
        raise ConfigError(missing)
    diagnostics.warn("%s", missing)
    return None


def _pipeline(
    exporter: ExporterConfig, shared: SharedAttributes, settings: OtelConfig, checks: EventChecks
) -> Pipeline:
    def worker_starts() -> None:
        lifecycle.worker_starts()
        prepare(exporter)

    def worker_with(events: Sequence[Event]) -> Worker:
        return Worker(
            settings.batch,
            connect=lambda: connect(exporter, shared),
            check=checks.check,
            on_start=worker_starts,
            destination=_destination(exporter),
            events=events,
        )

    import_beside_greenlets(exporter)  # at the first event, all greenlets would wait for it
    return Pipeline(worker_with)


def shared_attributes_of(settings: OtelConfig, app_version: str | None) -> SharedAttributes:
    """Return what all events have in common under these settings."""
    version = "unknown" if app_version is None else str(app_version)
    return SharedAttributes(
        resource={
            **settings.resource_attributes,
            "service.name": settings.service_name,
            "service.version": version,
            "env": settings.environment,
        },
        defaults={"app.version": version, "terminal.type": _terminal_type()},
    )


def _logging_is_locked_here() -> bool:
    """Return whether this thread holds the lock under which logging is reconfigured.

    There is no public way to ask; where the private one is missing, the answer is no.
    """
    is_owned = getattr(getattr(logging, "_lock", None), "_is_owned", None)
    return is_owned is not None and bool(is_owned())


def _terminal_type() -> str:
    """Return the terminal as Codex reports it."""
    program = os.environ.get("TERM_PROGRAM")
    version = os.environ.get("TERM_PROGRAM_VERSION")
    if program and version:
        return f"{program}/{version}"
    return program or os.environ.get("TERM") or "unknown"


def _destination(exporter: ExporterConfig | None) -> str:
    if exporter is None:
        return "none"
    return f"{exporter.name} {exporter.safe_endpoint}"
