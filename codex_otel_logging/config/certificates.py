"""Checks the certificate and key files of a TLS connection when the settings are read."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .files import LARGEST_PEM, read_file
from .settings import TlsConfig


def file_problem(path: str | os.PathLike[str]) -> str | None:
    """Return why a file of certificates or keys cannot be read, or None if it can."""
    try:
        read_file(path, LARGEST_PEM)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the path
        return "not the path of a file"
    return None


def certificate_problems(tls: TlsConfig) -> Iterator[tuple[str, str]]:
    """Yield the field of each file that TLS cannot use, and what is wrong with it.

    The files exist and can be read.
    """
    import ssl  # slow to import, and only TLS needs it

    context = ssl.create_default_context()
    if tls.ca_certificate is not None:
        try:
            context.load_verify_locations(tls.ca_certificate)
        except ssl.SSLError:
            yield "ca_certificate", "no certificate in PEM form is in the file"
    if tls.client_certificate is not None and tls.client_private_key is not None:
        try:
            context.load_cert_chain(tls.client_certificate, tls.client_private_key, password="")
        except (ssl.SSLError, ValueError):
            yield (
                "client_certificate",
                "not a PEM certificate that fits an unencrypted client-private-key",
            )
