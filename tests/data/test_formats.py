from __future__ import annotations

import json
from typing import Any

import pytest

from dpo_bench.data.formats import PreferencePair
from dpo_bench.errors import ConfigurationError, DataError
from tests.data.build import assistant, loaded, row, user

SYSTEM = {"role": "system", "content": "Be kind."}


def pair(record: dict[str, Any], **options: Any) -> PreferencePair:
    return loaded(record, **options).pairs[0]


def test_an_explicit_prompt_is_taken_as_it_is() -> None:
    record = {"prompt": "Hi ", "chosen": "  yes\n", "rejected": "no"}
    assert pair(record) == PreferencePair("Hi ", "  yes\n", "no")


def test_columns_can_be_renamed() -> None:
    record = {"question": "Hi", "good": "yes", "bad": "no", "prompt": "ignored"}
    options = {"prompt_column": "question", "chosen_column": "good", "rejected_column": "bad"}
    assert pair(record, **options) == PreferencePair("Hi", "yes", "no")


def test_the_common_prefix_is_the_prompt_where_asked_for() -> None:
    record = {"chosen": "The film was good.", "rejected": "The film was great."}
    expected = PreferencePair("The film was", " good.", " great.")
    assert pair(record, prompt_column="") == expected


def test_a_prompt_column_can_be_passed_over() -> None:
    record = {"prompt": "x", "chosen": "It was good", "rejected": "It was bad"}
    assert pair(record, prompt_column="") == PreferencePair("It was", " good", " bad")


def test_hh_conversations_keep_their_history_in_the_prompt() -> None:
    history = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    record = {"chosen": f"{history} I can", "rejected": f"{history} I cannot"}
    assert pair(record) == PreferencePair(history, " I can", " I cannot")


def test_templates_write_prompt_and_responses() -> None:
    record = row(1, system="Be kind.", prompt="Hi", chosen="yes", rejected="no")
    result = pair(
        record,
        prompt_template="{system}\nInstruct: {prompt}\nOutput:",
        response_template=" {response}\n[{prompt}]",
    )
    assert result == PreferencePair("Be kind.\nInstruct: Hi\nOutput:", " yes\n[Hi]", " no\n[Hi]")


def test_templates_reach_an_implicit_prompt() -> None:
    record = {"chosen": "It was good", "rejected": "It was bad"}
    assert pair(record, prompt_column="", prompt_template="Q: {prompt}").prompt == "Q: It was"


CHAT_A = [user("a"), assistant("x")]
CHAT = PreferencePair([user("Hi")], [assistant("yes")], [assistant("no")])


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": CHAT.prompt, "chosen": CHAT.chosen, "rejected": CHAT.rejected},
        {
            "prompt": CHAT.prompt,
            "chosen": [user("Hi"), assistant("yes")],
            "rejected": [user("Hi"), assistant("no")],
        },
        {
            "prompt": "Hi",
            "chosen": [user("Hi"), assistant("yes")],
            "rejected": [user("Hi"), assistant("no")],
        },
        {"chosen": [user("Hi"), assistant("yes")], "rejected": [user("Hi"), assistant("no")]},
        {"prompt": "Hi", "chosen": CHAT.chosen, "rejected": CHAT.rejected},
        {"prompt": CHAT.prompt, "chosen": "yes", "rejected": "no"},
        {"prompt": CHAT.prompt, "chosen": [user("Hi"), assistant("yes")], "rejected": "no"},
    ],
    ids=["answers", "repeated", "UltraFeedback", "implicit", "text prompt", "text", "mixed"],
)
def test_every_form_of_chat_gives_the_same_pair(record: dict[str, Any]) -> None:
    assert pair(record) == CHAT


def test_a_longer_conversation_is_prompt_up_to_the_last_answer() -> None:
    history = [SYSTEM, user("a"), assistant("b"), user("c")]
    record = {
        "prompt": "a",
        "chosen": [*history, assistant("yes")],
        "rejected": [*history, assistant("no")],
    }
    assert pair(record) == PreferencePair(history, [assistant("yes")], [assistant("no")])


def test_empty_fields_and_numbers_of_a_message_are_left_out() -> None:
    messages = [{**user("Hi"), "name": "Ann", "tool_calls": None, "score": 1.0}]
    assert pair(row(1, prompt=messages)).prompt == [{**user("Hi"), "name": "Ann"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chosen": None}, "it has no 'chosen'"),
        ({"prompt": None}, "it has no 'prompt'"),
        ({"rejected": 3}, "'rejected' must be a text or a list of messages, not int"),
        ({"prompt": {"a": 1}}, "'prompt' must be a text or a list of messages, not dict"),
        ({"chosen": ""}, "response in 'chosen' is empty"),
        ({"rejected": " \n\t\u3000"}, "response in 'rejected' is empty"),
        ({"chosen": "x", "rejected": "x"}, "both responses are the same"),
        ({"chosen": "a \ud800"}, "'chosen' contains an unpaired surrogate"),
        ({"prompt": "\udfff"}, "'prompt' contains an unpaired surrogate"),
        ({"prompt": [user("\ud800")]}, "'prompt' contains an unpaired surrogate"),
        ({"prompt": []}, "'prompt' has no messages"),
        ({"prompt": ["Hi", "Ho"]}, "message 1 of 'prompt' is no object"),
        ({"prompt": [{"role": "user"}]}, "message 1 of 'prompt' has no text as 'content'"),
        ({"prompt": [{"content": "Hi"}]}, "message 1 of 'prompt' has no text as 'role'"),
        ({"prompt": [user("a")], "chosen": [assistant(" ")]}, "response in 'chosen' is empty"),
        ({"prompt": [user("a")], "chosen": [user("a")]}, "'chosen' is the prompt and no more"),
        (
            {"prompt": [user("a")], "chosen": [user("b"), assistant("x")]},
            "'chosen' repeats another prompt",
        ),
        (
            {"prompt": [user("a")], "chosen": [assistant("x"), user("y"), assistant("z")]},
            "'chosen' must be one assistant message, not: assistant, user, assistant",
        ),
        (
            {
                "prompt": "b",
                "chosen": [user("a"), assistant("x")],
                "rejected": [user("a"), assistant("y")],
            },
            "do not both begin with the text of 'prompt'",
        ),
        (
            {"chosen": '[{"role": "user"', "rejected": "[{'content': 1"},
            "can be read neither as JSON",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^data, row 2: .*{message}"):
        loaded(row(0), row(1, **values))


def test_chats_that_share_no_message_have_no_prompt() -> None:
    record = {"chosen": [user("a"), assistant("x")], "rejected": [user("b"), assistant("y")]}
    with pytest.raises(DataError, match="no column 'prompt', and the responses are no conversat"):
        loaded(record)
    with pytest.raises(DataError, match=r"row 2: .*share no message as prompt"):
        loaded({"chosen": CHAT_A, "rejected": [*CHAT_A[:1], assistant("y")]}, record)


def test_chat_messages_refuse_a_template_for_plain_text() -> None:
    with pytest.raises(DataError, match=r"data\.response_template are for plain"):
        loaded(row(1, prompt=[user("Hi")]), prompt_template="Q: {prompt}")


def test_a_missing_column_is_named_with_those_that_exist() -> None:
    message = (
        r"^data: no column 'chosen' \(did you mean 'chosen_text'\?\); its columns: 'prompt', "
        r"'chosen_text', 'rejected'\. Name the right one as data\.chosen_column\.$"
    )
    with pytest.raises(DataError, match=message):
        loaded({"prompt": "a", "chosen_text": "b", "rejected": "c"})


def test_a_misspelt_prompt_column_is_no_implicit_prompt() -> None:
    with pytest.raises(DataError, match=r"no column 'promt' \(did you mean 'prompt'\?\)"):
        loaded(row(1), prompt_column="promt")


def test_responses_without_a_common_beginning_need_a_prompt_column() -> None:
    with pytest.raises(DataError, match=r'set data\.prompt_column = "question"\.$'):
        loaded({"question": "Hi", "chosen": "yes", "rejected": "no"}, prompt_template="Q: {prompt}")


def test_control_characters_in_column_names_do_not_reach_the_terminal() -> None:
    with pytest.raises(DataError) as caught:
        loaded({"\x1b[31mred": 1, "rejected": "c"})
    assert "\x1b" not in str(caught.value)


def test_a_malformed_template_is_found_before_any_row() -> None:
    with pytest.raises(ConfigurationError, match="prompt_template"):
        loaded(row(1), prompt_template="{prompt")


def test_a_prompt_that_all_responses_repeat_is_taken_off() -> None:
    records = [
        {"prompt": f"Film {n} was", "chosen": f"Film {n} was good", "rejected": f"Film {n} was bad"}
        for n in range(2)
    ]
    found = loaded(*records)
    assert [pair.prompt for pair in found.pairs] == ["Film 0 was", "Film 1 was"]
    assert {pair.chosen for pair in found.pairs} == {" good"}
    assert "taken off the responses" in found.description
    mixed = loaded(*records, {"prompt": "Film 3 was", "chosen": "good", "rejected": "bad"})
    assert mixed.pairs[0].chosen == "Film 0 was good"
    assert loaded(records[0]).pairs[0].chosen == "Film 0 was good"  # one may be chance


TOOL_CALL = {"type": "function", "function": {"name": "sky", "arguments": {"city": "Rome"}}}
HISTORY = [
    user("Rome?"),
    {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
    {"role": "tool", "name": "sky", "content": "blue"},
]


def test_tools_may_be_called_before_the_responses_but_not_in_them() -> None:
    responses = {"chosen": [assistant("Blue.")], "rejected": [assistant("Grey.")]}
    assert pair({"prompt": HISTORY, **responses}).prompt == HISTORY
    whole = {name: [*HISTORY, *answer] for name, answer in responses.items()}
    assert pair(whole) == pair({"prompt": HISTORY, **responses})
    with pytest.raises(DataError, match="the response in 'chosen' calls a tool; only texts can"):
        pair({"prompt": HISTORY[:1], "chosen": HISTORY[1:2], "rejected": [assistant("Grey.")]})


def test_a_begun_answer_is_the_end_of_the_prompt_also_where_responses_repeat_it() -> None:
    begun = [user("Hi"), assistant("Well, ")]
    expected = PreferencePair(begun, [assistant("yes")], [assistant("no")])
    assert pair({"prompt": begun, "chosen": "yes", "rejected": "no"}) == expected
    repeated = {
        "chosen": [user("Hi"), assistant("Well, yes")],
        "rejected": [user("Hi"), assistant("Well, no")],
    }
    assert pair({"prompt": begun, **repeated}) == expected
    with pytest.raises(DataError, match="'rejected' repeats another prompt than the row's"):
        pair({"prompt": begun, **repeated, "rejected": [user("Hi"), assistant("No")]})


def test_a_text_that_looks_like_messages_on_one_side_is_a_text() -> None:
    written = '[{"role": "user", "content": "x"}]'
    assert pair({"prompt": "Show JSON.", "chosen": written, "rejected": "no"}).chosen == written
    broken = '[{"role": "user"'
    assert pair({"prompt": "Show JSON.", "chosen": "no", "rejected": broken}).rejected == broken


@pytest.mark.parametrize("spell", [json.dumps, repr])
def test_messages_written_out_as_text_are_read_everywhere(spell: Any) -> None:
    record = {"prompt": CHAT.prompt, "chosen": CHAT.chosen, "rejected": CHAT.rejected}
    assert pair({name: spell(value) for name, value in record.items()}) == CHAT
    assert pair({**record, "prompt": spell(CHAT.prompt)}) == CHAT
    single = {name: spell(record[name][0]) for name in ("chosen", "rejected")}
    assert pair({**record, **single}) == CHAT
