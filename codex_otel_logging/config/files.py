"""Reads and checks the files that settings name. Only regular files are read, so nothing blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from .settings import TlsConfig

MAX_TOML_BYTES = 1 << 20
"""Maximum size of a settings file: 1 MiB."""

MAX_PEM_BYTES = 16 << 20
"""Maximum size of a file of certificates or keys: 16 MiB."""


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the contents of a regular file of at most `max_bytes`; never blocks.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger.
        ValueError: `path` contains a NUL character.

    """
    # Opening a FIFO waits for a writer, and reading a device such as /dev/zero never ends.
    # os.stat, because importing pathlib takes a tenth of the start-up time.
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise OSError(errno.EINVAL, "not a regular file")
    # Non-blocking: a FIFO may have replaced the file since the check.
    with open(path, "rb", opener=_open_without_blocking) as file:
        contents = file.read(max_bytes + 1)
    if len(contents) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes >> 20} MiB")
    return contents


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def file_problem(path: str | os.PathLike[str]) -> str | None:
    """Return why a file of certificates or keys cannot be read, or None."""
    try:
        read_file(path, MAX_PEM_BYTES)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the path
        return "invalid path"
    return None


def certificate_problems(tls: TlsConfig) -> Iterator[tuple[str, str]]:
    """Yield the `TlsConfig` field and the fault of each file that TLS cannot use.

    The files must be readable; check them with `file_problem` first.
    """
    import ssl  # slow to import, and only TLS needs it

    context = ssl.create_default_context()
    if tls.ca_certificate is not None:
        try:
            context.load_verify_locations(tls.ca_certificate)
        except ssl.SSLError:
            yield "ca_certificate", "the file contains no PEM certificate"
    if tls.client_certificate is not None and tls.client_private_key is not None:
        try:
            # Without a password, OpenSSL would ask for the one of an encrypted key on the terminal.
            context.load_cert_chain(tls.client_certificate, tls.client_private_key, password="")
        except (ssl.SSLError, ValueError):
            yield (
                "client_certificate",
                "expected a PEM certificate and its unencrypted client-private-key",
            )


def absolute_path(path: str, folder: str | os.PathLike[str] | None) -> str | None:
    """Return a path with `~` expanded, relative to `folder` or else to the working directory.

    None if the home directory is unknown.

    Raises:
        OSError: the working directory is unknown.

    """
    expanded = os.path.expanduser(path)  # noqa: PTH111
    if expanded.startswith("~"):
        return None
    return os.path.abspath(os.path.join(folder or "", expanded))  # noqa: PTH100, PTH118


def directory_problem(path: str) -> str | None:
    """Return why a directory cannot be used for events; None if it can, or does not exist.

    Events may hold prompts and the output of tools, so no other user may read or replace the files.
    """
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    except ValueError:  # a NUL in the path
        return "invalid path"
    if not stat.S_ISDIR(found.st_mode):
        return "not a directory"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return "the directory belongs to another user"
    if os.name == "posix" and found.st_mode & 0o077:
        return "the directory is open to other users; run: chmod 700"
    return None
