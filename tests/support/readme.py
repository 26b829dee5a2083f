"""What README shows: its programs, its settings and its recipes."""

from __future__ import annotations

import re

from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

RECIPES = README[README.index("\n## Recipes\n") : README.index("\n## Speed\n")]
"""What `test_recipes` is about; the rest is `test_readme`'s."""


def blocks(language: str, text: str = README.replace(RECIPES, "")) -> list[str]:
    """The code blocks of a language in a text, by default in all of README but its recipes."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def recipe(language: str, name: str) -> str:
    """The block that begins with the name of its file."""
    (code,) = (code for code in blocks(language, RECIPES) if code.startswith(f"# {name}\n"))
    return code
