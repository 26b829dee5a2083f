"""Describes the directory of a spool and its files, without changing them; for the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import Literal, NamedTuple, get_args

from . import disk
from .segment import DAMAGED, SUFFIX, DamagedHeaderError, Leftover, NewerFormatError, paths_in

State = Literal["left", "in use", "damaged", "newer format", "unreadable"]
"""What a file is.

`left`: a dead process left it. `in use`: a running process has it: the one that writes it, or the
one that exports it. `damaged`: its header cannot be read. `newer format`: a newer release has
written it. `unreadable`: it is not a regular file of this user, or the disk fails.
"""

STATES: tuple[State, ...] = get_args(State)


class SpoolFile(NamedTuple):
    """One file.

    `events` are the intact ones that are not settled; 0 if the format is unknown. `oldest_ns` is
    the time of the first of them in nanoseconds since the epoch, or of the last change of the file
    if that is unknown.
    """

    path: str
    state: State
    destination: str
    events: int
    size: int
    oldest_ns: int


class FileGroup(NamedTuple):
    """The files of one state and destination, added up; `size` is in bytes.

    `oldest_ns` is the earliest of their times, or 0 if none is known.
    """

    state: State
    destination: str
    files: int
    events: int
    size: int
    oldest_ns: int


def grouped(files: Iterable[SpoolFile]) -> list[FileGroup]:
    """Return one group for each state and destination, in the order of `STATES`."""

    def kind(file: SpoolFile) -> tuple[int, str]:
        return STATES.index(file.state), file.destination

    groups = []
    for (state, destination), group in groupby(sorted(files, key=kind), key=kind):
        same = list(group)
        groups.append(
            FileGroup(
                STATES[state],
                destination,
                len(same),
                sum(file.events for file in same),
                sum(file.size for file in same),
                min((file.oldest_ns for file in same if file.oldest_ns), default=0),
            )
        )
    return groups


def obstacle(directory: str, max_bytes: int) -> str | None:
    """Return why events cannot be kept in a directory, or None. Changes nothing.

    Raises:
        OSError: the directory cannot be read.

    """
    if not disk.has_locks():
        return "not supported on this platform"
    if not disk.exists(directory):
        # It is created at the first event, with its missing parents.
        parent = disk.nearest_parent(directory)
        return None if disk.is_writable(parent) else f"cannot be created: {parent} is not writable"
    if not disk.is_writable(directory):
        return "the directory is not writable"
    used = disk.used_bytes(directory)
    if used >= max_bytes:
        return f"full: {used:,} bytes of max_bytes = {max_bytes:,}"
    return None


def survey(directory: str) -> Iterator[SpoolFile]:
    """Yield what is in a directory, oldest first. Reads every file as a whole.

    Each file is locked for a moment, not while it is read: another process that looks for leftovers
    at this moment takes it for one in use.

    Raises:
        OSError: the directory cannot be read.

    """
    try:
        paths = [*paths_in(directory, SUFFIX, SUFFIX + DAMAGED)]
    except FileNotFoundError:  # it is created at the first event
        return
    for path in paths:
        with suppress(FileNotFoundError):  # exported meanwhile
            yield _file_at(path)


def _file_at(path: str) -> SpoolFile:
    found = SpoolFile(path, "unreadable", "", 0, 0, 0)
    descriptor = -1
    try:
        # Before it is opened: that would wake the writer of a FIFO, or start a device.
        if not disk.is_regular_at(path):
            return found
        descriptor = disk.open_to_read(path)
        status = disk.status(descriptor)
        found = found._replace(size=status.st_size, oldest_ns=status.st_mtime_ns)
        # Asked before reading: a process that dies meanwhile leaves a file that is in use here.
        state: State = "in use" if _is_locked(path) else "left"
        leftover = Leftover(path, descriptor)
        if first := leftover.next_batch(1, 0):
            found = found._replace(oldest_ns=first[0][1].observed_ns)
        if path.endswith(DAMAGED):
            state = "damaged"
        return found._replace(
            state=state, destination=leftover.header.destination, events=len(leftover)
        )
    except DamagedHeaderError as error:
        return found._replace(state="damaged", events=error.records)
    except NewerFormatError:
        return found._replace(state="newer format")
    except FileNotFoundError:
        raise
    except OSError:
        return found
    finally:
        if descriptor >= 0:
            disk.close(descriptor)


def _is_locked(path: str) -> bool:
    """Return whether a running process has locked a file."""
    # With a descriptor of its own, whose closing frees the lock at once.
    descriptor = disk.open_to_read(path)
    try:
        return not disk.lock(descriptor)
    finally:
        disk.close(descriptor)
