"""Covers the formatting of values from outside for terminals and messages."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from codex_otel_logging.text import brief, is_visible, printable, shown, shown_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("gpt-5", "gpt-5"),
        ("caf\u00e9\u2615", "caf\u00e9\u2615"),
        (5, "5"),
        ("", "''"),
        ("a b", "'a b'"),
        ("it's a", '"it\'s a"'),
        ("\x1b[2J", r"'\x1b[2J'"),
        ("a\nb", r"'a\nb'"),
        ("a\u00a0b", r"'a\xa0b'"),
        ("a\u202eb", r"'a\u202eb'"),
        ("\u3164", r"'\u3164'"),
        ("a\u2800b c", r"'a\u2800b c'"),
        ("\U000e0100", r"'\U000e0100'"),
        ("\ud800", r"'\ud800'"),
    ],
)
def test_shown_quotes_and_escapes_invisible_text(value: object, text: str) -> None:
    assert shown(value) == text


def test_shown_name_quotes_names_with_an_equals_sign() -> None:
    assert shown_name("duration_ms") == "duration_ms"
    assert shown_name("a=b") == "'a=b'"
    assert shown_name("a\u3164=b") == r"'a\u3164=b'"


def test_brief_cuts_long_text_before_escaping() -> None:
    assert brief(60 * "x") == 60 * "x"
    assert brief(61 * "x") == 60 * "x" + "..."
    assert brief(59 * "x" + " x") == f"'{59 * 'x'} '..."


def test_printable_keeps_spaces_and_escapes_the_rest() -> None:
    assert printable("~/a file: \x1b[31mred\n\u3164") == r"~/a file: \x1b[31mred\n\u3164"


def test_is_visible_rejects_printable_characters_that_show_nothing() -> None:
    """`str.isprintable` accepts fillers, variation selectors and blank symbols."""
    hidden = ("FILLER", "VARIATION SELECTOR", "BLANK", "NULL NOTEHEAD", "INHERENT", "JOINER")
    printable_ones = filter(str.isprintable, map(chr, range(sys.maxunicode + 1)))
    names = {
        character: unicodedata.name(character, "")
        for character in printable_ones
        if not is_visible(character)
    }
    assert len(names) > 260
    assert [name for name in names.values() if not any(word in name for word in hidden)] == []
    assert {"\u3164", "\uffa0", "\u115f", "\u2800", "\ufe0f"} <= set(names)
    assert is_visible(" ")
