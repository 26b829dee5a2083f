"""Finds and reads the TOML file that holds the `[otel]` table."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .files import MAX_TOML_BYTES, read_file
from .tables import ConfigError, type_name
from .toml import TOMLDecodeError, loads

DEFAULT_PATH = "${CODEX_HOME:-~/.codex}/config.toml"
"""The Codex CLI's settings file, before variables and `~` are expanded."""


def default_path() -> str:
    """Return the path of the Codex CLI's settings file; an empty `CODEX_HOME` counts as unset."""
    return _expand(DEFAULT_PATH)


def _expand(path: str | os.PathLike[str]) -> str:
    """Expand the variables of a path; an unset one without a default stays as it is."""
    text = os.fsdecode(path)
    # `expandvars` knows no defaults.
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: os.environ.get(found[1]) or found[2], text)
    return os.path.expandvars(text)


def _read_file(name: str) -> tuple[Path, bytes]:
    """Return the path of a settings file with `~` expanded, and the file's contents.

    Raises:
        FileNotFoundError: the file does not exist (ENOENT), or cannot exist under this path.
        OSError: the file cannot be read.

    """
    try:
        file = Path(name).expanduser()
        return file, read_file(file, MAX_TOML_BYTES)
    except RuntimeError:
        # Containers run as users without HOME and without an entry in the passwd file.
        raise FileNotFoundError(errno.EINVAL, "unknown home directory") from None
    except ValueError:  # a NUL, or a lone surrogate
        raise FileNotFoundError(errno.EINVAL, "invalid path") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):  # then missing_ok applies, too
            raise FileNotFoundError(error.errno, error.strerror) from None
        raise


_EXPORTER_LINE = re.compile(r"""[\s\["']*(otel["'\s]*\.[\s"']*)?exporter\b""")


def _duplicate_exporter_hint(fault: str, text: str) -> str:
    """Return how to fix a file that sets the exporter twice, or "" for any other TOML fault.

    The parser's message names neither the key nor the line that sets it first.
    """
    if not fault.startswith(("Cannot overwrite a value", "Cannot declare")):
        return ""
    lines = text.split("\n")
    found = re.search(r"at line (\d+)", fault)
    line = lines[int(found[1]) - 1] if found else lines[-1]
    if not _EXPORTER_LINE.match(line):
        return ""
    return (
        "; the exporter is set twice: keep either the table, such as [otel.exporter.otlp-http], "
        "or the line exporter = ..., and delete the other"
    )


class OtelFile(NamedTuple):
    """The unchecked `[otel]` table of a TOML file; empty if the file or the table is missing."""

    name: str
    folder: Path
    otel: Mapping[str, Any]
    missing: Literal["file", "table"] | None = None

    @classmethod
    def read(
        cls, path: str | os.PathLike[str] | None = None, *, missing_ok: bool = False
    ) -> OtelFile:
        """Read a file; the arguments are those of `OtelConfig.from_toml`.

        Raises:
            ConfigError: the file is missing, cannot be read, or is not valid TOML.

        """
        name = default_path() if path is None else _expand(path)
        try:
            file, contents = _read_file(name)
            text = contents.decode("utf-8-sig")  # Windows editors begin a file with a BOM
            document = loads(text)
        except FileNotFoundError as error:
            if missing_ok:
                return cls(name, Path(name).parent, {}, "file")
            shown = name if name.isprintable() else repr(name)[1:-1]
            why = "" if error.errno == errno.ENOENT else f" ({error.strerror})"
            raise ConfigError(
                f"{shown}: no such file{why}; create it, or pass missing_ok=True to run without it"
            ) from None
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{name}: invalid UTF-8 at byte {error.start}; save the file as UTF-8"
            ) from None
        except TOMLDecodeError as error:
            hint = _duplicate_exporter_hint(str(error), text)
            raise ConfigError(f"{name}: invalid TOML: {error}{hint}") from None
        except (ValueError, RecursionError) as error:  # a huge integer, or tables nested too deep
            raise ConfigError(f"{name}: cannot be read: {error}") from None
        otel = document.get("otel")
        if otel is None:
            return cls(name, file.parent, {}, "table")
        if not isinstance(otel, dict):
            raise ConfigError(f"{name}: otel: expected a table, got {type_name(otel)}")
        return cls(name, file.parent, otel)
