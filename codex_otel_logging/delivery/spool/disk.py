"""The system calls of the spool.

This folder makes no other ones, so that a test can make each call fail, write less than requested,
or be the last one before the process dies. `journal` also calls `config.files.directory_problem`,
which reads the status of the directory, as it does for the settings; nothing else touches files.
The locks of other platforms would belong here as well.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""No other program inherits the file, no symbolic link is followed, and a FIFO does not block."""

MOUNTS = "/proc/self/mounts"
"""Where Linux lists the mounted file systems."""

_REMOTE = ("nfs", "cifs", "smb", "9p", "fuse")
"""How the types of file systems begin whose locks may not work as on a local disk."""

_opened: dict[int, int] = {}
"""The descriptors that `_open` has opened, and the id of the process that did."""

_opening: dict[object, str] = {}
"""The paths of the files that `_open` is opening: a thread may have a descriptor already."""

_DESCRIPTORS = "/proc/self/fd"
"""Where Linux lists the descriptors of this process, as links to their files."""


def has_locks() -> bool:
    """Return whether this platform has `flock`, which tells leftovers from files in use."""
    return fcntl is not None


def make_directory(path: str) -> bool:
    """Create a directory that only its owner may use, and its missing parents likewise.

    Does nothing if the path exists. Returns whether it was missing.
    """
    if os.path.isdir(path):  # noqa: PTH112
        return False
    # Not os.makedirs, which gives parents the mode that the umask leaves.
    parent = os.path.dirname(path)  # noqa: PTH120
    if parent != path:
        make_directory(parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)  # noqa: PTH102
        os.chmod(path, 0o700)  # noqa: PTH101  # a umask may remove permissions of the owner
    return True


def names(path: str) -> list[str]:
    """Return the names of the entries of a directory, sorted."""
    return sorted(os.listdir(path))  # noqa: PTH208


def exists(path: str) -> bool:
    """Return whether a file exists."""
    return os.path.exists(path)  # noqa: PTH110


def is_writable(path: str) -> bool:
    """Return whether this process may create files at `path`, which must be a directory."""
    # Asks the kernel, so that a read-only file system counts, also for root.
    return os.path.isdir(path) and os.access(path, os.R_OK | os.W_OK | os.X_OK)  # noqa: PTH112


def nearest_parent(path: str) -> str:
    """Return the nearest parent of an absolute path that exists."""
    parent = os.path.dirname(path)  # noqa: PTH120
    return parent if exists(parent) or parent == path else nearest_parent(parent)


def remote_file_system(path: str) -> str:
    """Return the type of the file system that holds `path`; "" if it is local, or not known."""
    path = os.path.realpath(path)
    found = kind = ""
    try:
        with open(MOUNTS, "rb") as lines:  # noqa: PTH123
            for line in lines:
                _, place, its_kind, *_ = line.split()
                # Spaces and some other characters are octal there.
                mounted = re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), place)
                root = os.fsdecode(mounted).rstrip("/")
                # The last one that is at least as long: mounts may cover others.
                if len(root) >= len(found) and f"{path}/".startswith(f"{root}/"):
                    found, kind = root, its_kind.decode("ascii", "replace")
    except (OSError, ValueError):  # another platform, or no /proc
        return ""
    return kind if kind.startswith(_REMOTE) else ""


def create(path: str) -> int:
    """Create a file for appending, readable only by its owner; return its descriptor.

    Raises:
        FileExistsError: the name is taken.

    """
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
    with suppress(OSError):
        os.fchmod(descriptor, 0o600)  # a umask may remove permissions of the owner
    return descriptor


def open_existing(path: str) -> int:
    """Open a file for reading and writing in place; return its descriptor."""
    return _open(path, os.O_RDWR)


def _open(path: str, flags: int) -> int:
    call = object()
    _opening[call] = path
    try:
        descriptor = os.open(path, flags | _FLAGS, 0o600)
        _opened[descriptor] = os.getpid()
        return descriptor
    finally:
        _opening.pop(call, None)


def open_to_read(path: str) -> int:
    """Open a file for reading only; return its descriptor."""
    return os.open(path, os.O_RDONLY | _FLAGS)


def status(descriptor: int) -> os.stat_result:
    """Return the status of an open file."""
    return os.fstat(descriptor)


def is_regular(descriptor: int) -> bool:
    """Return whether an open file is a regular one that belongs to this user."""
    return _is_own_file(status(descriptor))


def is_regular_at(path: str) -> bool:
    """Return whether the file at `path` is a regular one of this user, not a symbolic link.

    Raises:
        OSError: it does not exist, or its status cannot be read.

    """
    return _is_own_file(os.stat(path, follow_symlinks=False))  # noqa: PTH116


def _is_own_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def is_at(path: str, descriptor: int) -> bool:
    """Return whether an open file is the one at `path`."""
    try:
        there = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except OSError:
        return False
    return os.path.samestat(there, status(descriptor))


def lock(descriptor: int) -> bool:
    """Lock an open file exclusively; return False if it is locked already.

    Does not wait. The lock belongs to the open file description: the kernel frees it when the last
    descriptor that shares it is closed, however the process dies.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append(descriptor: int, data: bytes) -> int:
    """Write at the end of a file; return how many bytes were written."""
    return os.write(descriptor, data)


def overwrite(descriptor: int, data: bytes, offset: int) -> int:
    """Write at `offset`; return how many bytes were written.

    Not for a descriptor of `create`: with O_APPEND, Linux appends whatever the offset.
    """
    return os.pwrite(descriptor, data, offset)


def read(descriptor: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes at `offset`."""
    return os.pread(descriptor, size, offset)


def sync(descriptor: int) -> None:
    """Wait until the contents of a file have reached the storage device."""
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has only fsync


def sync_directory(path: str) -> None:
    """Wait until the names in a directory have reached the storage device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_parents(path: str) -> None:
    """Wait until the names of a directory and of its parents have reached the storage device.

    Ignores errors: only the owner of a parent may be able to open it, and some file systems that
    cannot be written to cannot be synced either.
    """
    parent = os.path.dirname(path)  # noqa: PTH120
    while parent != path:
        with suppress(OSError):
            sync_directory(parent)
        path, parent = parent, os.path.dirname(parent)  # noqa: PTH120


def used_bytes(path: str) -> int:
    """Return the size of all files in a directory."""
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed meanwhile
                total += entry.stat(follow_symlinks=False).st_size
    return total


def modified_s(path: str) -> float:
    """Return when a file was last written to, in seconds since the epoch."""
    return os.stat(path, follow_symlinks=False).st_mtime  # noqa: PTH116


def rename(path: str, to: str) -> None:
    """Rename a file within its directory, atomically."""
    os.rename(path, to)  # noqa: PTH104


def remove(path: str) -> None:
    """Remove a file, if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def close(descriptor: int) -> None:
    """Close a descriptor; the last one of a locked file frees the lock."""
    _opened.pop(descriptor, None)
    os.close(descriptor)


def neutralize(descriptor: int) -> None:
    """Redirect a descriptor to the null device, which discards late writes.

    Unlike after `close`, no file that is opened meanwhile can get the same descriptor.
    """
    _opened.pop(descriptor, None)
    flags = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
    try:
        null = os.open(os.devnull, flags)
    except OSError:  # no descriptor is free, so the null device gets this one
        os.close(descriptor)
        null = os.open(os.devnull, flags)
        if null == descriptor:
            return
    try:
        os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)


def neutralize_inherited() -> None:
    """Neutralize the descriptors that a forked child has inherited. Frees no lock of its parent.

    Otherwise the lock would be held until the last child ends, even if the parent has died, and
    no process could adopt what the parent has left.
    """
    process = os.getpid()
    inherited = [each for each, opener in _opened.copy().items() if opener != process]
    for descriptor in [*inherited, *_inherited_while_opening()]:
        with suppress(OSError):
            neutralize(descriptor)


def _inherited_while_opening() -> list[int]:
    """Return the descriptors that threads of the parent had opened and not yet noted in `_opened`.

    Finds them on Linux only.
    """
    # The parent may have renamed or removed a file meanwhile; both change what follows the dot.
    stems = {os.path.basename(path).partition(".")[0] for path in _opening.values()}  # noqa: PTH119
    _opening.clear()
    found = []
    if stems:
        with suppress(OSError):
            for descriptor in os.listdir(_DESCRIPTORS):  # noqa: PTH208
                with suppress(OSError):  # that of the list itself
                    target = os.path.basename(os.readlink(f"{_DESCRIPTORS}/{descriptor}"))  # noqa: PTH115,PTH119
                    if target.partition(".")[0] in stems:
                        found.append(int(descriptor))
    return found


def chunks(descriptor: int, offset: int, size: int = 1 << 16) -> Iterator[bytes]:
    """Yield the contents of a file from `offset` on."""
    while data := read(descriptor, size, offset):
        yield data
        offset += len(data)
