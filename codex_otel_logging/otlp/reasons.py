"""Describes why a request failed: one short line, with the settings' secrets masked.

`forget_frames` releases what the error of a failed request keeps in memory.
"""

from __future__ import annotations

import re

from ..config.settings import ExporterConfig
from ..delivery.exporter import DELIVERED, Outcome
from .masking import mask

_MAX_REASON = 200
"""Maximum length of a reason in characters. A collector may answer with a whole document."""


def delivered(rejected: int, message: str, config: ExporterConfig) -> Outcome:
    """Return the outcome of a delivered request, with the events that the collector rejected."""
    if not rejected and not message:
        return DELIVERED
    return Outcome("delivered", safe_reason(message, config), max(rejected, 0))


def forget_frames(error: BaseException) -> None:
    """Remove the tracebacks of an error and of all errors that it comes from.

    A traceback holds the frames of the libraries, whose variables hold the request and often the
    error itself. In such a cycle, the request of each failed attempt, up to several MiB, would stay
    in memory until the garbage collector finds it.
    """
    errors = [error]
    for each in errors:
        each.__traceback__ = None
        earlier = (each.__cause__, each.__context__)
        errors += [other for other in earlier if other is not None and other not in errors]


def safe_reason(text: str, config: ExporterConfig) -> str:
    """Return text from a collector or a library as one short printable line, secrets masked."""
    # Masked before it is cut: half a secret would no longer be recognized.
    text = mask(text, config)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_REASON else line[:_MAX_REASON] + "..."


_CLIENT_CERTIFICATE = "the collector requires a client certificate that it trusts"

_TLS_HINTS = (
    ("local issuer", "unknown certificate authority, set ca-certificate"),
    ("self.signed certificate", "unknown certificate authority, set ca-certificate"),
    ("mismatch", "the certificate must name the endpoint's host"),
    ("wrong version number|record layer failure", "the collector does not use TLS on this port"),
    ("alert .*(certificate|unknown ca)", _CLIENT_CERTIFICATE),
)
"""Patterns of messages of OpenSSL, or of BoringSSL in gRPC, each with a hint."""

PERHAPS_CLIENT_CERTIFICATE = f"; perhaps {_CLIENT_CERTIFICATE}"
"""The hint for a collector that closes a TLS connection; it may do so without a reason."""


def tls_failure(what: str, why: str = "") -> str:
    """Return a description of a TLS failure.

    Args:
        what: OpenSSL's name for the failure, such as `CERTIFICATE_VERIFY_FAILED`.
        why: OpenSSL's reason for it, if there is one.

    """
    # What follows is the host name, which a `${NAME}` may have supplied.
    why = why.partition(", certificate is not valid for")[0]
    text = ": ".join(filter(None, (what.lower().replace("_", " "), why)))
    hint = next((hint for words, hint in _TLS_HINTS if re.search(words, text)), "")
    return f"TLS failed: {text}" + (f"; {hint}" if hint else "")
