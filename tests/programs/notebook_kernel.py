"""Runs cells in a Jupyter kernel, then shuts it down, restarts it or kills it.

`python notebook_kernel.py shutdown|restart|kill CELL...`
"""

import os
import sys

from jupyter_client import KernelManager

how, *cells = sys.argv[1:]
manager = KernelManager(kernel_name="python3")
manager.start_kernel(env=dict(os.environ))
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(timeout=60)
for cell in cells:
    reply = client.execute_interactive(cell, timeout=60)
    assert reply["content"]["status"] == "ok", reply["content"]
client.stop_channels()
if how == "restart":
    manager.restart_kernel()
manager.shutdown_kernel(now=how != "shutdown")
