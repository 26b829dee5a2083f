"""Determines whether an INFO event would reach this package's handler.

Nothing is logged: `reach_of` walks the loggers and handlers as `Logger.callHandlers` does, compares
levels, and passes a sample record to the filters. It reports all faults at once, so that a
configuration can be corrected in one go.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from logging.handlers import MemoryHandler, QueueHandler
from typing import NamedTuple

from ...attachment import EVENT_LOGGER, exporter_of, handlers_of, is_own
from ...events.reader import is_event_logger
from .sample import READER, sample_record

_TIMES = {2: "twice", 3: "three times"}


class Onlooker(NamedTuple):
    """Another handler that receives the events, with prompts unredacted.

    `place` says where it is attached. `by_propagation` says whether events get there only because
    the logger `codex_otel` propagates.
    """

    handler: str
    place: str
    by_propagation: bool


class Reach(NamedTuple):
    """Where an INFO event on one logger arrives.

    `arrivals` are this package's handlers that receive it, `onlookers` all others. `faults` say why
    it does not arrive exactly once and what to do; `notes` are advice about a working
    configuration.
    """

    logger: str
    arrivals: Sequence[str]
    onlookers: Sequence[Onlooker]
    faults: Sequence[str]
    notes: Sequence[str]


class _Path(NamedTuple):
    """The path of a record to a handler; `fault` says what stops the record on it, if anything.

    `holder` is the logger that the path begins at; `through` are the buffering handlers (queues,
    memory) in between.
    """

    handler: logging.Handler
    holder: logging.Logger
    through: tuple[logging.Handler, ...]
    fault: str = ""

    @property
    def place(self) -> str:
        through = "".join(f", behind {_handler(each)}" for each in self.through)
        return f"on {_logger(self.holder)}{through}"


def reach_of(logger: logging.Logger, unattached: Sequence[str] = ()) -> Reach:
    """Return where an INFO event on a logger arrives.

    `unattached` names this package's handlers that were built but may be attached to no logger.
    """
    # Handlers are examined even if the logger already stops the event: one run reports all faults.
    record, faults = _logged(logger, sample_record(logger.name))
    paths = [
        path
        for holder, handler in handlers_of(logger.name)
        for path in _paths(handler, record, holder)
    ]
    ours = [path for path in paths if _leads_to_ours(path.handler)]
    arrived = [path for path in ours if not path.fault]
    # Faults of other handlers are no concern of this package; such a handler receives nothing.
    others = [path for path in paths if not (path.fault or path in ours)]
    leaves_logger = not faults
    faults += [path.fault for path in ours if path.fault]
    if not ours:
        queues = [each.handler for each in others if isinstance(each.handler, QueueHandler)]
        faults.append(_why_missing(logger, queues, unattached))
    faults += _duplicates(arrived)
    return Reach(
        logger.name,
        [f"{_handler(each.handler)} {each.place}" for each in arrived if leaves_logger],
        [_onlooker(each) for each in others if leaves_logger],
        faults,
        list(_notes(arrived)),
    )


def _onlooker(path: _Path) -> Onlooker:
    by_propagation = not is_event_logger(path.holder.name)
    return Onlooker(_handler(path.handler), path.place, by_propagation)


def _logged(
    logger: logging.Logger, record: logging.LogRecord
) -> tuple[logging.LogRecord, list[str]]:
    """Return the record after the logger's filters, and the faults that stop it at the logger."""
    faults = []
    if (disabled := logger.manager.disable) >= record.levelno:
        level = logging.getLevelName(disabled)
        faults.append(f"logging.disable({level}) is in effect; remove the call")
    if logger.disabled:
        faults.append(
            f"{_logger(logger)} is disabled: dictConfig and fileConfig disable existing loggers "
            'that the configuration does not name; set "disable_existing_loggers": False'
        )
    if logger.getEffectiveLevel() > record.levelno:
        faults.append(_level_fault(logger))
    record, fault = _filtered(logger, record, _logger(logger))
    return record, [*faults, fault] if fault else faults


def _level_fault(logger: logging.Logger) -> str:
    # The same search as in `Logger.getEffectiveLevel`, which does not tell where the level is set.
    holder = logger
    while not holder.level and holder.parent is not None:
        holder = holder.parent
    level = logging.getLevelName(holder.level)
    if is_event_logger(holder.name):
        return f"{_logger(holder)} has level {level}; set it to INFO"
    # Without the logger's name: `check` groups loggers whose faults are equal.
    return (
        f"level {level} is inherited from {_logger(holder)}; set "
        f'"level": "INFO" for the logger {EVENT_LOGGER!r}'
    )


def _filtered(
    filterer: logging.Filterer, record: logging.LogRecord, name: str, *, is_ours: bool = True
) -> tuple[logging.LogRecord, str]:
    """Return the record after the filters, and a fault if one of them rejects it or raises.

    `is_ours` says whether the filters lead to a handler of this package. If not, an exception does
    not count as a rejection.
    """
    record = copy.copy(record)  # filters may change it
    for each in filterer.filters:
        # One filter at a time, to name the one that rejects the record. Filterer knows all kinds:
        # objects, functions and, since Python 3.12, filters that return a record.
        alone = logging.Filterer()
        alone.addFilter(each)
        try:
            passed: object = alone.filter(record)
        except Exception as error:
            # Django's filters raise here, because its settings are not configured; in the
            # application they pass events. Assume that the other handler receives them.
            if not is_ours:
                continue
            return (
                record,
                f"the filter {_filter(each)} of {name} raises {type(error).__name__}; fix it",
            )
        if not passed:
            return record, f"the filter {_filter(each)} of {name} rejects events; remove it"
        if isinstance(passed, logging.LogRecord):  # since Python 3.12
            record = passed
    return record, ""


def _paths(
    handler: logging.Handler,
    record: logging.LogRecord,
    holder: logging.Logger,
    through: tuple[logging.Handler, ...] = (),
    *,
    compares_level: bool = True,
) -> Iterator[_Path]:
    """Yield the path to a handler, or to each handler that it passes records on to.

    `compares_level` is False where the standard library skips the level check: a `MemoryHandler`
    and, by default, a `QueueListener` call `handle` without it.
    """
    fault = ""
    if compares_level and record.levelno < handler.level:
        level = logging.getLevelName(handler.level)
        fault = f"{_handler(handler)} has level {level}; set it to INFO"
    if not fault:
        ours = _leads_to_ours(handler)
        record, fault = _filtered(handler, record, _handler(handler), is_ours=ours)
    inner = _inner(handler)
    # `prepare` formats the record, so the handlers behind the queue may see another message.
    if inner and not fault and isinstance(handler, QueueHandler):
        try:
            record = handler.prepare(copy.copy(record))
        except Exception as error:  # for example a formatter whose field is missing
            fault = f"{_handler(handler)} cannot prepare events: {type(error).__name__}: {error}"
    if fault or not inner:
        if not fault and is_own(handler) and READER.read(record) is None:
            fault = _not_an_event_fault(through)
        if not isinstance(handler, logging.NullHandler):  # it discards records: not an onlooker
            yield _Path(handler, holder, through, fault)
        return
    # By default a QueueListener ignores the levels of its handlers.
    respects = getattr(getattr(handler, "listener", None), "respect_handler_level", False)
    for each in inner:
        yield from _paths(each, record, holder, (*through, handler), compares_level=bool(respects))


def _not_an_event_fault(through: Sequence[logging.Handler]) -> str:
    for each in through:
        if isinstance(each, QueueHandler) and each.formatter is not None:
            return (
                f"the formatter of {_handler(each)} changes the message, which must be the event's "
                "name; remove the formatter"
            )
    return (
        "a filter changes the message or the logger's name, so the record is not an event; remove "
        "the filter"
    )


def _inner(handler: logging.Handler) -> Sequence[logging.Handler]:
    """Return the handlers that a handler passes records on to, as far as they can be found."""
    if isinstance(handler, MemoryHandler):
        return [] if handler.target is None else [handler.target]
    # `dictConfig` sets it on a QueueHandler since Python 3.12. Otherwise the listener is a variable
    # of the application and cannot be found.
    listener = getattr(handler, "listener", None)
    return getattr(listener, "handlers", ())


def _leads_to_ours(handler: logging.Handler) -> bool:
    return is_own(handler) or any(map(_leads_to_ours, _inner(handler)))


def _why_missing(
    logger: logging.Logger, queues: Sequence[logging.Handler], unattached: Sequence[str]
) -> str:
    """Return why none of this package's handlers is on a logger's path, and what to do."""
    attach = f"attach it to the logger {EVENT_LOGGER!r}"
    if queues:
        return (
            f"the listener of {_handler(queues[0])} is not accessible, so its handlers are "
            f"unknown; attach this package's handler to the logger {EVENT_LOGGER!r} instead, where "
            "it does not block on the network either"
        )
    for holder in _loggers(logger.manager):
        for handler in filter(_leads_to_ours, holder.handlers):
            name = f"{_handler(handler)} is attached to {_logger(holder)}"
            if holder not in _ancestors(logger):
                return f"{name}, which receives no records of {_logger(logger)}; {attach}"
            barrier = next(each for each in _ancestors(logger) if not each.propagate)
            return f"{name}, to which {_logger(barrier)} does not propagate; {attach}"
    if unattached:
        return f"the handler {unattached[0]!r} is not attached to a logger; {attach}"
    return (
        "no handler of codex_otel_logging is configured; add one: "
        '{"()": "codex_otel_logging.from_toml"}, and ' + attach
    )


def _loggers(manager: logging.Manager) -> list[logging.Logger]:
    """Return all loggers, the root logger first."""
    named = (each for _, each in sorted(manager.loggerDict.items()))
    return [manager.root, *(each for each in named if isinstance(each, logging.Logger))]


def _ancestors(logger: logging.Logger) -> list[logging.Logger]:
    """Return a logger and all its ancestors, whether or not it propagates to them."""
    return [logger] if logger.parent is None else [logger, *_ancestors(logger.parent)]


def _duplicates(arrived: Sequence[_Path]) -> Iterator[str]:
    """Yield a fault for each destination that an event is sent to more than once."""
    for first in arrived:
        same = [each for each in arrived if _go_to_same_place(first.handler, each.handler)]
        if len(same) > 1 and same[0] is first:  # report each group once
            places = " and ".join(f"{_handler(each.handler)} {each.place}" for each in same)
            times = _TIMES.get(len(same), f"{len(same)} times")
            yield f"each event is sent {times}, by {places}; remove all but one"


def _go_to_same_place(one: logging.Handler, other: logging.Handler) -> bool:
    # Two handlers with different exporters are intended: events go to two collectors.
    exporter = exporter_of(one)
    return one is other or (exporter is not None and exporter == exporter_of(other))


def _notes(arrived: Sequence[_Path]) -> Iterator[str]:
    for each in arrived:
        name = _handler(each.handler)
        if not is_event_logger(each.holder.name):
            yield (
                f"{name} also receives the records of other loggers, and ignores them; attach it "
                f"to the logger {EVENT_LOGGER!r} only"
            )
        # The reader takes a bound conversation from a context variable, which the thread of a
        # listener or of a flush does not have.
        for queue in each.through:
            waits = f"{_handler(queue)} keeps events until it is flushed"
            if isinstance(queue, QueueHandler):
                waits = f"{_handler(queue)} queues events until its listener runs"
            yield (
                f"{waits}, and events lose their bound conversation there; attach {name} directly: "
                "it does not block on the network either"
            )


def _logger(logger: logging.Logger) -> str:
    return "the root logger" if logger.parent is None else f"the logger {logger.name!r}"


def _handler(handler: logging.Handler) -> str:
    kind = type(handler).__name__
    return f"the handler {handler.name!r} ({kind})" if handler.name else f"a {kind}"


def _filter(found: object) -> str:
    if isinstance(found, logging.Filter) and found.name:
        return f"{type(found).__name__}({found.name!r})"
    return getattr(found, "__name__", type(found).__name__)
