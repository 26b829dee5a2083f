"""Unusual field values, and received records in a comparable form."""

from __future__ import annotations

import math
from typing import Any

from codex_otel_logging import Receiver

ODD: dict[str, Any] = {
    "nested": [1, [2.5, ["x", {"deep": {"deeper": [True, b"\x00\xff"]}}]]],
    "map": {"a": 1, "b": {"c": "d"}, "é☕": -1, "\ud800": "odd key"},
    "bytes": b"\x00\xff\xfb",
    "no bytes": b"",
    "most": (1 << 63) - 1,
    "least": -(1 << 63),
    "beyond 64 bits": 1 << 64,
    "beyond doubles": (1 << 53) + 1,
    "zero": 0,
    "negative zero": -0.0,
    "whole float": 3.0,
    "tiny": 5e-324,
    "true": True,
    "false": False,
    "": "no key",
    "no text": "",
    "surrogate": "a\ud800b",
    "unicode": "naïve ☕ \U0001f600 \u2028 \x00 \x1b[31m \u202e </script>",
    "long": "x" * 10_000,
}

ODD_AS_JSON: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "None in an array": [1, None],
    "None in a map": {"a": None},
    "no elements": [],
    "no entries": {},
    "empty key in a map": {"": 1},
}
"""Values that some collectors accept as protobuf, but not as JSON."""


def records(receiver: Receiver, *transports: str) -> list[str]:
    """Return the text of each record with its resource and scope, sorted, without observed time.

    Only of these `transports`, if any are given.
    """
    texts = []
    for request in receiver.requests:
        if transports and request.transport not in transports:
            continue
        for resource_logs in request.message.resource_logs:
            for scope_logs in resource_logs.scope_logs:
                for record in scope_logs.log_records:
                    record.ClearField("observed_time_unix_nano")
                    texts.append(f"{resource_logs.resource}{scope_logs.scope}{record}")
    return sorted(texts)
