"""What ends a response is one set of tokens, in training and in sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.ends import Ends
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.errors import ConfigurationError
from tests.data.build import CHATML, plain


def tokens(tokenizer: Any, text: str) -> Any:
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)


def over_base(**options: Any) -> Any:
    """ChatML over a tokenizer whose EOS is another token, as in Qwen2.5's base models."""
    return plain(
        eos_token="<|endoftext|>",
        extra_special_tokens=["<|im_end|>", "<|eom|>"],
        chat_template=CHATML,
        **options,
    )


def test_eos_the_turns_end_and_what_the_maker_lists_end_a_response() -> None:
    tokenizer = over_base()
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|eom|>"])
    ends = Ends.of(ChatTemplate(tokenizer), ids[2:])
    assert ends.tokens == frozenset(ids)
    assert ends.default == ids[0]


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("yes<|im_end|>", "yes<|im_end|>"),  # no second end
        ("yes<|eom|>", "yes<|eom|>"),
        ("yes<|endoftext|>", "yes<|endoftext|>"),
        ("yes", "yes<|endoftext|>"),
        ("yes<|im_end|><|im_end|>", "yes<|im_end|>"),  # data that brings its own end token
        ("yes<|im_end|>\n<|endoftext|>", "yes<|im_end|>"),
        ("", "<|endoftext|>"),
    ],
)
def test_a_response_has_exactly_one_end(text: str, ended: str) -> None:
    tokenizer = over_base()
    ends = Ends.of(ChatTemplate(tokenizer), [tokenizer.convert_tokens_to_ids("<|eom|>")])
    assert ends.end(tokens(tokenizer, text)).tolist() == tokens(tokenizer, ended).tolist()


@pytest.mark.parametrize("text", ["yes<|im_end|> and no", "<|endoftext|>yes", "a<|eom|>b<|eom|>"])
def test_a_response_that_no_sample_could_be_is_refused(text: str) -> None:
    tokenizer = over_base()
    ends = Ends.of(ChatTemplate(tokenizer), [tokenizer.convert_tokens_to_ids("<|eom|>")])
    with pytest.raises(RowProblem, match=r"goes on behind '<\|") as caught:
        ends.end(tokens(tokenizer, text))
    assert caught.value.reason == Reason.END_INSIDE


def test_a_turns_end_will_do_where_there_is_no_eos() -> None:
    tokenizer = plain(extra_special_tokens=["<|im_end|>"], chat_template=CHATML)
    ends = Ends.of(ChatTemplate(tokenizer))
    assert ends.tokens == {tokenizer.convert_tokens_to_ids("<|im_end|>")} == {ends.default}


def test_something_must_end_a_response() -> None:
    with pytest.raises(ConfigurationError, match="no EOS token, so that no response could end"):
        Ends.of(ChatTemplate(plain()))
