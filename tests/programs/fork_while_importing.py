"""Forks while another thread holds forks, as it does during an import.

Prints whether the fork waited, and the child's status: 0 if the fork waited and it can hold forks.
"""

import os
import threading
import warnings

from codex_otel_logging.otlp.fork_gate import hold_forks, register

warnings.simplefilter("ignore")
register()
importing, imported = threading.Event(), threading.Event()


def importer():
    with hold_forks():
        importing.set()
        threading.Timer(0.3, imported.set).start()
        imported.wait()


threading.Thread(target=importer).start()
importing.wait()
child = os.fork()
if not child:
    with hold_forks():
        os._exit(0 if imported.is_set() else 1)
print(imported.is_set(), os.waitpid(child, 0)[1])
