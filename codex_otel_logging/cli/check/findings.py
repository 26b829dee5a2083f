"""Collects what `check` reports before it sends anything: settings, and paths to the handler."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ... import diagnostics
from ...attachment import EVENT_LOGGER
from ...config.environment import is_disabled
from ...config.tables import ConfigError
from ...events.reader import is_event_logger
from ...otlp.factory import missing_package
from .delivery import Delivery
from .effective import Setting, settings
from .ineffective import ineffective_variables
from .logging_dict import ConfiguredHandler, LoggingDictError, apply, load
from .reach import Reach, reach_of
from .source import Source, shell_advice, source_of
from .spool import CheckedSpool, check_spool

_ONE_BELOW = f"{EVENT_LOGGER}.tools"
"""Stands for the loggers of an application that are not imported here."""


class Checked(NamedTuple):
    """Valid settings and what follows from them."""

    source: Source
    settings: Sequence[Setting]
    ineffective: Mapping[str, str]
    why_not: str | None
    """Why nothing is sent; None if events are sent."""
    spool: CheckedSpool | None
    """The spool; None without the table [otel.spool]."""

    def delivery(self) -> Delivery | None:
        """Return the delivery of a sample event, or None if nothing is sent."""
        exporter = self.source.config.exporter
        if exporter is None or self.why_not is not None:
            return None
        return Delivery(self.source.config, exporter)


class Findings(NamedTuple):
    """Everything `check` reports. `faults` are those of the settings or the logging dictionary."""

    checked: Checked | None
    reaches: Sequence[Reach]
    faults: Sequence[str]

    @property
    def is_fine(self) -> bool:
        """Whether events reach the handler and are sent, or no exporter is set."""
        if self.checked is None or any(reach.faults for reach in self.reaches):
            return False
        return self.checked.why_not is None or self.checked.source.config.exporter is None


def find(path: str | None, reference: str | None) -> Findings:
    """Read the settings; if `reference` is given, configure logging with that dictionary first."""
    handlers: Sequence[ConfiguredHandler] = ()
    reaches: Sequence[Reach] = ()
    try:
        if reference is not None:
            handlers, reaches = _configure(reference)
        checked = _checked(source_of(path, reference, handlers))
    except LoggingDictError as error:
        return Findings(None, (), [f"{reference}: {fault}" for fault in error.faults])
    except ConfigError as error:
        return Findings(None, reaches, shell_advice(error))
    return Findings(checked, reaches, ())


def _configure(reference: str) -> tuple[Sequence[ConfiguredHandler], Sequence[Reach]]:
    """Configure logging; return this package's handlers and whether events reach them.

    Reports `codex_otel`, one logger below it, and every logger below it that exists afterwards.
    """
    dictionary = load(reference)
    # Modules create their loggers at import, before logging is configured; dictConfig then disables
    # them unless `disable_existing_loggers` is false.
    names = dict.fromkeys([EVENT_LOGGER, _ONE_BELOW])
    for name in names:
        logging.getLogger(name)
    handlers = apply(dictionary)
    # At exit, a handler that received no event warns of it. Here no event is expected.
    logging.getLogger(diagnostics.DIAGNOSTICS_LOGGER).setLevel(logging.CRITICAL + 1)
    configured = logging.root.manager.loggerDict
    names |= dict.fromkeys(name for name in sorted(configured) if is_event_logger(name))
    unattached = [each.handler.name or "" for each in handlers]
    return handlers, [reach_of(logging.getLogger(name), unattached) for name in names]


def _checked(source: Source) -> Checked:
    found = settings(source.config, source.file.otel)
    ineffective = ineffective_variables(source.config, found)
    config = source.config
    spool = None if config.spool is None else check_spool(config.spool)
    return Checked(source, found, ineffective, _why_nothing_is_sent(source), spool)


def _why_nothing_is_sent(source: Source) -> str | None:
    exporter = source.config.exporter
    if exporter is None:
        return "exporter is none"
    if is_disabled(os.environ):
        return "the environment variable OTEL_SDK_DISABLED turns off all exports"
    return missing_package(exporter)
