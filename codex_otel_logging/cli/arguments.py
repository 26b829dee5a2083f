"""Parses command lines: `argparse`, with messages that suggest what was meant.

Options must be spelled out. An abbreviation that works today would become ambiguous, or change its
meaning, as soon as a command gets another option.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..text import nearest

_LARGEST_PORT = 65535
_NAMES = r"(?!\d)\w+(?:\.(?!\d)\w+)*"
_REFERENCE = re.compile(f"{_NAMES}:{_NAMES}")


class Parser(argparse.ArgumentParser):
    """A parser for one command, or for the choice among commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.set_defaults(parser=self)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """Parse a command line; exit with status 2 and a message if it has a fault."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown := [argument for argument in unknown if argument != "--"]:
            # argparse would blame the outermost parser, whose usage shows no command's options.
            options.parser.reject(unknown)
        return options

    def reject(self, unknown: Iterable[str]) -> NoReturn:
        """Exit with a message about the first option that is unknown, else the first argument."""
        argument, *_ = sorted(unknown, key=lambda text: not text.startswith("-"))
        if not argument.startswith("-"):
            self.error(f"unexpected argument {argument!r}")
        option = argument.partition("=")[0]  # the value may be secret
        known = [name for name in self._option_string_actions if name.startswith("--")]
        if option in known:
            self.error(f"option {option!r} must follow the command: {self.prog} {option}")
        begun = [repr(name) for name in known if name.startswith(option)]
        hint = f"; did you mean {' or '.join(begun)}?" if begun else nearest(option, known)
        self.error(f"unknown option {option!r}{hint}")

    def error(self, message: str) -> NoReturn:
        """Exit with status 2, after the usage and a message."""
        # argparse words this fault as if the command had gone on.
        super().error(message.replace("ignored explicit argument", "expected no value, got"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = nearest(value, tuple(action.choices))
            raise argparse.ArgumentError(None, f"unknown command {value!r}{hint}")


def path(text: str) -> str:
    """Return the path of a file, for `type=`; an unset variable in a script leaves it empty.

    Raises:
        ArgumentTypeError: the text is empty.

    """
    if not text:
        raise argparse.ArgumentTypeError("expected the path of a file, got an empty argument")
    return text


def logging_dict(text: str) -> str:
    """Return the reference to a logging dictionary, for `type=`.

    Raises:
        ArgumentTypeError: the text is not MODULE:DICT.

    """
    if not _REFERENCE.fullmatch(text) or ".py:" in text:
        raise argparse.ArgumentTypeError(
            f"invalid MODULE:DICT {text!r}: expected the name of a module, not of a file, and of a "
            "dictionary in it, such as settings:LOGGING"
        )
    return text


def port(text: str) -> int:
    """Return a TCP port, for `type=`; 0 stands for a free one.

    Raises:
        ArgumentTypeError: the text is not an integer from 0 to 65535.

    """
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_PORT))
    if not digits or int(text) > _LARGEST_PORT:
        raise argparse.ArgumentTypeError(
            f"invalid port {text!r}: expected an integer from 0 to {_LARGEST_PORT}"
        )
    return int(text)
