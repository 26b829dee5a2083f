"""How tests start an interpreter."""

from __future__ import annotations

OLD_API_WARNING = "ignore:SelectableGroups dict interface is deprecated:DeprecationWarning"
"""The one warning that is no error: opentelemetry-api before 1.43 causes it before Python 3.12."""
