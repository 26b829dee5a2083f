"""Creates the directory and a file of a spool as another user, whose umask takes all rights.

Usage: spool_of_another_user.py FOLDER; only root may run it.
"""

import os
import sys

from codex_otel_logging.delivery.spool import disk

path = f"{sys.argv[1]}/a/b/spool"
os.setgid(12345)
os.setuid(12345)
os.umask(0o777)
disk.make_directory(path)
descriptor = disk.create(f"{path}/1.spool.new")
os.close(disk.open_existing(f"{path}/1.spool.new"))
os.close(descriptor)
