"""Finds and reads the TOML file that holds the `[otel]` table."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import LARGEST_TOML, read_file
from .tables import ConfigError, type_name
from .toml import TOMLDecodeError, loads

DEFAULT_PATH = "${CODEX_HOME:-~/.codex}/config.toml"
"""The Codex CLI's own settings file, as a path to be expanded."""


def default_path() -> str:
    """Return the Codex CLI's settings file: in `$CODEX_HOME` if that is set, else in `~/.codex`."""
    return _expanded(DEFAULT_PATH)


def _expanded(path: str | os.PathLike[str]) -> str:
    """Return a path with its variables replaced; one without a value or a default stays."""
    text = os.fsdecode(path)
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: os.environ.get(found[1]) or found[2], text)
    return os.path.expandvars(text)


def _read(name: str) -> tuple[Path, bytes]:
    """Return the path of a settings file, with its home directory, and its contents.

    Raises:
        FileNotFoundError: there is no such file, or there cannot be one; `errno` tells which.
        OSError: the file cannot be read.

    """
    try:
        file = Path(name).expanduser()
        return file, read_file(file, LARGEST_TOML)
    except RuntimeError:
        # Containers run as users that have neither HOME nor an entry in the passwd file.
        raise FileNotFoundError(errno.EINVAL, "unknown home directory") from None
    except ValueError:  # a NUL, or a lone surrogate
        raise FileNotFoundError(errno.EINVAL, "invalid path") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
            raise FileNotFoundError(error.errno, error.strerror) from None
        raise


_SETS_EXPORTER = re.compile(r"""[\s\["']*(otel["'\s]*\.[\s"']*)?exporter\b""")


def _exporter_twice(fault: str, text: str) -> str:
    """Return what to write if a TOML fault is a line that sets the exporter a second time.

    TOML's own message names neither the key nor the place where it has a value already.
    """
    if not fault.startswith(("Cannot overwrite a value", "Cannot declare")):
        return ""
    lines = text.split("\n")
    found = re.search(r"at line (\d+)", fault)
    line = lines[int(found[1]) - 1] if found else lines[-1]
    if not _SETS_EXPORTER.match(line):
        return ""
    return (
        "; the exporter is set twice: keep either the table, such as [otel.exporter.otlp-http], "
        "or the line exporter = ..., and delete the other"
    )


class OtelFile(NamedTuple):
    """The `[otel]` table of a TOML file as it is written; empty where there is none."""

    name: str
    folder: Path
    otel: Mapping[str, Any]

    @classmethod
    def read(
        cls, path: str | os.PathLike[str] | None = None, *, missing_ok: bool = False
    ) -> OtelFile:
        """Read a file; see `OtelConfig.from_toml`.

        Raises:
            ConfigError: the file cannot be read, or is not TOML.

        """
        name = default_path() if path is None else _expanded(path)
        try:
            file, contents = _read(name)
            text = contents.decode("utf-8-sig")
            document = loads(text)
        except FileNotFoundError as error:
            if missing_ok:
                return cls(name, Path(name).parent, {})
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
            hint = _exporter_twice(str(error), text)
            raise ConfigError(f"{name}: invalid TOML: {error}{hint}") from None
        except (ValueError, RecursionError) as error:  # huge integers, tables nested too deep
            raise ConfigError(f"{name}: cannot be read: {error}") from None
        otel = document.get("otel", {})
        if not isinstance(otel, dict):
            raise ConfigError(f"{name}: otel: expected a table, got {type_name(otel)}")
        return cls(name, file.parent, otel)
