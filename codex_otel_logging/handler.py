"""`CodexOtelHandler`, which connects settings, events, delivery and exporter.

`from_toml`, `from_table` and `configure` build a handler; `flush` flushes all handlers.
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

    from .delivery.spool.journal import SpoolSettings

FLUSH_TIMEOUT_S = 10.0
"""The default timeout of `flush()`, in seconds."""

_sinks: list[Callable[[Event], object]] = []
"""Functions that take the events instead of the handlers' queues; only the last one is called."""


class CodexOtelHandler(logging.Handler):
    """Exports the events logged under `codex_otel` to an OTLP collector.

    Attach it to the logger `codex_otel` only. Building it does not import OpenTelemetry, start a
    thread or open a connection; the worker does so after the first event. Logging through it never
    raises and never waits for the network. All methods may be called from any thread.

    Args:
        config: the path of a TOML file with an `[otel]` table, a parsed `[otel]` table, an
            `OtelConfig`, or None for the defaults, with which nothing is exported.
        app_version: the application's version, for `app.version` and `service.version`; None means
            "unknown".
        missing_ok: use the defaults if the TOML file does not exist.
        strict: raise for an exporter whose package is not installed, an unknown key or an invalid
            environment variable, instead of logging one warning.
        level: the minimum level of exported events.

    Raises:
        ConfigError: the settings have faults; `faults` lists all of them.

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
        # Whatever can raise comes first: `Handler.__init__` adds the handler to a list of logging's
        # that is flushed at exit, even if the rest of the construction fails.
        settings = _load_settings(config, missing_ok=missing_ok, strict=strict)
        self._exporter_config = _usable_exporter(settings, strict=strict)
        self._pipeline: Pipeline | None = None
        super().__init__(level)
        self._checks = EventChecks()
        self._reader = EventReader(
            redaction_of(settings),
            max_attribute_length=settings.max_attribute_length,
            max_output_bytes=settings.max_output_bytes,
            log_sse_deltas=settings.log_sse_deltas,
            report=self._checks.field,
        )
        attachment.register(self, self._exporter_config)
        if self._exporter_config is not None:
            fork_gate.register()
            self._pipeline = _build_pipeline(
                self._exporter_config,
                shared_attributes_of(settings, app_version),
                settings,
                self._checks,
            )
            # A handler that is collected without `close()` must not leave its thread behind. At
            # exit, the exit hook closes the pipeline.
            weakref.finalize(self, self._pipeline.close).atexit = False

    def __repr__(self) -> str:
        level = logging.getLevelName(self.level)
        return f"<CodexOtelHandler {_shown_destination(self._exporter_config)} ({level})>"

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that passes the filters; return whether it did.

        Unlike `logging.Handler.handle`, takes no lock.
        """
        # `logging.shutdown` holds the handler's lock while it calls `flush`. No logging call may
        # wait for that, and `emit` needs no lock: the queue has its own.
        if self._pipeline is None:
            return False
        passed: bool | logging.LogRecord = self.filter(record)
        if passed is not True:
            if not passed:
                return False
            if isinstance(passed, logging.LogRecord):  # filters may replace a record since 3.12
                record = passed
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the event that a record logs. Any other record is counted as ignored."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        try:
            event = self._reader.read(record)
            # Finds a fork that ran no Python hooks, such as one from a C library.
            if not PROCESS_MARK[0]:
                reset_in_child()
            if event is not None:
                if not (_sinks and _hand_to_sink(event)):
                    pipeline.worker.queue.put(event)
            elif record.name != diagnostics.DIAGNOSTICS_LOGGER and not is_own_export():
                pipeline.worker.queue.ignore()
                self._checks.ignored(record)
        except Exception:
            self.handleError(record)

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Export what is queued and wait until it is settled.

        Blocks for at most `timeout` seconds (default: 10). At exit, `shutdown_timeout_ms` bounds
        the wait instead. While this thread reconfigures logging, requests the flush without
        waiting.

        Returns:
            True if every event accepted before the call was exported, rejected or dropped.

        """
        if self._pipeline is None:
            return True
        # `dictConfig` flushes the old handlers while it holds logging's lock. The worker may need
        # that lock, which `getLogger` and `isEnabledFor` take: waiting for it would be a deadlock.
        if _logging_is_locked_here():
            self._pipeline.request_flush()
            return self._pipeline.stats().queued == 0
        if lifecycle.is_ending():
            self._pipeline.flush_at_exit()
            return self._pipeline.stats().queued == 0
        return self._pipeline.flush(FLUSH_TIMEOUT_S if timeout is None else timeout)

    def close(self) -> None:
        """Request a final flush, after which the worker disconnects and ends; does not block.

        The exit hook waits for that flush. A closed handler that is still attached works again with
        the next event.
        """
        if self._pipeline is not None and not lifecycle.is_ending():
            self._pipeline.close()
        super().close()

    def stats(self) -> Stats:
        """Return the counts of records by outcome.

        `accepted == exported + rejected + dropped + queued` holds in every result.
        """
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

    Args:
        path: the file; `~`, `$NAME`, `${NAME}` and `${NAME:-default}` are expanded. None means the
            Codex CLI's file: `$CODEX_HOME/config.toml`, or `~/.codex/config.toml` if `CODEX_HOME`
            is unset or empty.
        options: the keyword arguments of `CodexOtelHandler`.

    Raises:
        ConfigError: the settings have faults, or the file is missing and `missing_ok` is false.

    """
    return CodexOtelHandler(_default_path() if path is None else path, **options)


def from_table(otel: Mapping[str, Any], **options: Unpack[HandlerOptions]) -> CodexOtelHandler:
    """Build a handler from a parsed `[otel]` table; a factory for `dictConfig`.

    Args:
        otel: the contents of the table. In a `dictConfig` dictionary, `"cfg://otel"` refers to the
            table under the dictionary's key `otel`.
        options: the keyword arguments of `CodexOtelHandler`.

    Raises:
        ConfigError: the settings have faults.

    """
    return CodexOtelHandler(otel, **options)


_configuring = threading.Lock()
_configured: weakref.ref[CodexOtelHandler] | None = None
"""The handler that `configure` attached last. A weak reference: the logger keeps it alive."""


def configure(
    config: str | os.PathLike[str] | Mapping[str, Any] | OtelConfig | None = None,
    **options: Unpack[HandlerOptions],
) -> CodexOtelHandler:
    """Build a handler and attach it to the logger `codex_otel`; for scripts and notebooks.

    Sets the logger's level to INFO and `propagate` to False, so that events reach no other handler.
    A later call replaces the handler of an earlier call, which exports what it has queued. May be
    called from any thread; does not block. Applications that use `dictConfig` or `fileConfig` add
    the handler to that configuration instead.

    Args:
        config: the path of a TOML file with an `[otel]` table, a parsed `[otel]` table, or an
            `OtelConfig`. None means the file that `from_toml()` reads.
        options: the keyword arguments of `CodexOtelHandler`.

    Raises:
        ConfigError: the settings have faults, or the file is missing and `missing_ok` is false. The
            handler of an earlier call stays attached.

    """
    global _configured
    handler = CodexOtelHandler(_default_path() if config is None else config, **options)
    logger = logging.getLogger(EVENT_LOGGER)
    # Without the lock, two threads could each attach a handler that neither replaces. Without the
    # gate, a fork could leave the child with a lock that is never released.
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
    """Pass the events of all handlers to `sink` inside the `with` block, instead of queueing them.

    Handlers built inside the block are included. `sink` is called on the application thread, once
    for each event and handler, with the event as that handler's settings redact it. Blocks may
    overlap in any order; the block entered last gets the events.
    """
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


def _hand_to_sink(event: Event) -> bool:
    """Pass an event to the sink; return False if there is none any more."""
    sinks = _sinks[-1:]  # a slice: another thread may leave its block at this moment
    for sink in sinks:
        sink(event)
    return bool(sinks)


def flush(timeout: float | None = None) -> bool:
    """Export what all handlers of this process have queued and wait until it is settled.

    For the shutdown hook of a framework that ends the process without Python's exit hooks. Blocks
    for at most `timeout` seconds in all (default: 10); a coroutine calls
    `await asyncio.to_thread(codex_otel_logging.flush)`. May be called from any thread.

    Returns:
        True if every event accepted before the call was exported, rejected or dropped.

    """
    return flush_all(lifecycle.watched(), FLUSH_TIMEOUT_S if timeout is None else timeout)


def _default_path() -> str:
    # Imported here, because a handler that is built from a mapping needs no TOML parser.
    from .config.toml_file import default_path

    return default_path()


def _load_settings(config: object, *, missing_ok: bool, strict: bool) -> OtelConfig:
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
    """Return the exporter of the settings, or None if nothing should or can be exported."""
    exporter = settings.exporter
    if exporter is None or is_disabled(os.environ):
        return None
    if (missing := missing_package(exporter)) is None:
        return exporter
    if strict:
        raise ConfigError(missing)
    diagnostics.warn("%s", missing)
    return None


def _build_pipeline(
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
            destination=_shown_destination(exporter),
            events=events,
            spool=spool,
        )

    spool = spool_settings_of(exporter, shared, settings)
    # Where threads are greenlets, importing at the first event would stop all of them meanwhile.
    import_beside_greenlets(exporter)
    return Pipeline(worker_with)


def spool_settings_of(
    exporter: ExporterConfig, shared: SharedAttributes, settings: OtelConfig
) -> SpoolSettings | None:
    """Return the spool of these settings; None if there is none, or the platform has no locks.

    Logs a warning in the second case.
    """
    if settings.spool is None:
        return None
    from .delivery.spool import disk
    from .delivery.spool.journal import SpoolSettings

    if not disk.has_locks():
        diagnostics.warn(
            "spool %s: not supported on this platform; events are kept in memory only",
            settings.spool.path,
        )
        return None
    return SpoolSettings(
        path=settings.spool.path,
        destination=exporter.destination,
        shared=shared,
        connect=lambda other: connect(exporter, other),
        redact=redaction_of(settings).redact_again,
        max_bytes=settings.spool.max_bytes,
        keep_for_s=settings.spool.keep_for_ms / 1000,
    )


def redaction_of(settings: OtelConfig) -> Redaction:
    """Return which fields are redacted under these settings."""
    return Redaction(
        log_user_prompt=settings.log_user_prompt,
        log_tool_payloads=settings.log_tool_payloads,
        log_agent_responses=settings.log_agent_responses,
        log_guardian_assessments=settings.log_guardian_assessments,
    )


def shared_attributes_of(settings: OtelConfig, app_version: str | None) -> SharedAttributes:
    """Return the attributes that all events share with these settings."""
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
    """Return whether this thread holds logging's module lock, as `dictConfig` does.

    logging has no public function for that. False if a Python release renames the private names.
    """
    is_owned = getattr(getattr(logging, "_lock", None), "_is_owned", None)
    return is_owned is not None and bool(is_owned())


def _terminal_type() -> str:
    """Return the terminal in the form in which the Codex CLI reports it."""
    program = os.environ.get("TERM_PROGRAM")
    version = os.environ.get("TERM_PROGRAM_VERSION")
    if program and version:
        return f"{program}/{version}"
    return program or os.environ.get("TERM") or "unknown"


def _shown_destination(exporter: ExporterConfig | None) -> str:
    if exporter is None:
        return "none"
    return f"{exporter.name} {exporter.safe_endpoint}"
