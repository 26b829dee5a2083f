"""Reports from a worker thread while a patched application logs; prints how many reports arrived.

Usage: greenlets_reports.py LIBRARY
"""

import logging
import sys
import warnings

if sys.argv[1] == "gevent":
    from gevent import monkey, sleep

    monkey.patch_all()
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eventlet
    from eventlet import sleep

    eventlet.monkey_patch()
from codex_otel_logging import diagnostics, native


class Busy(logging.Handler):
    """Lets other threads run while its lock is held."""

    count = threads = 0

    def emit(self, record):
        Busy.count += record.name == "codex_otel_logging"
        native.sleep(0.0005)


logging.getLogger().addHandler(Busy())


def warn():
    for number in range(200):
        diagnostics.warn("warning %d", number)
        native.sleep(0.0005)


worker = native.NativeThread(warn, "worker")
worker.start()
application = logging.getLogger("application")
while worker.is_alive():
    application.warning("it logs as well")
    if diagnostics.are_pending():
        native.start_in_application(diagnostics.log_pending, "reports")
    sleep(0)
diagnostics.log_pending()
print(Busy.count)
