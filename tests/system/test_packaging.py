"""What an installation and an sdist need, and what the repository tells contributors."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from support.pages import page
from support.paths import ROOT


def test_packaged_logging_ini_equals_the_one_at_the_top_level() -> None:
    """A checkout has the file at the top level, an installation only in the package."""
    packaged = files("codex_otel_logging").joinpath("logging.ini")
    assert packaged.read_bytes() == (ROOT / "logging.ini").read_bytes()


def test_changelog_begins_with_unreleased_changes_and_this_version() -> None:
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    (version,) = re.findall(r"^version = (\S+)$", setup, re.MULTILINE)
    headings = re.findall(r"^## (Unreleased|\d\S*)", page("changelog"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


GITHUB = ROOT / ".github"


@pytest.mark.skipif(not GITHUB.is_dir(), reason="an sdist has no .github")
class TestDocumentsOfTheRepository:
    """What `.github` tells contributors exists; an sdist lacks the folder."""

    @pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
    def test_contributor_documents_name_existing_paths(self, name: str) -> None:
        text = (GITHUB / name).read_text(encoding="utf-8")
        paths = re.findall(r"`((?:tests|codex_otel_logging|\.ci)/[\w/.-]+)`", text)
        links = [link.partition("#")[0] for link in re.findall(r"\]\((\.\./[^)]+)\)", text)]
        missing = [path for path in paths if not (ROOT / path).exists()]
        assert missing == []
        assert [link for link in links if not (GITHUB / link).is_file()] == []

    def test_contributing_page_names_the_linters_of_the_ci_script(self) -> None:
        script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        found = dict(re.findall(r"^(RUFF|MYPY|BUILD)='(.*)'$", script, re.MULTILINE))
        text = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
        assert f"install --quiet {found['RUFF']} {found['MYPY']} pre-commit\n" in text
        assert f"install --quiet '{found['BUILD']}' twine\n" in text

    def test_contributing_page_lists_the_checks_of_the_ci_script(self) -> None:
        script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        text = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
        table = text.partition("| check |")[2].partition("\n\n")[0]
        documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert documented == re.findall(r"^check_(\w+)\(\)", script, re.MULTILINE)
