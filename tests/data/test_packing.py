"""Packs: every prompt once, no padding, and rows for attention that hold whole texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.data.batches import pad_batch, pad_responses
from dpo_bench.data.packing import Pack, pack_pairs, pack_responses
from dpo_bench.data.tokenized import Ragged, TokenizedPairs

TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=6)


def make(pairs: list[tuple[list[int], list[int], list[int]]]) -> TokenizedPairs:
    prompt, chosen, rejected = (
        Ragged.of([np.asarray(tokens, np.int32) for tokens in side])
        for side in zip(*pairs, strict=True)
    )
    return TokenizedPairs(prompt, chosen, rejected)


def texts_in_slots(pack: Pack) -> list[list[int]]:
    """The rows that attention sees, as token ids, padding included."""
    ids = pack.input_ids[0][pack.token_of_slot].tolist()
    rows = []
    for bucket in pack.buckets:
        for _ in range(bucket.rows):
            rows.append(ids[: bucket.length])
            ids = ids[bucket.length :]
    assert ids == []
    return rows


def test_a_pack_by_hand() -> None:
    pack = pack_pairs(make([([5, 6], [7], [8, 9, 2]), ([4], [3, 2], [1])]), [1, 0])
    assert pack.input_ids.tolist() == [[4, 3, 2, 1, 5, 6, 7, 8, 9, 2]]
    assert pack.position_ids.tolist() == [[0, 1, 2, 1, 0, 1, 2, 2, 3, 4]]
    assert pack.lengths.tolist() == [2, 1, 1, 3]
    assert pack.target.tolist() == [3, 2, 7, 1, 8, 9, 2]
    assert pack.state.tolist() == [0, 1, 5, 0, 5, 7, 8]
    assert [(bucket.rows, bucket.length) for bucket in pack.buckets] == [(1, 5), (2, 3), (1, 2)]
    assert texts_in_slots(pack) == [[5, 6, 8, 9, 2], [4, 3, 2], [5, 6, 7], [4, 1]]


@given(PAIRS)
def test_attention_sees_every_text_whole(
    pairs: list[tuple[list[int], list[int], list[int]]],
) -> None:
    pack = pack_pairs(make(pairs), range(len(pairs)))
    texts = [prompt + response for prompt, *both in pairs for response in both]
    assert pack.input_ids.shape[1] == sum(len(side) for pair in pairs for side in pair)
    rows = texts_in_slots(pack)
    texts.sort(key=len, reverse=True)
    assert sorted(row[: len(text)] for row, text in zip(rows, texts, strict=True)) == sorted(texts)
    for row, text in zip(rows, texts, strict=True):
        assert len(text) >= 0.75 * len(row)


@given(PAIRS)
def test_each_token_is_read_and_its_copies_are_known(
    pairs: list[tuple[list[int], list[int], list[int]]],
) -> None:
    pack = pack_pairs(make(pairs), range(len(pairs)))
    tokens = torch.arange(pack.input_ids.shape[1])
    assert torch.equal(pack.token_of_slot[pack.slot_of_token], tokens)
    (shared,), (slots,) = pack.shared_tokens, pack.shared_slots
    assert torch.equal(pack.token_of_slot[slots], shared)
    assert len(shared.unique()) == len(shared) == sum(len(prompt) for prompt, *_ in pairs)
    assert not set(slots.tolist()) & set(pack.slot_of_token.tolist())


@given(PAIRS)
def test_targets_and_order_are_those_of_a_padded_batch(
    pairs: list[tuple[list[int], list[int], list[int]]],
) -> None:
    pack = pack_pairs(make(pairs), range(len(pairs)))
    batch = pad_batch(make(pairs), range(len(pairs)))
    assert torch.equal(pack.target, batch.target)
    assert torch.equal(pack.lengths, batch.lengths)
    # The state that predicts a token is that of the same token at the same place.
    assert torch.equal(pack.input_ids[0][pack.state], batch.input_ids[batch.row, batch.position])
    assert torch.equal(pack.position_ids[0][pack.state], batch.position)


def test_samples_of_one_prompt_share_it() -> None:
    prompts, responses = [(1, 2), (1, 2), (1, 2), (3,), (1, 2)], [(4,), (5, 6), (7,), (8,), (9,)]
    pack = pack_responses(prompts, responses)
    assert pack.input_ids.tolist() == [[1, 2, 4, 5, 6, 7, 3, 8, 1, 2, 9]]
    assert [tokens.tolist() for tokens in pack.shared_tokens] == [[0, 1], [0, 1]]
    assert torch.equal(pack.target, pad_responses(prompts, responses).target)


def test_empty_responses_have_no_targets() -> None:
    pack = pack_responses([(1, 2), (3,)], [(), (5,)])
    assert pack.lengths.tolist() == [0, 1]
    assert pack.target.tolist() == [5]
    assert pack.state.tolist() == [2]


def test_a_response_needs_a_prompt() -> None:
    with pytest.raises(ValueError, match="prompt of at least one token"):
        pack_responses([[]], [[1]])
    with pytest.raises(ValueError, match="prompt of at least one token"):
        pack_responses([[1], [2]], [[1]])


def test_a_pack_moves_whole() -> None:
    pack = pack_pairs(make([([5, 6], [7], [8, 9, 2])]), [0]).to(torch.device("meta"))
    assert pack.state.device.type == pack.shared_slots[0].device.type == "meta"
    assert pack.buckets
