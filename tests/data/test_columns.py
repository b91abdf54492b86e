from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.errors import DataError
from tests.data.build import assistant, loaded, user

PAIR = {"chosen": "Sure, it is.", "rejected": "Sure, it is not."}


def refused(*records: dict[str, Any], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        loaded(*records, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["question", "input", "instruction", "history", "context", "query", "user", "post", "Question"],
)
def test_a_column_that_looks_like_the_prompt_is_named_and_helps(name: str) -> None:
    record = {name: "Is tea good?", **PAIR}
    assert refused(record).endswith(f'{name!r} looks like it: set data.prompt_column = "{name}".')
    assert loaded(record, prompt_column=name).pairs[0].prompt == "Is tea good?"


def test_several_that_look_like_it_are_all_named() -> None:
    message = refused({"history": "a", "question": "b", "id": 3, **PAIR})
    assert message.endswith("set data.prompt_column = \"question\" ('history' may be meant too).")


def test_a_shared_first_word_is_no_prompt_whatever_is_to_be_dropped() -> None:
    records = [{"q": "x", **PAIR}, {"q": "y", "chosen": "Yes.", "rejected": "No."}]
    message = refused(*records, invalid="drop")
    assert "Name the prompt's column as data.prompt_column" in message
    assert 'set data.prompt_column = ""' in message


def test_the_recipe_for_alpaca_works_as_it_stands() -> None:
    record = {"instruction": "Add.", "input": "1 + 1", "chosen": "2", "rejected": "3"}
    message = refused(record)
    recipe = message.partition('data.prompt_template = "')[2].removesuffix('".')
    template = recipe.encode().decode("unicode_escape")
    assert loaded(record, prompt_template=template).pairs[0].prompt == "Add.\n\n1 + 1"
    assert loaded(record | {"input": None}, prompt_template=template).pairs[0].prompt == "Add."


def test_of_hh_rows_only_those_without_a_turn_are_refused() -> None:
    turn = "\n\nHuman: Hi\n\nAssistant:"
    good = {"chosen": f"{turn} Hello.", "rejected": f"{turn} Go."}
    bad = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}
    assert "row 2: it has no prompt" in refused(good, bad)
    found = loaded(good, bad, invalid="drop")
    assert [pair.prompt for pair in found.pairs] == [turn]
    assert found.dropped == {"no prompt": 1}


def test_messages_in_a_column_of_their_own_are_named() -> None:
    record = {"conversations": [user("Hi")], "chosen": assistant("a"), "rejected": assistant("b")}
    assert 'set data.prompt_column = "conversations"' in refused(record)
    assert loaded(record, prompt_column="conversations").pairs[0].prompt == [user("Hi")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("response_j", "response_k"),
        ("chosen_response", "rejected_response"),
        ("Chosen", "Rejected"),
    ],
)
def test_responses_of_other_names_are_named_and_help(first: str, second: str) -> None:
    record = {"prompt": "p", first: "a", second: "b"}
    advice = f'Set data.chosen_column = "{first}" and data.rejected_column = "{second}".'
    assert refused(record).endswith(advice)
    assert loaded(record, chosen_column=first, rejected_column=second).pairs[0].chosen == "a"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "p", "completion": "c", "label": True}, "unpaired data (as for KTO)"),
        ({"completion": [assistant("c")], "label": False}, "unpaired data (as for KTO)"),
        ({"prompt": "p", "completion": "c"}, "one completion to each prompt"),
        ({"instruction": "p", "input": "", "output": "c"}, "one output to each instruction"),
        ({"messages": [user("a"), assistant("b")]}, "whole conversations"),
        ({"text": "once upon a time"}, "plain text"),
        ({"id": 1, "score": 3.5}, "There are no two responses"),
    ],
)
def test_data_without_pairs_is_named_and_no_key_is_advised(
    record: dict[str, Any], words: str
) -> None:
    message = refused(record, invalid="drop")
    assert words in message
    assert "data." not in message.removeprefix("data: ")


def test_two_unknown_columns_of_text_may_be_the_responses() -> None:
    message = refused({"prompt": "p", "left": "a", "right": "b"})
    assert message.endswith("Name the right ones as data.chosen_column and data.rejected_column.")


def test_rows_of_a_shape_that_was_switched_off_are_recognized() -> None:
    record = {"history": "p", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}
    assert refused(record, shape="pairs").endswith('It looks like SHP: set data.shape = "auto".')
