"""Options for interpreters that tests start."""

from __future__ import annotations

OLD_API_WARNING = "ignore:SelectableGroups dict interface is deprecated:DeprecationWarning"
"""The only warning that is not an error: opentelemetry-api < 1.43 causes it on Python < 3.12."""
