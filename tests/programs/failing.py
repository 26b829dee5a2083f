"""An application that logs and fails.

It is a file, because error trackers also read the source around the failure.
"""

import logging

logger = logging.getLogger("app")


def run(prompt: str) -> None:
    logger.warning("the application logs")
    raise ValueError("the application fails")


try:
    run("-".join(["in", "a", "local", "variable"]))
except ValueError:
    logger.exception("failed")
