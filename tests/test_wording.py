"""Every escape holds for any text, and numbers read as they should."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dpo_bench.wording import (
    clipped,
    interval,
    listing,
    markdown_fence,
    markdown_text,
    number,
    one_line,
    plotly_text,
    rounded,
    script_json,
    visible,
)
from tests.report.sweep_world import HOSTILE

SYMBOLS = "<>&|`*_[]()#!~$\\{}-+=1. @:/w"
TEXTS = st.one_of(st.text(max_size=60), st.sampled_from(HOSTILE), st.text(SYMBOLS, max_size=30))
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@given(TEXTS)
def test_script_json_cannot_end_its_element_and_reads_back(text: str) -> None:
    encoded = script_json({"key": [text]})
    assert not re.search("[<>&\u2028\u2029]", encoded)
    assert json.loads(encoded) == {"key": [text]}


def test_script_json_refuses_numbers_that_json_has_not() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        script_json({"value": float("nan")})


@given(TEXTS)
def test_plotly_text_has_no_markup_template_or_mathematics(text: str) -> None:
    escaped = plotly_text(text)
    assert not re.search(r"[<>{$]", escaped)
    assert html.unescape(escaped) == one_line(text)


@given(TEXTS)
def test_markdown_shows_the_text_itself_in_a_paragraph(text: str) -> None:
    rendered = MARKDOWN.render(f"before {markdown_text(text)} after")
    inner = rendered.removeprefix("<p>").rstrip().removesuffix("</p>")
    assert not re.search("<[a-z/!]", inner)
    assert " ".join(html.unescape(inner).split()) == " ".join(
        f"before {one_line(text)} after".split()
    )


@given(TEXTS)
def test_markdown_at_the_start_of_a_line_is_no_list_heading_or_rule(text: str) -> None:
    rendered = MARKDOWN.render(markdown_text(text))
    assert re.fullmatch(r"(<p>[^<]*</p>\n)?", rendered)


@given(TEXTS)
def test_markdown_text_stays_in_its_table_cell(text: str) -> None:
    rendered = MARKDOWN.render(f"| a | b |\n| --- | --- |\n| {markdown_text(text)} | x |")
    assert rendered.count("<td") == 2
    assert "<td>x</td>" in rendered


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_leaves_no_address_to_be_linked(text: str) -> None:
    assert not re.search(r"://|www\.|@", markdown_text(text))


@given(TEXTS)
def test_a_fence_holds_the_whole_text(text: str) -> None:
    rendered = MARKDOWN.render(f"{markdown_fence(text)}\n\nafter")
    assert rendered.count("<pre>") == 1
    assert rendered.endswith("<p>after</p>\n")
    inside = html.unescape(rendered.split("<code", 1)[1].split(">", 1)[1].rsplit("</code>", 1)[0])
    assert inside.rstrip("\n") == visible(text).rstrip("\n")


@given(TEXTS)
def test_visible_text_has_no_control_or_directional_character(text: str) -> None:
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\u2028\u2029]", visible(text)
    )


def test_lone_surrogates_do_not_reach_the_page() -> None:
    assert visible("a\ud800b").encode() == "a\ufffdb".encode()


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.5, 3, "0.500"),
        (-1.25, 2, "\u22121.25"),
        (-0.0, 2, "0.00"),
        (0.0004, 3, "0.0004"),
        (-0.0004, 2, "\u22120.0004"),
        (12345.6, 1, "12,345.6"),
        (float("nan"), 2, "\u2013"),
        (None, 2, "\u2013"),
        (float("inf"), 2, "∞"),
    ],
)
def test_numbers(value: float | None, decimals: int, text: str) -> None:
    assert number(value, decimals) == text


def test_an_interval_needs_both_ends() -> None:
    assert interval(0.1, 0.2, 1) == "[0.1, 0.2]"
    assert interval(0.1, None) == interval(float("nan"), 0.2) == ""


@given(st.floats())
def test_rounded_values_are_json(value: float) -> None:
    result = rounded(value)
    json.dumps(result, allow_nan=False)
    if result is not None:
        assert result == pytest.approx(value, rel=1e-4)


def test_lists_and_cuts() -> None:
    assert listing([]) == ""
    assert listing(["a", "b"]) == "a and b"
    assert clipped("abcdef", 4) == "abc…"
    assert clipped("abcd", 4) == "abcd"
