"""Reads the files that settings name, without ever blocking on one that is not a plain file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LARGEST_TOML = 1 << 20
"""1 MiB: the largest settings file that is read."""

LARGEST_PEM = 16 << 20
"""16 MiB: the largest file of certificates or keys that is read."""


def read_file(path: str | os.PathLike[str], largest: int) -> bytes:
    """Return the contents of a regular file of at most `largest` bytes.

    Opening a FIFO waits for a writer, and reading a device may never end.

    Raises:
        OSError: the file cannot be read, is not regular, or is larger.

    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    # Non-blocking, because another file may have taken its place since.
    with open(path, "rb", opener=_open_without_blocking) as file:
        contents = file.read(largest + 1)
    if len(contents) > largest:
        raise OSError(errno.EFBIG, f"larger than {largest >> 20} MiB")
    return contents


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
