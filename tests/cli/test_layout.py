"""Fitting text to a terminal: measuring, cutting, wrapping, tables, lines of fields."""

from __future__ import annotations

import pytest

from codex_otel_logging.cli.layout import (
    cut,
    cut_middle,
    fit_fields,
    head,
    shrink,
    table_lines,
    width_of,
    wrap,
)


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("日本", 4), ("e\u0301", 1), ("a\u200db", 2), ("\uff21", 2), ("", 0)],
)
def test_width_counts_terminal_columns(text: str, width: int) -> None:
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "width", "fitting"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc..."),
        ("日本語日本語", 9, "日本語..."),
        ("日本語日本語", 8, "日本..."),
        ("abc", 0, "..."),
    ],
)
def test_cut_keeps_the_beginning(text: str, width: int, fitting: str) -> None:
    assert cut(text, width) == fitting


@pytest.mark.parametrize(
    ("text", "width", "fitting"),
    [
        ("response.output_text.delta", 26, "response.output_text.delta"),
        ("response.output_text.delta", 13, "respo...delta"),
        ("日本語日本語", 9, "日本...語"),
        ("abcdef", 4, "a..."),
        ("abcdef", 0, "..."),
    ],
)
def test_cut_middle_keeps_both_ends(text: str, width: int, fitting: str) -> None:
    assert cut_middle(text, width) == fitting


def test_head_is_the_longest_prefix_that_fits() -> None:
    for text in ("abcdef", "日a本b語", "e\u0301e\u0301e\u0301"):
        for width in range(8):
            start = head(text, width)
            assert text.startswith(start)
            assert width_of(start) <= width
            following = text[len(start) : len(start) + 1]
            assert not following or width_of(start + following) > width


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 9, [""]),
        ("one two three", 9, ["one two", "three"]),
        ("one two three", 20, ["one two three"]),
        ("one  two", 8, ["one  two"]),
        ("a abcdefghijkl b", 5, ["a", "abcde", "fghij", "kl b"]),
        ("日本語", 1, ["日", "本", "語"]),
    ],
)
def test_wrap_breaks_between_words(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width) == lines


ROWS = [
    ("field", "meaning"),
    ("http.response.status_code", "number of the answer"),
    ("attempt", "0 for the first try"),
]


def lines_of(width: int | None) -> list[str]:
    return [line for _, line in table_lines(ROWS, width)]


def test_table_is_as_narrow_as_its_cells_allow() -> None:
    whole = [
        "field                      meaning",
        "http.response.status_code  number of the answer",
        "attempt                    0 for the first try",
    ]
    assert lines_of(None) == whole
    assert lines_of(200) == whole


def test_narrow_table_wraps_cells_and_breaks_words_last() -> None:
    assert lines_of(36) == [
        "field                      meaning",
        "http.response.status_code  number of",
        "                           the",
        "                           answer",
        "attempt                    0 for the",
        "                           first try",
    ]
    assert lines_of(26) == [
        "field              meaning",
        "http.response.sta  number",
        "tus_code           of the",
        "                   answer",
        "attempt            0 for",
        "                   the",
        "                   first",
        "                   try",
    ]


def test_table_lines_carry_the_index_of_their_row() -> None:
    assert [index for index, _ in table_lines(ROWS, 36)] == [0, 1, 1, 1, 2, 2]


def test_shrink_reduces_the_widest_first() -> None:
    assert shrink([10, 4, 8], 18, [3, 3, 3]) == [7, 4, 7]
    assert shrink([10, 4, 10], 21, [3, 3, 3]) == [9, 4, 8]
    assert shrink([10, 4, 8], 3, [3, 3, 3]) == [3, 3, 3]
    assert shrink([10, 4, 8], 3, [3, 9, 3]) == [3, 4, 3]
    assert shrink([10**9, 5], 8, [3, 3]) == [4, 4]


FIELDS = [("tool_name", "exec_command"), ("duration_ms", "69"), ("output", "done and done")]


@pytest.mark.parametrize(
    ("width", "shown", "more"),
    [
        (59, "tool_name=exec_command duration_ms=69 output=done and done", False),
        (58, "tool_name=exec_command duration_ms=69 output=done and ...", False),
        (54, "tool_name=exec_command duration_ms=69 output=done ...", False),
        (53, "tool_name=exec_command duration_ms=69", True),
        (42, "tool_name=exec_command duration_ms=69", True),
        (40, "tool_name=exec...and duration_ms=69", True),
        (1, "tool_name=exe...nd duration_ms=69", True),
    ],
)
def test_essential_fields_always_appear_and_others_if_they_fit(
    width: int, shown: str, more: bool
) -> None:
    fields, is_more = fit_fields(FIELDS, width, 2)
    text = "".join(f" {name}={value}" for name, value in fields)
    assert (text[1:], is_more) == (shown, more)
    assert len(text) + 4 * more <= max(width, 38)


def test_fields_with_wide_characters_fit_the_line() -> None:
    fields = [("tool_name", "日本語" * 5), ("duration_ms", "1"), ("output", "語 " * 40)]
    for width in range(50, 180):
        fitted, more = fit_fields(fields, width, 2)
        assert sum(width_of(f" {name}={value}") for name, value in fitted) + 4 * more <= width
        assert fitted[1] == ("duration_ms", "1")
