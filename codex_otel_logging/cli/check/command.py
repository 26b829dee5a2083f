"""The command `check`: prints the settings in effect and what follows from them.

On request it also exports one event, and reports whether events reach the handler of a logging
dictionary. Header values and the values of `${NAME}` references in the exporter's table are never
printed.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from ...attachment import EVENT_LOGGER
from ...config.toml_file import default_path
from ...text import printable, shown
from ..console import Console, console
from .effective import Setting
from .findings import Checked, Findings, find
from .reach import Reach
from .sample import EVENT
from .source import Source

FINE, NOT_SENT, FAULTY = 0, 1, 2
"""Exit statuses: no problem found; events would not arrive; the settings cannot be checked."""

_MISSING = {
    "file": "The file does not exist: the settings are the defaults.",
    "table": "The file has no [otel] table: the settings are the defaults.",
}


def run(
    path: str | None, *, send: bool = False, as_json: bool = False, reference: str | None = None
) -> int:
    """Check the settings, print the findings, and return the exit status.

    Args:
        path: the TOML file. None means the settings of the handler in the logging dictionary, or,
            without one, the Codex CLI's own file.
        send: whether to export one event. Blocks up to `timeout_ms` for each step.
        as_json: whether to print one JSON object instead of text.
        reference: the logging dictionary to configure logging with, as MODULE:DICT.

    """
    found = find(path, reference)
    for fault in found.faults:
        print(printable(fault), file=sys.stderr)
    if as_json:
        delivered = _print_json(found, path, reference, send=send)
    else:
        delivered = _print_text(console(), found, reference, send=send)
    if found.faults:
        return FAULTY
    return FINE if delivered and found.is_fine else NOT_SENT


def _print_json(found: Findings, path: str | None, reference: str | None, *, send: bool) -> bool:
    """Print one JSON object. Return False if an event was to be sent and was not delivered."""
    document: dict[str, Any] = {}
    delivered = True
    if (checked := found.checked) is None:
        # With a logging dictionary, the handler decides which file is read.
        default = None if reference else default_path()
        document |= {"file": path or default, "faults": found.faults}
    else:
        document |= _as_json(checked)
    if reference is not None:
        document["logging"] = {
            "dictionary": reference,
            "loggers": [
                {**reach._asdict(), "onlookers": [each._asdict() for each in reach.onlookers]}
                for reach in found.reaches
            ],
        }
    if send and checked is not None:
        delivery = checked.delivery()
        steps = [asdict(step) for step in delivery.steps()] if delivery else []
        delivered = delivery is not None and delivery.delivered
        document["send"] = {
            "event": EVENT,
            "conversation_id": delivery.conversation_id if delivery else None,
            "delivered": delivered,
            "steps": steps,
        }
    print(json.dumps(document, indent=2))
    return delivered


def _as_json(checked: Checked) -> dict[str, Any]:
    config = checked.source.config
    return {
        "file": checked.source.file.name,
        "file_from": checked.source.kind,
        "settings": [asdict(setting) for setting in checked.settings],
        "warnings": config.warnings,
        "ineffective_variables": checked.ineffective,
        "sends": checked.why_not is None,
        "why_not": checked.why_not,
        "prompts": "sent" if config.log_user_prompt else "redacted",
        "tool_payloads": "sent" if config.log_tool_payloads else "redacted",
        **({} if checked.spool is None else {"spool": checked.spool.as_json()}),
    }


def _print_text(out: Console, found: Findings, reference: str | None, *, send: bool) -> bool:
    """Print the findings as text. Return False if an event was to be sent and was not delivered."""
    checked = found.checked
    if checked is not None:
        _print_settings(out, checked)
    if found.reaches:
        if checked is not None:
            out.line()
        _print_reaches(out, found.reaches, reference or "")
    return checked is None or not send or _send(out, checked)


def _print_settings(out: Console, checked: Checked) -> None:
    source = checked.source
    out.line(printable(source.file.name))
    out.line(
        f"{source.why}. No other file is read; administrators' files such as "
        "/etc/codex/requirements.toml do not apply to this package."
    )
    out.line()
    out.table(("setting", "value", "from"), [_row(setting) for setting in checked.settings])
    out.line()
    for warning in source.config.warnings:
        out.line(printable(f"Warning: {warning}"), "yellow", indent=2)
    # One line per reason, not per variable: often all of OTEL_EXPORTER_OTLP_* share one.
    reason_of = checked.ineffective.__getitem__
    for reason, variables in groupby(sorted(checked.ineffective, key=reason_of), key=reason_of):
        out.line(f"{', '.join(variables)}: no effect, because {reason}.", "yellow", indent=2)
    for line in _consequences(checked):
        out.line(printable(line))
    if checked.spool is not None:
        exporter = None if checked.why_not else source.config.exporter
        destination = None if exporter is None else exporter.destination
        checked.spool.print(out, destination, _drain_path(source))


def _drain_path(source: Source) -> str:
    """Return the argument with which `drain` reads the same settings, with a blank before it."""
    if source.kind == "argument":
        return f" {shlex.quote(source.file.name)}"
    return " [PATH]" if source.kind == "logging" else ""


def _row(setting: Setting) -> tuple[str, str, str]:
    value = setting.value
    if value is None:
        text = "no limit"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = shown(value)
    return shown(setting.key), text, _source(setting)


def _source(setting: Setting) -> str:
    if setting.source == "environment":
        return ", ".join(setting.variables)
    return ", ".join([setting.source, *(f"${{{name}}}" for name in setting.variables)])


def _consequences(checked: Checked) -> list[str]:
    """Return one line for each consequence of the settings."""
    config = checked.source.config
    if checked.why_not is not None:
        sent = f"Nothing is sent: {checked.why_not}."
    else:
        assert config.exporter is not None
        protocol = "OTLP/HTTP" if config.exporter.over_http else "OTLP/gRPC"
        sent = f"Events are sent over {protocol} to {config.exporter.safe_endpoint}."
    prompts = "unchanged" if config.log_user_prompt else "as [REDACTED]"
    payloads = "unchanged" if config.log_tool_payloads else "as [REDACTED]"
    lines = [sent, f"Prompts are sent {prompts}, tool arguments and output {payloads}."]
    if (missing := checked.source.file.missing) is not None:
        lines.insert(0, _MISSING[missing])
    return lines


def _print_reaches(out: Console, reaches: Sequence[Reach], reference: str) -> None:
    """Print where events arrive, once for consecutive loggers with equal findings."""
    out.line(f"With {reference}, an INFO event logged")
    for _, group in groupby(reaches, key=lambda reach: reach[1:]):  # all but the logger's name
        same = list(group)
        names = " or ".join(repr(reach.logger) for reach in same)
        reach = same[0]
        if reach.faults:
            out.line(f"- on {names} does NOT reach the handler exactly once:", "red", indent=2)
            for fault in reach.faults:
                out.line(printable(f"  - {fault}"), "bold", indent=4)
        else:
            (arrival,) = reach.arrivals
            out.line(printable(f"- on {names} reaches {arrival} once."), "green", indent=2)
        for note in _notes(reach):
            out.line(printable(f"  {note}."), indent=2)


def _notes(reach: Reach) -> Iterator[str]:
    for onlooker in reach.onlookers:
        yield f"Also received, with unredacted prompts, by {onlooker.handler} {onlooker.place}"
    if any(onlooker.by_propagation for onlooker in reach.onlookers):
        yield (
            f'To keep events from the handlers above, set "propagate": False for {EVENT_LOGGER!r}'
        )
    yield from (f"{note[0].upper()}{note[1:]}" for note in reach.notes)


def _send(out: Console, checked: Checked) -> bool:
    """Export one event, print each step, and return whether it was delivered."""
    out.line()
    delivery = checked.delivery()
    if delivery is None:
        out.line("NOT delivered: nothing is sent, see above.", "red")
        return False
    out.line(f"Sending one event: {EVENT}, conversation.id = {delivery.conversation_id}", indent=2)
    out.line()
    for step in delivery.steps():
        line = f"{step.name:10} {step.took_ms:>8.1f} ms  {step.text}"
        out.line(printable(line), "" if step.ok else "red", indent=24)
        if step.advice:
            out.line(printable(f"{'':24}{step.advice}"), "bold", indent=24)
    out.line()
    if delivery.delivered:
        out.line("Delivered. Search your backend for this conversation.id.", "green")
        return True
    out.line("NOT delivered.", "red")
    return False
