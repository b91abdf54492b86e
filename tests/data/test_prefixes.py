from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.data.prefixes import common_items, common_prompt, hh_prompt

WORDS = st.lists(st.text("ab é\n\t", min_size=1, max_size=4), max_size=6).map("".join)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The film was good.", "The film was bad.", "The film was"),
        ("The film was good.", "The film was great.", "The film was"),
        ("Q: why?\n\nA: so", "Q: why?\n\nA: no", "Q: why?\n\nA:"),
        ("same  \n x", "same  \n y", "same"),
        ("same\nx", "same y", "same"),
        ("one two three", "one two", "one"),
        ("one two", "one two three", "one"),
        ("one two ", "one two three", "one"),
        ("yes", "no", ""),
        ("yes sir", "yesterday", ""),
        ("", "text", ""),
        (" good", " bad", ""),
        ("\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Hi\n\nAssistant: B", "HH"),
        ("\n\nHuman: Hi\n\nAssistant: I do", "\n\nHuman: Hi\n\nAssistant: I do not", "HH"),
        ("\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Hi\n\nAssistant: B", "HH"),
    ],
)
def test_the_prompt_of_two_texts(chosen: str, rejected: str, prompt: str) -> None:
    expected = "\n\nHuman: Hi\n\nAssistant:" if prompt == "HH" else prompt
    assert common_prompt(chosen, rejected) == expected


def test_hh_cuts_at_the_last_answer_that_both_share() -> None:
    history = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert common_prompt(f"{history} d", f"{history} e") == history
    # an answer that quotes the format is an answer all the same
    assert common_prompt(f"{history} d\n\nAssistant: x", f"{history} e") == history


@given(start=WORDS, chosen=WORDS, rejected=WORDS)
def test_the_prompt_begins_both_texts_and_ends_between_words(
    start: str, chosen: str, rejected: str
) -> None:
    first, second = start + chosen, start + rejected
    prompt = common_prompt(first, second)
    assert first.startswith(prompt)
    assert second.startswith(prompt)
    assert prompt == prompt.rstrip()
    for text in (first, second):
        response = text[len(prompt) :]
        if prompt:
            assert response[0].isspace()
            assert response.strip()


@given(WORDS, WORDS)
def test_the_order_of_the_responses_does_not_matter(first: str, second: str) -> None:
    assert common_prompt(first, second) == common_prompt(second, first)


def test_common_items() -> None:
    assert common_items([1, 2, 3], [1, 2, 4]) == [1, 2]
    assert common_items([1], [1, 2]) == [1]
    assert common_items([], [1]) == []


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Hi\n\nAssistant: B", "whole"),
        ("Human: Hi\n\nAssistant: A", "Human: Hi\n\nAssistant: B", "Human: Hi\n\nAssistant:"),
        ("\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Ho\n\nAssistant: A", ""),
        ("Sure, yes", "Sure, no", ""),
        ("An essay.\n\nAssistant: A", "An essay.\n\nAssistant: B", ""),
        ("\n\nAssistant: A\n\nHuman: x", "\n\nAssistant: A\n\nHuman: y", ""),
    ],
)
def test_only_a_turn_that_is_answered_is_a_prompt_in_itself(
    chosen: str, rejected: str, prompt: str
) -> None:
    expected = "\n\nHuman: Hi\n\nAssistant:" if prompt == "whole" else prompt
    assert hh_prompt(chosen, rejected) == expected
