"""Converts levels of `logging` to severities of OpenTelemetry."""

from __future__ import annotations

from opentelemetry._logs import SeverityNumber

from ..values import encodable_text, key_text

_SEVERITIES = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5))
"""The standard levels, highest first, each with the severity number that its range begins at."""


def severity_number(levelno: int) -> SeverityNumber:
    """Return the severity of a level.

    Levels between two standard ones get the numbers between: 21 is INFO2, 22 INFO3.
    https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
    """
    # `Logger.log` checks the type of a level, but records also come from `makeLogRecord`.
    if not isinstance(levelno, int) or levelno <= 0:
        return SeverityNumber.UNSPECIFIED
    for level, number in _SEVERITIES:
        if levelno >= level:
            return SeverityNumber(number + min(levelno - level, 3))
    return SeverityNumber.TRACE


def severity_text(levelname: str) -> str:
    """Return the name of a level as OpenTelemetry and the Codex CLI write it."""
    return "WARN" if levelname == "WARNING" else encodable_text(key_text(levelname))
