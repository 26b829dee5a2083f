"""The text output of `listen`: one line per event, cut to the terminal's width."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from ... import catalog
from ...receiver import ReceivedEvent, RefusedRequest
from ...text import counted, is_visible, shown, shown_name
from ..console import Console, Part, console
from ..layout import ELLIPSIS, Field, fit_fields, width_of, words
from .event_facts import failure_of, is_denied, time_of
from .refusals import Refusals
from .summaries import MAX_CONVERSATIONS, OTHER_TOOLS, ConversationSummary
from .views import View, how_to_send

_FIRST = (
    *("event.kind", "startup.phase", "tool_name", "decision", "duration_ms", "success"),
    *("http.response.status_code", "error.message"),
)
"""The most important fields, in the order in which a line shows them."""

_ESSENTIAL = _FIRST[: _FIRST.index("duration_ms") + 1]
"""Fields that a line always shows, however narrow the terminal is."""

_WIDE = 100
"""Columns from which lines show milliseconds and align event names."""

_LAST = ("call_id", "cf_ray")
"""Fields that a line shows last: ids, which are long and rarely needed."""

_STYLES = {
    "codex.conversation_starts": "bold cyan",
    "codex.user_prompt": "bold green",
    "codex.api_request": "blue",
    "codex.sse_event": "cyan",
    "codex.tool_decision": "magenta",
    "codex.tool_result": "magenta",
}
_LABEL_STYLES = ("green", "yellow", "blue", "magenta", "cyan")
_FAILED = "bold red"
_DENIED = "bold yellow"


def text_view() -> View:
    """Return a view that prints text on the current standard output."""
    return _TextView(console())


class _TextView:
    """Prints lines of text, in colour on a terminal."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._day = ""

    def begin(self, addresses: Sequence[str]) -> None:
        for line in how_to_send(addresses):
            self._out.line(line)
        self._out.line()

    def conversation_begins(self, summary: ConversationSummary, event: ReceivedEvent) -> None:
        values = {
            key: event.attributes.get(key)
            for key in ("conversation.id", "model", "app.version", "auth_mode", "terminal.type")
        }
        values |= {key: event.resource.get(key) for key in ("service.name", "env")}
        values["transport"] = event.transport
        fields = _fields((key, value) for key, value in values.items() if value is not None)
        start = self._start(time_of(event), summary, "new conversation", "bold")
        indent = sum(width_of(text) for text, _ in start[:2])
        self._out.flow([start, *map(_parts, fields)], indent)

    def event(self, event: ReceivedEvent, summary: ConversationSummary | None) -> None:
        if summary is None:
            values = {"body": event.body, "scope": event.scope, "severity": event.severity_text}
            fields = _fields([*values.items(), *event.attributes.items()])
            self._line(self._start(time_of(event), None, "(record)", "dim"), fields, style="dim")
            return
        style = _STYLES.get(event.name, "")
        if failure_of(event) is not None:
            style = _FAILED
        elif is_denied(event):
            style = _DENIED
        start = self._start(
            time_of(event), summary, shown(event.name.removeprefix("codex.")), style
        )
        own = list(_own_fields(event))
        essential = sum(name in _ESSENTIAL for name, _ in own)
        self._line(start, _fields(own), essential)

    def _start(
        self, time_ns: int, summary: ConversationSummary | None, name: str, style: str
    ) -> list[Part]:
        """Return the start of a line: time, conversation, name. Print the date first if it is new.

        The parts have fixed widths, so that lines align.
        """
        moment = _local(time_ns)
        if self._day != (day := f"{moment:%Y-%m-%d}"):
            # On a separate line, because width is scarce at 80 columns.
            self._day = day
            self._out.line(day, "dim")
        label = summary.label if summary else "-"
        number = summary.number if summary else 0
        label_style = _LABEL_STYLES[number % len(_LABEL_STYLES)] if number else "dim"
        wide = self._out.width is None or self._out.width >= _WIDE
        # 19 columns for `conversation_starts`, the longest frequent name; 11 for `tool_result`.
        return [
            (f"{_clock(moment) if wide else format(moment, '%H:%M:%S')}  ", "dim"),
            (f"{label:3} ", label_style),
            (f"{name:19}" if wide else f"{name:11}", style),
        ]

    def _line(
        self, start: list[Part], fields: Sequence[Field], essential: int = 0, style: str = ""
    ) -> None:
        """Print a line with as many of the fields as fit."""
        more = False
        if (width := self._out.width) is not None:
            room = width - sum(width_of(text) for text, _ in start)
            fields, more = fit_fields(fields, room, essential)
        parts = [part for field in fields for part in _parts(field, style)]
        self._out.parts([*start, *parts, (f" {ELLIPSIS}" if more else "", "dim")])

    def status(self, text: str) -> None:
        self._out.status(text)

    def end(self, total: str) -> None:
        self._out.line()
        self._out.line(total, "bold")

    def conversation_ends(self, summary: ConversationSummary, *, forgotten: bool = False) -> None:
        out = self._out
        out.line()
        if forgotten:
            out.line(f"inactive while {MAX_CONVERSATIONS} other conversations had events:")
        names = [shown(summary.id) if summary.id else "(no conversation)"]
        names += map(shown, summary.models)
        if summary.app_version:
            names.append(shown(summary.app_version))
        out.line(f"{summary.label:3} {'  '.join(names)}", "bold", indent=4)
        for what, text, style in _summary_lines(summary):
            out.line(f"    {what:10} {text}", style, indent=15)
        if forgotten:
            out.line()

    def refused(self, refused: RefusedRequest) -> None:
        start = self._start(time.time_ns(), None, "request refused", _DENIED)
        indent = sum(width_of(text) for text, _ in start[:2])
        reason = words(f" {refused.transport}: {refused.reason}")
        self._out.flow([start, *([(word, "")] for word in reason)], indent)
        self._out.line(f"{'':{indent}}{refused.advice}", indent=indent)

    def refusals(self, refusals: Refusals) -> None:
        if not refusals.total:
            return
        self._out.line()
        self._out.line(f"{counted(refusals.total, 'request')} refused", _DENIED)
        for refused, count in refusals:
            self._out.line(f"{count:7,}  {refused.transport}: {refused.reason}", indent=9)
        if refusals.others:
            self._out.line(f"{refusals.others:7,}  for other reasons")

    def warn(self, text: str) -> None:
        self._out.line()
        self._out.line(text, _DENIED)


def _own_fields(event: ReceivedEvent) -> Iterator[tuple[str, Any]]:
    """Yield an event's own fields: most important first, then in catalog order, then others."""
    attributes = event.attributes
    declared = catalog.find(event.name)
    known = {field.name: field for field in declared.fields} if declared else {}
    others = [
        name for name in attributes if name not in catalog.COMMON_FIELD_NAMES and name not in known
    ]
    for name in sorted([*known, *others], key=lambda name: _rank(name, known.get(name))):
        if name in attributes:
            yield name, attributes[name]


def _rank(name: str, declared: catalog.Field | None) -> int:
    """Return the sort key of a field. Fields of equal rank keep their order."""
    if name in _FIRST:
        return _FIRST.index(name)
    if declared is None:
        return len(_FIRST) + 3
    # Sensitive fields such as `output` are long: they come behind everything short.
    return len(_FIRST) + (2 if declared.sensitive else name in _LAST)


def _fields(fields: Iterable[tuple[str, Any]]) -> list[Field]:
    return [
        (shown_name(name), shown(str(value).lower() if isinstance(value, bool) else value))
        for name, value in fields
    ]


def _parts(field: Field, style: str = "") -> list[Part]:
    name, value = field
    return [(f" {name}=", "dim"), (value, style)]


def _summary_lines(summary: ConversationSummary) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of a summary: a label, a text, and a style."""
    # Local time, as the clock of the person at the terminal; the JSON view prints UTC.
    first, last = _local(summary.first_ns), _local(summary.last_ns)
    until = _clock(last) if first.date() == last.date() else f"{last:%Y-%m-%d} {_clock(last)}"
    lasted = duration_text((summary.last_ns - summary.first_ns) / 1e6)
    yield "time", f"{first:%Y-%m-%d} {_clock(first)} to {until}: {lasted}", ""
    yield "events", str(summary.events), ""
    yield "turns", str(summary.turns), ""
    if summary.api_requests:
        yield "requests", f"{summary.api_requests}, {summary.api_failures} failed", ""
    tokens = summary.tokens
    # `cached` is part of `input`, `reasoning` part of `output`; `tool` is not shown.
    if any(tokens.values()):
        yield (
            "tokens",
            f"{tokens['input']:,} in, {tokens['cached']:,} of them cached; "
            f"{tokens['output']:,} out, {tokens['reasoning']:,} of them reasoning",
            "",
        )
    if summary.decisions:
        yield "decisions", f"{summary.decisions}, {summary.denied} denied", ""
    for name, tool in summary.tools.items():
        rate = f"{100 * tool.succeeded / tool.calls:.0f} % succeeded"
        times = f"{duration_text(tool.total_ms)} in total"
        if tool.median_ms is not None:
            times += f", median {duration_text(tool.median_ms)}"
        label = name if name == OTHER_TOOLS else shown(name)
        yield "tool", f"{label}: {counted(tool.calls, 'call')}, {rate}, {times}", ""
    for (name, message), count in summary.failures.items():
        times = f" ({count} times)" if count > 1 else ""
        yield "failure", f"{shown(name.removeprefix('codex.'))}{times}: {_bare(message)}", "red"
    if summary.other_failures:
        yield "failure", f"{summary.other_failures} other failures", "red"


def _bare(text: str) -> str:
    """Return text as `shown` does, but without quotes if it is visible.

    Safe only at the end of a line, where blanks cannot imitate another field.
    """
    return text if is_visible(text) else shown(text)


def _local(time_ns: int) -> datetime:
    # Not `fromtimestamp(time_ns / 1e9)`: a float would round the milliseconds.
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds) + timedelta(microseconds=rest // 1000)


def _clock(moment: datetime) -> str:
    return moment.time().isoformat(timespec="milliseconds")


def duration_text(milliseconds: float) -> str:
    """Return a duration in at most two units, such as `3 min 20 s`."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    minutes = int(milliseconds // 60_000)
    if minutes < 60:
        return f"{minutes} min {milliseconds % 60_000 / 1000:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"
