"""Exports everything that dead processes have left, on the calling thread; the command `drain`.

Unlike the worker, it stops when the collector keeps failing, and reports what remains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...config.settings import BatchConfig
from ...events.event import Event, SharedAttributes
from ...native import monotonic, sleep
from ..exporter import Outcome
from ..outages import WEB_PAGE
from ..parts import Settlement
from ..sender import BACKOFF_S, LeftoverExporter
from .journal import SpoolSettings
from .leftovers import Leftovers, Report
from .survey import SpoolFile, survey

MAX_ATTEMPTS = 4
"""Maximum number of attempts per batch. More than one, because a collector may be restarting; after
that, the user decides when to run the command again."""

PATIENCE_S = 3.0
"""How long after the last progress a further attempt may begin, in seconds."""

_SHORTEST_REQUEST_S = 0.001
"""The timeout of a request that begins when time is up, as the rest of a batch may."""


class Drain:
    """Exports the leftovers in one directory. Not thread-safe.

    Args:
        settings: where they are, and where they may be exported to.
        batch: limits the size of a request.
        redirect: export the leftovers of any destination.
        timeout_s: the time after which `run` ends, whatever is left; None means no limit.
        report: reports what was not exported, and why.
        progress: called after each batch.

    """

    def __init__(
        self,
        settings: SpoolSettings,
        batch: BatchConfig,
        *,
        redirect: bool,
        timeout_s: float | None = None,
        report: Report,
        progress: Callable[[], object],
    ) -> None:
        self.exported = 0
        """How many events the collector accepted."""
        self.discarded = 0
        """How many events were rejected, expired or damaged."""
        self.failure = ""
        """Why the collector could not be reached, if `run` ended for that reason."""
        self.timed_out = False
        """Whether `run` ended because its time was up."""
        self._owners: set[str] = set()
        if timeout_s is not None:
            # Events expire when an attempt fails. The failure of a request that is cut short says
            # nothing about the collector.
            settings = settings._replace(keep_for_s=0)
        self._settings = settings
        self._redirect = redirect
        self._timeout_s = timeout_s
        self._deadline = math.inf
        self._report = report
        self._progress = progress
        self._retry_after_s = 0.0
        self._exporter = LeftoverExporter(settings.connect)
        self._leftovers = Leftovers(
            settings,
            batch,
            export=self._export,
            account=self._account,
            redirect=redirect,
            report=report,
        )

    @property
    def processes(self) -> int:
        """How many handlers had logged the exported events; usually there is one in a process."""
        return len(self._owners)

    def exportable(self) -> int:
        """Return how many events are left that may be exported. Reads all files."""
        files = survey(self._settings.path)
        return sum(file.events for file in files if self._is_exportable(file))

    def run(self) -> list[SpoolFile]:
        """Export until nothing is left that can be exported; return the files that remain.

        Stops when the collector has failed `MAX_ATTEMPTS` times in a row. Blocks for at most about
        the timeout of the exporter and `PATIENCE_S` without progress. If a signal handler raises,
        as at Ctrl-C, at most one batch will be exported again. With `timeout_s`, a request that
        takes too long is given up; looking up a host name is not.

        Raises:
            OSError: the directory cannot be read.

        """
        if self._timeout_s is not None:
            self._deadline = monotonic() + self._timeout_s
        try:
            return self._run()
        finally:
            self._leftovers.release()
            self._exporter.close()

    def _run(self) -> list[SpoolFile]:
        attempts, progressed_at = 0, monotonic()
        while True:
            self._leftovers.scan()
            while monotonic() < self._deadline and self._leftovers.step():
                attempts, progressed_at = 0, monotonic()
                self._progress()
            # If time is up, in the middle of a file: `survey` would take it for one in use.
            self._leftovers.release()
            self.failure = self._leftovers.failure
            remaining = list(survey(self._settings.path))
            # Files may be left without a failure: of a process that has just ended, or because
            # `survey` in another process had locked them when this one looked.
            if not any(map(self._is_exportable, remaining)):
                self.failure = ""
                return remaining
            delay_s = max(BACKOFF_S[attempts], self._retry_after_s)
            attempts += 1
            if monotonic() + delay_s > self._deadline:
                self.timed_out = True
                return remaining
            if attempts == MAX_ATTEMPTS or monotonic() + delay_s > progressed_at + PATIENCE_S:
                return remaining
            sleep(delay_s)

    def _is_exportable(self, file: SpoolFile) -> bool:
        is_for_us = self._redirect or file.destination == self._settings.destination
        return file.state == "left" and file.events > 0 and is_for_us

    def _export(self, shared: SharedAttributes, events: Sequence[Event]) -> Outcome:
        timeout_s = max(self._deadline - monotonic(), _SHORTEST_REQUEST_S)
        outcome = self._exporter.export(
            shared, events, None if timeout_s == math.inf else timeout_s
        )
        self._retry_after_s = outcome.retry_after_s or 0.0
        if outcome.web_page:
            self._report("", WEB_PAGE % outcome.reason)
        return outcome

    def _account(self, owner: str, settlement: Settlement) -> None:
        self.exported += settlement.exported
        self.discarded += settlement.rejected + settlement.dropped
        if settlement.exported:
            self._owners.add(owner)
