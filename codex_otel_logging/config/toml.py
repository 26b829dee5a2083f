"""Reads TOML 1.1, which allows newlines in inline tables; `tomllib` does so from Python 3.15 on."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 15):
    from tomllib import TOMLDecodeError, loads
else:
    from tomli import TOMLDecodeError, loads

__all__ = ["TOMLDecodeError", "loads"]
