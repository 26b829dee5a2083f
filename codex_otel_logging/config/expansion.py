"""Expands `${NAME}` and `${NAME:-default}` in strings of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DEFAULT = r"(?:[^$}]|\$+[^${}])*\$*"  # a default must not contain a variable

_VARIABLE = re.compile(
    rf"""
    \$\$                                      # $$, a dollar sign
    | \$\{{ (?: ({_NAME}) (?: :- ({_DEFAULT}) )? \}} )?   # ${{NAME}} or ${{NAME:-default}}
    """,
    re.VERBOSE,
)

EXPANDABLE = rf"^(?:[^$]|\$\$|\$[^{{$]|\$\{{{_NAME}(?::-{_DEFAULT})?\}})*\$?$"
"""Matches the strings that `expand` accepts: every `${` begins a variable.

It is also a pattern of the JSON Schema, so it uses only what Python and ECMAScript have in common.
"""


def variables_in(text: str) -> list[str]:
    """Return the names of the variables in `text`."""
    return [match[1] for match in _VARIABLE.finditer(text) if match[1]]


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with `${NAME}`, `${NAME:-default}` and `$$` replaced.

    The default replaces a variable that is unset or empty, as in a shell. Values are not expanded
    again.

    Raises:
        ValueError: a variable without a default is unset, or a `${` does not begin a variable. The
            message contains no value.

    """

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match[1], match[2]
        if name is None:
            raise ValueError("invalid variable; write ${NAME}, or '$${' for a literal '${'")
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(
                f"environment variable {name} is not set; set it or give a default: "
                f"${{{name}:-...}}"
            )
        return value

    # In one pass: a value that contains "${" itself, such as a password, must stay as it is.
    return _VARIABLE.sub(replacement, text)
