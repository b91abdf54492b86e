from __future__ import annotations

import pytest

from dpo_bench.data.templates import Template
from dpo_bench.errors import ConfigurationError, DataError

COLUMNS = ["system", "prompt", "my score"]


def parse(text: str) -> Template:
    return Template.parse(text, "prompt_template", {"prompt"}, COLUMNS)


def test_columns_are_filled_in() -> None:
    template = parse("{system}\nInstruct: {prompt} ({my score:.1f})\nOutput: {{}}")
    row = {"system": "Be brief.", "prompt": "raw", "my score": 2.25}
    assert template.fill(row, {"prompt": "Hi {system}"}) == (
        "Be brief.\nInstruct: Hi {system} (2.2)\nOutput: {}"
    )


def test_a_trivial_template_changes_nothing() -> None:
    assert parse("{prompt}").is_trivial
    assert not parse("{prompt} ").is_trivial
    assert parse("{prompt}").fill({}, {"prompt": "{x}"}) == "{x}"


def test_an_unknown_column_is_named_with_its_neighbor() -> None:
    with pytest.raises(DataError, match=r"names 'sistem'.*did you mean 'system'.*columns: system"):
        parse("{sistem}{prompt}")


@pytest.mark.parametrize("text", ["{prompt", "prompt}", "{}", "{prompt!}"])
def test_a_malformed_template_is_a_wrong_key(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.prompt_template"):
        parse(text)


@pytest.mark.parametrize("text", ["{prompt.__class__}", "{prompt[0]}"])
def test_a_template_sees_columns_and_nothing_behind_them(text: str) -> None:
    with pytest.raises(DataError, match="no column of the data"):
        parse(text)


def test_a_column_that_a_row_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no 'my score', 'system', which a template needs"):
        parse("{system} {my score}").fill({"system": None, "my score": ""}, {"prompt": "Hi"})


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("{system}\n\n{prompt}", None, "Hi"),
        ("{system}\n\n{prompt}", "Be kind.", "Be kind.\n\nHi"),
        ("{system} {prompt}", "", "Hi"),
        ("{prompt}\n{system}", None, "Hi"),
        ("S: {system}\n{prompt}", "", "S: Hi"),
        ("S: {system}.\n{prompt}\n", None, "S: .\nHi\n"),
        ("{{system}} {prompt}\n{system}", "", "{system} Hi"),
        ("{prompt}\n{system!s}", None, "Hi"),
    ],
)
def test_an_empty_column_leaves_no_separator(text: str, value: str | None, expected: str) -> None:
    assert parse(text).fill({"system": value}, {"prompt": "Hi"}) == expected


def test_a_value_that_does_not_fit_the_format_is_named() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        parse("{system:.2f}").fill({"system": "text"}, {"prompt": "Hi"})
