"""Levels of `logging` become severities of OpenTelemetry."""

from __future__ import annotations

from opentelemetry._logs import SeverityNumber

from ..values import encodable_text, key_text

_SEVERITIES = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5))
"""The standard levels from the top, and the severity number each one begins at."""


def severity_number(levelno: int) -> SeverityNumber:
    """Return the severity of a level; levels between the standard ones get the numbers between.

    https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
    """
    if not isinstance(levelno, int) or levelno <= 0:
        return SeverityNumber.UNSPECIFIED
    for level, number in _SEVERITIES:
        if levelno >= level:
            return SeverityNumber(number + min(levelno - level, 3))
    return SeverityNumber.TRACE


def severity_text(levelname: str) -> str:
    """Return a level's name as OpenTelemetry and Codex spell it."""
    return "WARN" if levelname == "WARNING" else encodable_text(key_text(levelname))
