from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.data.batches import (
    consecutive_passes,
    pad_batch,
    pad_responses,
    split_passes,
    step_order,
)
from dpo_bench.data.tokenized import Ragged, TokenizedPairs

SIZES = st.tuples(
    st.integers(1, 20), st.integers(1, 45), st.integers(0, 12), st.integers(-5, 2**70)
)
TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=6)


def make(pairs: list[tuple[list[int], list[int], list[int]]]) -> TokenizedPairs:
    prompt, chosen, rejected = (
        Ragged.of([np.asarray(tokens, np.int32) for tokens in side])
        for side in zip(*pairs, strict=True)
    )
    return TokenizedPairs(prompt, chosen, rejected)


@given(SIZES)
def test_every_epoch_has_every_pair_once_and_every_step_its_size(
    sizes: tuple[int, int, int, int],
) -> None:
    pairs, per_step, steps, seed = sizes
    order = step_order(pairs, per_step, steps, seed)
    assert len(order) == steps
    assert [len(step) for step in order] == [per_step] * steps
    stream = [index for step in order for index in step]
    for start in range(0, len(stream) - pairs + 1, pairs):
        assert sorted(stream[start : start + pairs]) == list(range(pairs))
    assert all(count == 1 for count in Counter(stream[len(stream) // pairs * pairs :]).values())


@given(SIZES, st.data())
def test_a_step_can_be_computed_by_itself(
    sizes: tuple[int, int, int, int], data: st.DataObject
) -> None:
    pairs, per_step, steps, seed = sizes
    everything = list(step_order(pairs, per_step, steps + 1, seed))
    step = data.draw(st.integers(0, steps))
    assert step_order(pairs, per_step, steps + 7, seed)[step] == everything[step]
    assert everything[-1] == step_order(pairs, per_step, steps + 1, seed)[-1]


def test_epochs_and_seeds_differ() -> None:
    order = step_order(100, 100, 3, seed=0)
    assert len({tuple(step) for step in order}) == 3
    assert order[0] != list(range(100))
    assert order[0] != step_order(100, 100, 3, seed=1)[0]
    assert order[0] != step_order(100, 100, 3, seed=-1)[0]


def test_the_global_generators_have_no_say() -> None:
    np.random.seed(1)
    first = list(step_order(50, 8, 9, seed=3))
    np.random.seed(2)
    torch.manual_seed(5)
    assert list(step_order(50, 8, 9, seed=3)) == first


def test_changing_a_step_s_indices_does_not_change_the_order() -> None:
    order = step_order(10, 10, 2, seed=0)
    before = list(order[0])
    order[0].clear()
    assert order[0] == before
    assert order[:2] == [order[0], order[1]]


@pytest.mark.parametrize("arguments", [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, -1, 0)])
def test_an_impossible_order_is_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no order of"):
        step_order(*arguments)
    with pytest.raises(IndexError):
        step_order(1, 1, 1, 0)[1]


@given(PAIRS, st.integers(0, 7), st.data())
def test_passes_hold_the_step_s_pairs_and_no_more_than_fit(
    pairs: list[tuple[list[int], list[int], list[int]]], per_pass: int, data: st.DataObject
) -> None:
    tokenized = make(pairs)
    indices = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=12))
    passes = split_passes(tokenized, indices, per_pass)
    assert sorted(index for part in passes for index in part) == sorted(indices)
    if per_pass == 0:
        assert passes == [indices]
    else:
        assert len(passes) == -(-len(indices) // per_pass)
        assert all(1 <= len(part) <= per_pass for part in passes)


def test_passes_gather_pairs_of_similar_length_the_longest_first() -> None:
    lengths = [3, 9, 4, 8]
    pairs = make([([1], [1] * length, [1]) for length in lengths])
    assert split_passes(pairs, [0, 1, 2, 3], 2) == [[1, 3], [2, 0]]
    assert split_passes(pairs, [0, 1, 2, 3], 4) == [[0, 1, 2, 3]]


@given(PAIRS, st.integers(1, 40), st.integers(0, 3))
def test_a_budget_of_tokens_moves_no_pair_to_another_step(
    pairs: list[tuple[list[int], list[int], list[int]]], tokens: int, per_pass: int
) -> None:
    tokenized = make(pairs)
    indices = [*range(len(pairs)), 0]
    passes = split_passes(tokenized, indices, per_pass, tokens)
    assert sorted(index for part in passes for index in part) == sorted(indices)
    for part in passes:
        assert len(part) == 1 or tokenized.sizes[part].sum() <= tokens
        assert per_pass == 0 or len(part) <= per_pass


@given(st.lists(st.integers(0, 20), max_size=9), st.integers(1, 30))
def test_consecutive_passes_keep_the_order_and_the_budget(sizes: list[int], tokens: int) -> None:
    passes = list(consecutive_passes(np.array(sizes, np.int64), tokens))
    assert [at for part in passes for at in part] == list(range(len(sizes)))
    for part in passes:
        assert len(part) == 1 or sum(sizes[at] for at in part) <= tokens


def test_a_batch_by_hand() -> None:
    pairs = make([([5, 6], [7], [8, 9, 2]), ([4], [3, 2], [1])])
    batch = pad_batch(pairs, [1, 0], pad_id=99)
    assert batch.input_ids.tolist() == [
        [4, 3, 2, 99, 99],
        [5, 6, 7, 99, 99],
        [4, 1, 99, 99, 99],
        [5, 6, 8, 9, 2],
    ]
    assert batch.lengths.tolist() == [2, 1, 1, 3]
    assert batch.row.tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert batch.position.tolist() == [0, 1, 1, 0, 1, 2, 3]
    assert batch.target.tolist() == [3, 2, 7, 1, 8, 9, 2]
    assert all(
        tensor.dtype == torch.int64
        for tensor in (batch.input_ids, batch.row, batch.position, batch.target, batch.lengths)
    )


@given(PAIRS)
def test_each_position_predicts_its_target(
    pairs: list[tuple[list[int], list[int], list[int]]],
) -> None:
    batch = pad_batch(make(pairs), range(len(pairs)))
    responses = [pair[1] for pair in pairs] + [pair[2] for pair in pairs]
    assert batch.lengths.tolist() == [len(response) for response in responses]
    assert batch.target.tolist() == [token for response in responses for token in response]
    assert torch.equal(batch.input_ids[batch.row, batch.position + 1], batch.target)
    for row, (prompt, response) in enumerate(
        zip([pair[0] for pair in pairs] * 2, responses, strict=True)
    ):
        used = len(prompt) + len(response)
        assert batch.input_ids[row, :used].tolist() == prompt + response
        assert not batch.input_ids[row, used:].any()
        positions = batch.position[batch.row == row]
        assert positions[0] == len(prompt) - 1
        assert positions[-1] == used - 2


def test_sampled_responses_are_padded_alike() -> None:
    batch = pad_responses([(1, 2), (3,)], [(4,), (5, 6)])
    assert batch.input_ids.tolist() == [[1, 2, 4], [3, 5, 6]]
    assert batch.row.tolist() == [0, 1, 1]
    assert batch.position.tolist() == [1, 0, 1]


def test_a_response_needs_a_prompt() -> None:
    with pytest.raises(ValueError, match="prompt of at least one token"):
        pad_responses([[]], [[1]])
    with pytest.raises(ValueError, match="prompt of at least one token"):
        pad_responses([[1], [2]], [[1]])


def test_a_batch_moves_whole() -> None:
    batch = pad_responses([(1, 2), (3,)], [(4,), (5, 6)])
    moved = batch.to("cpu")
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert batch.to(torch.device("meta")).target.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_moves_to_a_gpu() -> None:
    batch = pad_responses([(1, 2), (3,)], [(4,), (5, 6)])
    moved = batch.to("cuda")
    torch.cuda.synchronize()
    assert moved.input_ids.is_cuda
    assert moved.target.tolist() == batch.target.tolist()
