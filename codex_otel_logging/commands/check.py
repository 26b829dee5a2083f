"""Shows the settings in effect and what follows from them; with `send`, tries them out.

Header values are never shown, nor anything that `${NAME}` was replaced by.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..config import ConfigError, OtelConfig, OtelFile
from ..exporters import missing_package
from ..handler import is_disabled
from ..text import printable, shown
from .console import Console, console
from .diagnosis import EVENT, Delivery
from .effective import Setting, in_effect, settings

FINE, NOT_DELIVERED, BAD_SETTINGS = 0, 1, 2
"""The exit statuses."""


def run(path: str, *, send: bool, as_json: bool) -> int:
    """Check the settings in a TOML file, print what was found, and return the exit status."""
    try:
        file = OtelFile.read(path)
        config = file.config()
    except ConfigError as error:
        for fault in error.faults:
            print(printable(fault), file=sys.stderr)
        if as_json:
            print(json.dumps({"file": path, "faults": error.faults}, indent=2))
        return BAD_SETTINGS
    found = settings(config, file.otel)
    if as_json:
        return _as_json(file.name, config, found, send=send)
    out = console()
    out.line(printable(file.name))
    out.line()
    out.table(("setting", "value", "from"), [_row(setting) for setting in found])
    out.line()
    for line in _consequences(config):
        out.line(printable(line))
    return _send(out, config) if send else FINE


def _as_json(name: str, config: OtelConfig, found: Sequence[Setting], *, send: bool) -> int:
    why_not = _why_nothing_is_sent(config)
    document: dict[str, Any] = {
        "file": name,
        "settings": [asdict(setting) for setting in found],
        "sends": why_not is None,
        "why_not": why_not,
        "prompts": "sent" if config.log_user_prompt else "redacted",
        "tool_payloads": "sent" if config.log_tool_payloads else "redacted",
    }
    delivered = True
    if send:
        delivery = _delivery(config)
        steps = [asdict(step) for step in delivery.steps()] if delivery else []
        delivered = delivery is not None and delivery.delivered
        document["send"] = {
            "event": EVENT,
            "conversation_id": delivery.conversation_id if delivery else None,
            "delivered": delivered,
            "steps": steps,
        }
    print(json.dumps(document, indent=2))
    return FINE if delivered else NOT_DELIVERED


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


def _why_nothing_is_sent(config: OtelConfig) -> str | None:
    if config.exporter is None:
        return "exporter is none"
    if is_disabled():
        return "the environment variable OTEL_SDK_DISABLED turns everything off"
    return missing_package(config.exporter)


def _consequences(config: OtelConfig) -> list[str]:
    """Return what follows from the settings, a line each."""
    why_not = _why_nothing_is_sent(config)
    if why_not is not None:
        sent = f"Nothing is sent: {why_not}."
    else:
        assert config.exporter is not None
        protocol = "OTLP/HTTP" if config.exporter.name == "otlp-http" else "OTLP/gRPC"
        sent = f"Events are sent over {protocol} to {in_effect(config.exporter).safe_endpoint}."
    prompts = "are sent as they are" if config.log_user_prompt else "leave as [REDACTED]"
    payloads = "are sent as they are" if config.log_tool_payloads else "leave as [REDACTED]"
    return [sent, f"Prompts {prompts}; arguments and output of tools {payloads}."]


def _delivery(config: OtelConfig) -> Delivery | None:
    """Return the delivery of an event, or None where nothing is sent."""
    if config.exporter is None or _why_nothing_is_sent(config) is not None:
        return None
    return Delivery(config, config.exporter)


def _send(out: Console, config: OtelConfig) -> int:
    out.line()
    delivery = _delivery(config)
    if delivery is None:
        out.line("NOT delivered: nothing is sent, see above.", "red")
        return NOT_DELIVERED
    out.line(f"Sending one event: {EVENT}, conversation.id = {delivery.conversation_id}")
    out.line()
    for step in delivery.steps():
        line = f"{step.name:10} {step.took_ms:>8.1f} ms  {step.text}"
        out.line(printable(line), "" if step.ok else "red")
        if step.advice:
            out.line(printable(f"{'':24}{step.advice}"), "bold")
    out.line()
    if delivery.delivered:
        out.line("Delivered. Look for this conversation.id where your events end up.", "green")
        return FINE
    out.line("NOT delivered.", "red")
    return NOT_DELIVERED
