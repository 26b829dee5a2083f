"""The page of all messages is up to date, and messages use the project's words."""

from __future__ import annotations

import re

from support.messages import PAGE, messages_of, messages_of_package, page

AVOIDED = {
    "a key is text": "keys must be strings",
    "are no": "are not",
    "beside": "besides, or next to",
    "begins no": "does not begin",
    "did not say why": "no reason given",
    "for ever": "forever",
    "hurry": "flush",
    "is no": "is not a, or: invalid ...",
    "is not known": "unknown ...",
    "left alone": "ignored",
    "left out": "rejected",
    "lost": "dropped, or: not exported",
    "may not": "must not, or: cannot",
    "nobody": "no process, or the passive voice",
    "nudge": "flush",
    "speaks no": "does not speak",
    "there is no": "missing ...",
    "there twice": "duplicate ...",
    "wants": "requires",
    "what comes then": "further events",
}
"""Words that messages avoid, and the words to use instead."""


def test_page_lists_the_messages_in_the_source() -> None:
    """If this fails, read the new messages in their place, and run what the page's head names."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_messages_use_the_words_of_the_project() -> None:
    avoided = re.compile(rf"\b({'|'.join(AVOIDED)})\b", re.IGNORECASE)
    assert [
        (module, message, AVOIDED[found[1].lower()])
        for module, messages in messages_of_package().items()
        for message in messages
        if (found := avoided.search(message))
    ] == []


def test_messages_are_found_wherever_they_stand() -> None:
    source = '''
"""A docstring."""
FAULT = "a message in a constant"
"""A docstring of a constant."""
TABLE = {404: f"{path} is unknown" f" at {host!r}"}
def advice(name: str) -> str:
    """Return advice."""
    # a comment
    log("%s: a message with arguments", name)
    return "attach " + name + f" to {logger('one inside')}; {', '.join(names)}"
'''
    assert messages_of(source) == [
        "a message in a constant",
        "{path} is unknown at {host!r}",
        "%s: a message with arguments",
        "attach {name} to {logger()}; {join()}",
        "one inside",
    ]


def test_single_words_names_and_patterns_are_not_messages() -> None:
    source = """
names = ["word", "exporter.tls.ca-certificate", "%s", f"{one}{two}", "bold red", b"some bytes"]
pattern = re.compile("two words")
"""
    assert messages_of(source) == []
