"""What `check` says about the spool: what is in it, and what keeps it from working."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...config.settings import SpoolConfig
from ...delivery.spool import disk
from ...delivery.spool.survey import FileGroup, grouped, obstacle, survey
from ...text import counted, printable
from ..console import Console
from ..leftovers import HEADER, as_json, row


class CheckedSpool(NamedTuple):
    """The directory of a spool. `problem` is why events cannot be kept in it, or None."""

    path: str
    exists: bool
    size: int
    max_bytes: int
    groups: Sequence[FileGroup]
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        """Return an object with the same facts."""
        return {
            "path": self.path,
            "exists": self.exists,
            "bytes": self.size,
            "max_bytes": self.max_bytes,
            "files": [as_json(group) for group in self.groups],
            "problem": self.problem,
        }

    def print(self, out: Console, destination: str | None, path: str) -> None:
        """Print the same facts as text, and what exports the leftovers.

        Args:
            out: where to print.
            destination: where events are sent; None if nothing is sent.
            path: what follows the command `drain`: a blank and the TOML file, or nothing.

        """
        out.line(printable(f"Spool: {self.path}, {', '.join(self._facts())}."))
        if self.problem:
            text = f"Warning: {self.problem}; events are kept in memory only."
            out.line(printable(text), "yellow", indent=2)
        if self.groups:
            out.line()
            out.table(HEADER, [row(group) for group in self.groups])
            out.line()
        left = {group.destination for group in self.groups if group.state == "left"}
        if destination in left:
            text = "Leftover events are exported by the next process that logs, or by: "
            out.line(printable(f"{text}codex-otel-logging drain{path}"), indent=2)
        if destination is not None and left - {destination}:
            text = "To export events for another destination to this one, run: "
            out.line(printable(f"{text}codex-otel-logging drain --redirect{path}"), indent=2)

    def _facts(self) -> Iterator[str]:
        if not self.exists:
            yield "created at the first event"
        else:
            files = sum(group.files for group in self.groups)
            yield f"{self.size:,} of at most {self.max_bytes:,} bytes in {counted(files, 'file')}"


def check_spool(spool: SpoolConfig) -> CheckedSpool:
    """Look at the directory, without changing it. Reads all files in it."""
    found = CheckedSpool(spool.path, disk.exists(spool.path), 0, spool.max_bytes, (), None)
    try:
        found = found._replace(problem=obstacle(spool.path, spool.max_bytes))
        if found.exists and disk.has_locks():
            found = found._replace(size=disk.used_bytes(spool.path))
            found = found._replace(groups=grouped(survey(spool.path)))
    except OSError as error:
        found = found._replace(problem=f"the directory cannot be read: {error.strerror or error}")
    return found
