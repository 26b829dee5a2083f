"""Removes what dead processes have left, instead of exporting it; the command `drain --discard`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...native import monotonic
from .leftovers import Report
from .segment import NewerFormatError, discard, remove_all_unfinished
from .survey import SpoolFile, survey


class Discard:
    """Removes the leftovers in one directory, also damaged files. Not thread-safe.

    Never removes a file of a living process, or of a newer release, whose locks may differ.

    Args:
        directory: where they are.
        destination: the destination whose leftovers are removed; None means any. A file with a
            damaged header belongs to every destination.
        timeout_s: the time after which `run` ends, whatever is left; None means no limit.
        report: reports what was not removed, and why.

    """

    def __init__(
        self,
        directory: str,
        destination: str | None,
        *,
        timeout_s: float | None = None,
        report: Report,
    ) -> None:
        self.events = 0
        """How many intact events were removed, not counting settled ones."""
        self.files = 0
        """How many files were removed."""
        self.timed_out = False
        """Whether `run` ended because its time was up."""
        self._directory = directory
        self._destination = destination
        self._timeout_s = timeout_s
        self._report = report

    def affected(self, files: Iterable[SpoolFile]) -> list[SpoolFile]:
        """Return those of the files that `run` would remove."""
        return [file for file in files if self._is_affected(file)]

    def _is_affected(self, file: SpoolFile) -> bool:
        if file.state == "damaged" and not file.destination:
            return True
        is_meant = self._destination in (None, file.destination)
        return file.state in ("left", "damaged") and is_meant

    def run(self) -> None:
        """Remove the affected files, one by one.

        Also removes files that dead processes left before they had a header; these do not count.
        May be ended at any moment: each file is either there or counted, except for the last one.

        Raises:
            OSError: the directory cannot be read.

        """
        deadline = math.inf if self._timeout_s is None else monotonic() + self._timeout_s
        for file in self.affected(survey(self._directory)):
            if monotonic() >= deadline:
                self.timed_out = True
                return
            self._remove(file.path)
        remove_all_unfinished(self._directory)

    def _remove(self, path: str) -> None:
        try:
            events = discard(path, self._destination)
        except NewerFormatError:  # it has taken the place of the file that was surveyed
            return
        except OSError as error:
            self._report(path, f"cannot be removed ({error.strerror or error})")
            return
        if events is not None:  # None: adopted meanwhile
            self.events += events
            self.files += 1
