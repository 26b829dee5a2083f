"""Prints the documentation that the package ships: Markdown pages, one per topic."""

from __future__ import annotations

import re
import sys
from importlib.resources import files

from ..text import nearest
from .console import console

PRINTED, UNKNOWN = 0, 2
"""Exit statuses."""

_PARAGRAPH = re.compile(r"\A# .*\n\n(.+(?:\n.+)*)\n")


def run(topic: str | None = None) -> int:
    """Print the page of a topic, or the list of topics, and return the exit status.

    On a terminal, a page is rendered if `rich` is installed; otherwise it is printed as Markdown.
    """
    documents = pages()
    out = console()
    if topic is None:
        rows = [(name, description_of(text)) for name, text in documents.items()]
        out.table(("topic", "description"), rows)
        return PRINTED
    if topic not in documents:
        print(f"unknown topic {topic!r}{nearest(topic, documents)}", file=sys.stderr)
        return UNKNOWN
    out.markdown(documents[topic])
    return PRINTED


def pages() -> dict[str, str]:
    """Return the text of each page by its topic, in alphabetical order."""
    # A resource need not be a file: the package may be in a zip archive.
    folder = files(__package__.partition(".")[0]).joinpath("docs")
    found = [each for each in folder.iterdir() if each.name.endswith(".md")]
    return {
        each.name.removesuffix(".md"): each.read_text(encoding="utf-8")
        for each in sorted(found, key=lambda each: each.name)
    }


def description_of(page: str) -> str:
    """Return the first paragraph of a page, below its title, as one line."""
    match = _PARAGRAPH.match(page)
    return " ".join(match[1].split("\n")) if match else ""
