from __future__ import annotations

from typing import Any

import pytest

from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.formats import PreferencePair
from dpo_bench.data.problems import RowProblem
from dpo_bench.data.rendering import PairTexts
from dpo_bench.data.rendering import render as write
from dpo_bench.errors import ConfigurationError
from tests.data.build import CHATML, assistant, chatml, llama, plain, user

CHAT = PreferencePair([user("Hi")], [assistant("yes")], [assistant("no ")])


def render(tokenizer: Any, pair: PreferencePair = CHAT) -> PairTexts:
    return write(pair, ChatTemplate(tokenizer))


def test_plain_texts_stay_as_they_are() -> None:
    pair = PreferencePair("Hi", " yes\n", " no")
    assert render(chatml(), pair) == PairTexts("Hi", " yes\n", " no")


def test_chatml_prompt_ends_where_the_assistant_begins() -> None:
    assert render(chatml()) == PairTexts(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "yes<|im_end|>",
        "no <|im_end|>",
        messages=CHAT.prompt,
    )


def test_the_template_writes_bos_and_eos_where_it_does() -> None:
    assert render(llama()) == PairTexts(
        "<s>[INST] Hi [/INST]", " yes </s>", " no  </s>", messages=CHAT.prompt
    )


def test_white_space_stays_where_no_token_ends_the_turn() -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tokenizer = plain(eos_token="</s>", chat_template=template)
    assert render(tokenizer).chosen == "assistant: yes\n"


def test_a_turn_that_ends_with_another_token_than_eos_is_trimmed_too() -> None:
    tokenizer = plain(
        eos_token="<|endoftext|>", extra_special_tokens=["<|im_end|>"], chat_template=CHATML
    )
    assert render(tokenizer).chosen == "yes<|im_end|>"


def test_a_prompt_that_does_not_begin_the_conversation_is_refused() -> None:
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = plain(eos_token="</s>", chat_template=template)
    with pytest.raises(ConfigurationError, match=r"chat template cannot be used: .* begin with"):
        render(tokenizer)


def test_a_template_that_refuses_the_messages_is_quoted() -> None:
    pair = PreferencePair([{"role": "system", "content": "x"}], CHAT.chosen, CHAT.rejected)
    with pytest.raises(RowProblem, match=r"refuses the messages \(only user and assistant\)"):
        render(llama(), pair)


def test_chat_needs_a_chat_template() -> None:
    with pytest.raises(ConfigurationError, match="tokenizer has no chat template"):
        render(plain(eos_token="</s>"))
