"""A valid logging dictionary, and a function that returns a copy with one value changed."""

import copy

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "console": {"class": "logging.StreamHandler"},
        "codex_otel": {"()": "codex_otel_logging.from_table", "otel": {"environment": "test"}},
    },
    "root": {"level": "WARNING", "handlers": ["console"]},
    "loggers": {
        "codex_otel": {"level": "INFO", "propagate": False, "handlers": ["codex_otel"]},
    },
}


def changed(*path, to):
    dictionary = copy.deepcopy(LOGGING)
    inner = dictionary
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return dictionary
