from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.problems import RowProblem
from dpo_bench.data.wrapping import as_chat, could_be_wrapped
from dpo_bench.experiment.config import Data
from tests.data.build import assistant, loaded, row, user

SYSTEM = {"role": "system", "content": "Be kind."}


def prompt_of(text: str, system: str | None = None) -> Any:
    return as_chat(PreferencePair(text, " Yes.", " No."), system).prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tea?", [user("Tea?")]),
        (" Tea?\n", [user("Tea?")]),
        ("\n\nHuman: Tea?\n\nAssistant:", [user("Tea?")]),
        ("Human: Tea?\n\nAssistant:", [user("Tea?")]),
        ("\n\nHuman: Tea?", [user("Tea?")]),
        (
            "\n\nHuman: a\n\nb\n\nAssistant: c\nd\n\nHuman: e\n\nAssistant:",
            [user("a\n\nb"), assistant("c\nd"), user("e")],
        ),
        ("\n\nHuman: a\n\nAssistant: Well,", [user("a"), assistant("Well,")]),
        ("Write what\n\nHuman: says.", [user("Write what\n\nHuman: says.")]),
        ("\n\nAssistant: a\n\nHuman: b", [user("Assistant: a\n\nHuman: b")]),
        ("The Human: a novel", [user("The Human: a novel")]),
    ],
)
def test_a_plain_prompt_becomes_turns(text: str, expected: Any) -> None:
    assert prompt_of(text) == expected
    assert prompt_of(text, "Be kind.") == [SYSTEM, *expected]


def test_the_rest_of_a_pair_stays() -> None:
    pair = PreferencePair("Tea?", " Yes.\n", "No.", 2.0, {"tools": [{"name": "x"}]}, "Be kind.")
    assert as_chat(pair) == PreferencePair(
        [SYSTEM, user("Tea?")],
        [assistant("Yes.")],
        [assistant("No.")],
        2.0,
        {"tools": [{"name": "x"}]},
    )


def test_a_chat_stays_as_it_is() -> None:
    pair = PreferencePair([user("Tea?")], [assistant(" Yes.")], [assistant("No.")], 1.0)
    assert as_chat(pair, "Be kind.") is pair


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (PreferencePair("a", "x", " x\n"), "same but for white space"),
        (PreferencePair(" ", "x", "y"), "must not be empty"),
        (PreferencePair("\n\nHuman:\n\nAssistant:", "x", "y"), "must not be empty"),
    ],
)
def test_white_space_is_no_difference_and_no_prompt(pair: PreferencePair, reason: str) -> None:
    with pytest.raises(RowProblem, match=reason):
        as_chat(pair)


@pytest.mark.parametrize(
    ("options", "could"),
    [
        ({}, True),
        ({"chat": "wrap"}, False),
        ({"chat": "off"}, False),
        ({"prompt_template": "Q: {prompt}"}, False),
        ({"response_template": " {response}"}, False),
    ],
)
def test_wrapping_is_offered_where_nothing_else_was_said(
    options: dict[str, Any], could: bool
) -> None:
    assert could_be_wrapped(PreferencePair("a", "b", "c"), Data(**options)) is could
    assert not could_be_wrapped(PreferencePair([user("a")], [], []), Data(**options))


def test_wrapping_is_done_in_loading_and_plain_text_forgets_what_only_a_chat_can_use() -> None:
    record = row(1, system="Be kind.", tools=[{"name": "x"}], margin="0.5")
    plain = PreferencePair("Question 1?", " Yes, 1.", " No, 1.", 0.5)
    whole = PreferencePair(*_texts(plain), 0.5, {"tools": [{"name": "x"}]}, "Be kind.")
    assert loaded(record).pairs[0] == loaded(record, chat="off").pairs[0] == plain
    assert loaded(record, chat="wrap").pairs[0] == as_chat(whole)
    digests = {loaded(record, chat=chat).digest for chat in ("auto", "off", "wrap")}
    assert len(digests) == 2


@pytest.mark.parametrize("system", [None, "", " \n"])
def test_an_empty_system_is_absent(system: str | None) -> None:
    assert loaded(row(1, system=system)).pairs == loaded(row(1)).pairs
    chat = row(1, prompt=[user("Hi")])
    assert loaded(chat | {"system": system}).pairs == loaded(chat).pairs


def test_a_system_message_is_not_doubled_and_a_template_uses_its_column_up() -> None:
    chat = row(1, prompt=[SYSTEM, user("Hi")], system="Another.")
    assert loaded(chat).pairs[0].prompt == [SYSTEM, user("Hi")]
    text = loaded(row(1, system="Be kind."), prompt_template="{system}\n{prompt}").pairs[0]
    assert (text.prompt, text.system) == ("Be kind.\nQuestion 1?", None)


def _texts(pair: PreferencePair) -> tuple[Any, Any, Any]:
    return pair.prompt, pair.chosen, pair.rejected
