"""README and the pages of `codex_otel_logging/docs`, and the code blocks in them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from support.paths import ROOT

DOCS = ROOT / "codex_otel_logging" / "docs"

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
}
"""The text of each page, by its path from the root."""

README = PAGES["README.md"]

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w.]+\.\w+)\n")


class Block(NamedTuple):
    """A fenced code block."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        """Return its place, for the id of a test."""
        return f"{self.page.rpartition('/')[2]}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file name in the comment on its first line; such a block is part of a recipe."""
        match = _FILE.match(self.code)
        return match and match[1]


def page(name: str) -> str:
    """Return the text of a page of the folder, such as `settings`."""
    return PAGES[f"codex_otel_logging/docs/{name}.md"]


def _blocks() -> list[Block]:
    return [
        Block(path, text.count("\n", 0, match.start()) + 1, match[2], match[3])
        for path, text in PAGES.items()
        for match in _FENCED.finditer(text)
    ]


BLOCKS = _blocks()

RECIPES = {block.file: block for block in BLOCKS if block.file is not None}
"""The blocks that are files of recipes, by the file's name."""


def blocks(language: str) -> list[Block]:
    """Return the blocks of a language on all pages, except for the files of recipes."""
    return [block for block in BLOCKS if block.language == language and block.file is None]


def recipe(language: str, name: str) -> str:
    """Return the code of the recipe's file of that name."""
    found = RECIPES[name]
    assert found.language == language
    return found.code


def block(language: str, part: str) -> str:
    """Return the code of the only block in `blocks(language)` that contains `part`."""
    (found,) = {each.code for each in blocks(language) if part in each.code}
    return found


QUICK_START = block("python", 'app_version="1.2.3"')
"""README's first program."""


def lay_out_quick_start(home: Path, endpoint: str) -> None:
    """Write the settings of the quick start, with another endpoint, and `logging.ini`."""
    settings = block("toml", "localhost:4318")
    (home / ".codex").mkdir()
    for file in (home / ".codex" / "config.toml", home / "otel.toml"):
        file.write_text(settings.replace("http://localhost:4318/v1/logs", endpoint))
    shutil.copy(ROOT / "logging.ini", home)
