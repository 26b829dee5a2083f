"""Exports everything that dead processes have left, on the calling thread; the command `drain`.

Unlike the worker, which exports leftovers besides its own events, this stops when the collector
keeps failing, and says what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...config.settings import BatchConfig
from ...events.event import Event, SharedAttributes
from ...native import monotonic, sleep
from ..exporter import Outcome
from ..sender import BACKOFF_S, LeftoverExporter
from .journal import SpoolSettings
from .leftovers import Leftovers, Report
from .survey import SpoolFile, survey

MAX_ATTEMPTS = 4
"""How often a batch is tried. A restarting collector is worth more than one attempt; beyond that,
whoever runs the command knows better when to run it again."""

PATIENCE_S = 3.0
"""How long after the last progress a further attempt may begin, in seconds."""


class Drain:
    """Exports the leftovers in one directory. Not thread-safe.

    Args:
        settings: where they are, and where they may be exported to.
        batch: limits the size of a request.
        redirect: export the leftovers of any destination.
        report: reports what was not exported, and why.
        progress: called after each batch.

    """

    def __init__(
        self,
        settings: SpoolSettings,
        batch: BatchConfig,
        *,
        redirect: bool,
        report: Report,
        progress: Callable[[], object],
    ) -> None:
        self.exported = 0
        """How many events the collector accepted."""
        self.discarded = 0
        """How many events it rejected, or are damaged."""
        self.failure = ""
        """Why the collector could not be reached, if `run` ended for that reason."""
        self._owners: set[str] = set()
        self._settings = settings
        self._redirect = redirect
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

    def run(self) -> list[SpoolFile]:
        """Export until nothing is left that can be exported; return the files that remain.

        Stops when the collector has failed `MAX_ATTEMPTS` times in a row. Blocks for at most about
        the timeout of the exporter and `PATIENCE_S` without progress. If a signal handler raises,
        as at Ctrl-C, at most one batch will be exported again.

        Raises:
            OSError: the directory cannot be read.

        """
        try:
            return self._run()
        finally:
            self._leftovers.release()
            self._exporter.close()

    def _run(self) -> list[SpoolFile]:
        attempts, progressed_at = 0, monotonic()
        while True:
            self._leftovers.scan()
            while self._leftovers.step():
                attempts, progressed_at = 0, monotonic()
                self._progress()
            self.failure = self._leftovers.failure
            remaining = list(survey(self._settings.path))
            # Files may be left without a failure: of a process that has just ended, or because
            # `survey` in another process had locked them when this one looked.
            if not any(map(self._is_exportable, remaining)):
                self.failure = ""
                return remaining
            delay_s = max(BACKOFF_S[attempts], self._retry_after_s)
            attempts += 1
            if attempts == MAX_ATTEMPTS or monotonic() + delay_s > progressed_at + PATIENCE_S:
                return remaining
            sleep(delay_s)

    def _is_exportable(self, file: SpoolFile) -> bool:
        is_for_us = self._redirect or file.destination == self._settings.destination
        return file.state == "left" and file.events > 0 and is_for_us

    def _export(self, shared: SharedAttributes, events: Sequence[Event]) -> Outcome:
        outcome = self._exporter.export(shared, events)
        self._retry_after_s = outcome.retry_after_s or 0.0
        if outcome.web_page:
            self._report(
                "",
                f"the answer is a web page ({outcome.reason}), so the endpoint is probably not a "
                "collector; events count as exported",
            )
        return outcome

    def _account(self, owner: str, exported: int, discarded: int) -> None:
        self.exported += exported
        self.discarded += discarded
        if exported:
            self._owners.add(owner)
