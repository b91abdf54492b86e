from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_bench.data.encoding import Encoder
from dpo_bench.worlds.grammar import write_review
from dpo_bench.worlds.tokenizer import build_tokenizer, token_list


@lru_cache
def tokenizer() -> Any:
    return build_tokenizer()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_texts_survive_the_tokenizer_and_join_exactly(seed: int) -> None:
    review = write_review(np.random.default_rng(seed))
    prompt, response = review.prompt, review.response
    ids = {text: tokenizer()(text)["input_ids"] for text in (prompt, response, prompt + response)}
    for text, tokens in ids.items():
        assert tokenizer().decode(tokens) == text
        assert tokenizer().unk_token_id not in tokens
        assert not set(tokens) & set(tokenizer().all_special_ids)
    assert ids[prompt] + ids[response] == ids[prompt + response]


def test_the_response_carries_the_joining_space() -> None:
    pieces = tokenizer().tokenize("my view:") + tokenizer().tokenize(" the plot was great.")
    assert pieces == ["my", "▁view", ":", "▁the", "▁plot", "▁was", "▁great", "."]


def test_a_word_outside_the_grammar_is_unknown() -> None:
    assert tokenizer().tokenize(" the zebra.") == ["▁the", "<unk>", "."]


def test_special_tokens_are_four_and_distinct() -> None:
    special = tokenizer().special_tokens_map
    assert sorted(special) == ["bos_token", "eos_token", "pad_token", "unk_token"]
    assert len(set(special.values())) == 4
    assert len(token_list()) == len(set(token_list())) == len(tokenizer())


def test_transformers_loads_the_saved_tokenizer_as_it_was(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer().save_pretrained(tmp_path)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    text = "a drama about a nurse in a village. in short: what a joy! i recommend it."
    assert loaded(text)["input_ids"] == tokenizer()(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert loaded.padding_side == "left"


@pytest.mark.parametrize("continuing", [False, True])
def test_the_data_room_encodes_texts_as_the_tokenizer_does(continuing: bool) -> None:
    text = " the plot was not great."
    encoder = Encoder(tokenizer())
    (tokens,) = encoder.encode([text], continuing=continuing)
    assert tokens.tolist() == tokenizer()(text)["input_ids"]
    assert encoder.prefix.tolist() == []
