"""Waits until events are settled: for `flush`, for SIGTERM and at exit.

Runs on the thread that flushes. Several workers are flushed together, so they share one timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import diagnostics
from ..native import monotonic
from .outages import report_undelivered
from .wakeup import Wakeup

if TYPE_CHECKING:
    from .worker import Worker

LEFTOVERS_AT_EXIT_S = 0.5
"""How long the exit waits at most for the export of leftovers, in seconds."""


def flush_all(workers: Sequence[Worker], timeout_s: float) -> bool:
    """Export the queued events without waiting for full batches; return whether all are settled.

    Blocks for at most `timeout_s` seconds. Returns False if an event accepted before the call is
    still queued then. A batch that is backing off is retried immediately.
    """
    return wait_until_settled(
        workers, lambda started, _progress: started + timeout_s, Wakeup.wait_cooperatively
    )


def flush_at_exit(workers: Sequence[Worker], *, for_good: bool = True) -> None:
    """Export the queued events before the process ends; report those that remain.

    Blocks as long as any worker makes progress. Gives up after `shutdown_timeout_ms` without
    progress, and after five times that in any case. Ctrl-C also ends the wait.
    """
    try:
        timeout_s = max((w.begin_shutdown(for_good=for_good) for w in workers), default=0.0)
        wait_until_settled(
            workers,
            lambda started, progress: min(progress + timeout_s, started + 5 * timeout_s),
            # Not cooperatively: other greenlets end with the process, and none has to run.
            Wakeup.wait,
        )
        if for_good:
            _wait_for_leftovers(workers)
    except KeyboardInterrupt:
        pass  # Ctrl-C skips the wait, not the report
    finally:
        report_undelivered(
            [undelivered for w in workers if (undelivered := w.end_shutdown()) is not None]
        )


def _wait_for_leftovers(workers: Sequence[Worker]) -> None:
    """Wait while the workers export leftovers, for at most `LEFTOVERS_AT_EXIT_S`.

    A short command would otherwise never export what an earlier run has left.
    """
    waiter = Wakeup()
    until = monotonic() + LEFTOVERS_AT_EXIT_S
    try:
        for worker in workers:
            worker.queue.add_waiter(waiter)
            worker.export_leftovers_at_exit(until)
        while any(worker.is_exporting_leftovers for worker in workers) and monotonic() < until:
            waiter.wait(until - monotonic())
    finally:
        for worker in workers:
            worker.queue.remove_waiter(waiter)


def wait_until_settled(
    workers: Sequence[Worker],
    deadline: Callable[[float, float], float],
    wait: Callable[[Wakeup, float], bool],
) -> bool:
    """Wait until all events queued now are settled; return False if the deadline passes first.

    `deadline` computes the deadline from the start of the wait and the time of the last progress.
    All three are times of `native.monotonic`.
    """
    waiter = Wakeup()
    started = monotonic()
    targets: list[tuple[Worker, int]] = []
    try:
        targets += [(worker, worker.add_waiter(waiter)) for worker in workers]
        # Two kinds of workers are not waited for. One has no exporter; its events stay queued. The
        # events of the other are on disk, its last attempt has failed, and the process is ending;
        # another process will export them.
        while pending := [
            worker
            for worker, target in targets
            if worker.queue.settled < target
            and not worker.sender.has_no_exporter
            and not worker.can_leave
        ]:
            until = deadline(started, max(started, *(w.sender.progressed_at for w in workers)))
            if monotonic() >= until:
                return False
            for worker in pending:
                if not worker.ensure_sending(until):
                    return False
            wait(waiter, until - monotonic())
        return all(
            worker.queue.settled >= target and not worker.queue.count_left()
            for worker, target in targets
        )
    finally:
        for worker, _ in targets:
            worker.queue.remove_waiter(waiter)
        diagnostics.log_pending()
