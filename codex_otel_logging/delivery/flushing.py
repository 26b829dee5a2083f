"""Waits until events are settled: for `flush`, for SIGTERM and at exit.

Runs on the thread that flushes. Several workers are flushed at once, so that they share one
timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import diagnostics
from ..native import monotonic
from .outages import report_left
from .wakeup import Wakeup

if TYPE_CHECKING:
    from .worker import Worker


def flush_all(workers: Sequence[Worker], timeout_s: float) -> bool:
    """Export what is queued without waiting for more, and wait until it is settled.

    Blocks for at most `timeout_s`; False when something accepted before the call is still queued
    then. A batch that backs off is retried at once.
    """
    return wait_until_settled(
        workers, lambda started, _progress: started + timeout_s, Wakeup.wait_cooperatively
    )


def flush_at_exit(workers: Sequence[Worker], *, for_good: bool = True) -> None:
    """Export what is queued before the process ends; report what could not be.

    Waits as long as any of the workers makes progress: gives up after `shutdown_timeout_ms`
    without, at the latest after five times that. Ctrl-C ends the wait as well.
    """
    try:
        timeout_s = max((w.begin_shutdown(for_good=for_good) for w in workers), default=0.0)
        wait_until_settled(
            workers,
            lambda started, progress: min(progress + timeout_s, started + 5 * timeout_s),
            Wakeup.wait,  # the process is ending, and with it all greenlets
        )
    except KeyboardInterrupt:
        pass  # an impatient person; what is left is reported all the same
    finally:
        left = [found for w in workers if (found := w.report_undelivered()) is not None]
        if left:
            report_left(sum(count for count, _ in left), sorted({reason for _, reason in left}))


def wait_until_settled(
    workers: Sequence[Worker],
    deadline: Callable[[float, float], float],
    wait: Callable[[Wakeup, float], bool],
) -> bool:
    """Wait until all that is queued now is settled; False when it is not in time.

    `deadline` gives the time to stop waiting from the time it began and the time of the last
    progress, all as `native.monotonic` has it.
    """
    waiter = Wakeup()
    started = monotonic()
    targets: list[tuple[Worker, int]] = []
    try:
        targets += [(worker, worker.add_waiter(waiter)) for worker in workers]
        while pending := [
            worker
            for worker, target in targets
            if worker.queue.settled < target and not worker.sender.has_no_exporter
        ]:
            until = deadline(started, max(started, *(w.sender.progressed_at for w in workers)))
            if monotonic() >= until:
                return False
            for worker in pending:
                if not worker.ensure_sending(until):
                    return False
            wait(waiter, until - monotonic())
        return all(worker.queue.settled >= target for worker, target in targets)
    finally:
        for worker, _ in targets:
            worker.queue.remove_waiter(waiter)
        diagnostics.log_pending()
