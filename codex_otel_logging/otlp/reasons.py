"""Words for why a request failed: one short line without the secrets of the settings."""

from __future__ import annotations

import re

from ..config.settings import ExporterConfig
from ..delivery.exporter import DELIVERED, Outcome

_MAX_REASON = 200


def delivered(rejected: int, message: str, config: ExporterConfig) -> Outcome:
    """Return the outcome of a delivered request, of which a collector may have left events out."""
    if not rejected and not message:
        return DELIVERED
    return Outcome("delivered", safe_reason(message, config), max(rejected, 0))


def safe_reason(text: str, config: ExporterConfig) -> str:
    """Return what a collector or a library said as one short line without the settings' secrets."""
    from .masking import mask  # here, because a start without failures does without

    text = mask(text, config)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_REASON else line[:_MAX_REASON] + "..."


_CLIENT_CERTIFICATE = "the collector wants a client certificate that it accepts"

_TLS_HINTS = (
    ("local issuer", "its authority is not known here, see ca-certificate"),
    ("self.signed certificate", "its authority is not known here, see ca-certificate"),
    ("mismatch", "it is for another host than the endpoint's"),
    ("wrong version number|record layer failure", "the collector does not speak TLS there"),
    ("alert .*(certificate|unknown ca)", _CLIENT_CERTIFICATE),
)
"""What OpenSSL's words about a certificate, or about a connection, mean to a reader."""

PERHAPS_CLIENT_CERTIFICATE = f"; perhaps {_CLIENT_CERTIFICATE}"
"""What may be behind a collector that hangs up over TLS; it need not say why."""


def tls_failure(what: str, why: str = "") -> str:
    """Return in words why TLS failed, from OpenSSL's name for what failed and its reason for it.

    Without the host's name, which a variable may hold.
    """
    why = why.partition(", certificate is not valid for")[0]
    text = ": ".join(filter(None, (what.lower().replace("_", " "), why)))
    hint = next((hint for words, hint in _TLS_HINTS if re.search(words, text)), "")
    return f"TLS failed: {text}" + (f"; {hint}" if hint else "")
