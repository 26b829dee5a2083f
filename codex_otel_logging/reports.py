"""What the package itself has to tell people, on the logger `codex_otel_logging`.

That name is not below `codex_otel`, so nothing said here is an event.
"""

from __future__ import annotations

import logging
from contextlib import suppress

LOGGER = "codex_otel_logging"

_logger = logging.getLogger(LOGGER)


def warn(message: str, *args: object) -> None:
    """Log a warning, in any thread; blocks only as the application's own handlers do.

    `dictConfig` and `fileConfig` disable the loggers that exist and that they do not name, unless
    told otherwise. Nobody means this one by that; to silence it, set its level. A filter or handler
    of the application that raises harms nobody here.
    """
    with suppress(Exception):
        _logger.disabled = False
        _logger.warning(message, *args)
