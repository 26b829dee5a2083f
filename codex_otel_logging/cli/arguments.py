"""Command-line parsing: `argparse` with error messages that suggest the nearest known name.

Options must be spelled out. An abbreviation that works today becomes ambiguous, or changes its
meaning, as soon as a command gains another option.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..text import nearest

_MAX_PORT = 65535
_NAMES = r"(?!\d)\w+(?:\.(?!\d)\w+)*"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_REFERENCE = re.compile(f"{_NAMES}:{_NAMES}")


class Parser(argparse.ArgumentParser):
    """Parses the options of one command, or selects the command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.set_defaults(parser=self)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """Parse a command line. If it is invalid, print usage and message, exit with status 2."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown := [argument for argument in unknown if argument != "--"]:
            # argparse reports these from the outermost parser, whose usage lists no command's
            # options. `set_defaults(parser=...)` keeps the parser of the command that ran.
            options.parser.reject(unknown)
        return options

    def reject(self, unknown: Iterable[str]) -> NoReturn:
        """Report the first unknown option, or else the first unexpected argument, and exit."""
        argument, *_ = sorted(unknown, key=lambda text: not text.startswith("-"))
        if not argument.startswith("-"):
            self.error(f"unexpected argument {argument!r}")
        option = argument.partition("=")[0]  # the value may be a secret
        known = [name for name in self._option_string_actions if name.startswith("--")]
        if option in known:
            self.error(f"option {option!r} must follow the command: {self.prog} {option}")
        # An abbreviation is not accepted, but it tells what was meant.
        begun = [repr(name) for name in known if name.startswith(option)]
        hint = f"; did you mean {' or '.join(begun)}?" if begun else nearest(option, known)
        self.error(f"unknown option {option!r}{hint}")

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message, and exit with status 2."""
        # argparse says "ignored explicit argument", as if the command had run without it.
        super().error(message.replace("ignored explicit argument", "expected no value, got"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = nearest(value, tuple(action.choices))
            raise argparse.ArgumentError(None, f"unknown command {value!r}{hint}")


def path(text: str) -> str:
    """Return a file path, for `type=`.

    Raises:
        ArgumentTypeError: the text is empty, as `"$UNSET"` is in a shell script.

    """
    if not text:
        raise argparse.ArgumentTypeError("expected a file path, got an empty argument")
    return text


def logging_dict(text: str) -> str:
    """Return a reference to a logging dictionary, for `type=`.

    Raises:
        ArgumentTypeError: the text is not of the form MODULE:DICT.

    """
    # "settings.py:LOGGING" matches the pattern, as a module `py` in a package `settings`.
    if not _REFERENCE.fullmatch(text) or ".py:" in text:
        raise argparse.ArgumentTypeError(
            f"invalid MODULE:DICT {text!r}: expected a module name (not a file name), a colon and "
            "the name of a dictionary in that module, such as settings:LOGGING"
        )
    return text


def seconds(text: str) -> float:
    """Return a time in seconds, for `type=`.

    Raises:
        ArgumentTypeError: the text is not a decimal number greater than 0 and below 1e9.

    """
    if not _SECONDS.fullmatch(text) or not (number := float(text)):
        raise argparse.ArgumentTypeError(
            f"invalid time {text!r}: expected a number of seconds greater than 0"
        )
    return number


def port(text: str) -> int:
    """Return a TCP port, for `type=`. Port 0 means any free port.

    Raises:
        ArgumentTypeError: the text is not an integer from 0 to 65535.

    """
    # int() also accepts blanks, signs, underscores and the digits of other scripts, and is slow on
    # very long texts.
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_PORT))
    if not digits or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(
            f"invalid port {text!r}: expected an integer from 0 to {_MAX_PORT}"
        )
    return int(text)
