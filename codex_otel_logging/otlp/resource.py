"""The resource attributes that identify the SDK."""

from __future__ import annotations

from opentelemetry.sdk.version import __version__ as sdk_version

SDK_ATTRIBUTES = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
"""https://opentelemetry.io/docs/specs/semconv/resource/#telemetry-sdk"""
