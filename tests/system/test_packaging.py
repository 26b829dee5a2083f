"""What is shipped: the files an installation and an sdist need."""

from __future__ import annotations

from importlib.resources import files

from support.paths import ROOT


def test_packaged_logging_ini_equals_the_one_at_the_top_level() -> None:
    """The project's own file stays at the top level; an installation has only the package's."""
    packaged = files("codex_otel_logging").joinpath("logging.ini")
    assert packaged.read_bytes() == (ROOT / "logging.ini").read_bytes()
