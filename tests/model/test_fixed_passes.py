"""In bf16 a text's log-probs have the same bits whatever shares its pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dpo_bench.data.packing import Pack, pack_pairs
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.logprobs import sum_by_row, token_logps
from dpo_bench.model.narrow_weights import narrow_weights
from dpo_bench.model.token_statistics import token_values
from tests.model.architectures import SIZES, VOCABULARY, tiny_model


def long_pairs(count: int = 7) -> TokenizedPairs:
    generator = np.random.default_rng(4)
    prompt, chosen, rejected = (
        Ragged.of(
            [
                generator.integers(0, VOCABULARY, length).astype(np.int32)
                for length in generator.integers(low, high, count)
            ]
        )
        for low, high in ((3, 30), (5, 60), (5, 60))
    )
    return TokenizedPairs(prompt, chosen, rejected)


PAIRS = long_pairs()


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3", "autocast"])
def backend(request: pytest.FixtureRequest) -> LogprobBackend:
    """A backend in bf16 with passes of a fixed size."""
    changes = {} if request.param == "gpt2" else SIZES
    kind = "llama" if request.param == "autocast" else request.param
    found = choose_backend(tiny_model(kind, torch.float32, **changes), "bf16", 60)
    if request.param != "autocast":
        narrow_weights(found)
    return found


Rows = dict[int, tuple[Tensor, Tensor]]


def logps(backend: LogprobBackend, indices: list[int]) -> Rows:
    """Log-probs of some pairs' responses, by pair."""
    batch = backend.batch(PAIRS, indices)
    with torch.no_grad():
        rows = token_logps(backend, batch).split(batch.lengths.tolist())
    return {index: (rows[at], rows[len(indices) + at]) for at, index in enumerate(indices)}


@pytest.mark.parametrize("mates", [1, 3, 5])
def test_a_pair_has_the_same_bits_alone_and_in_company(backend: LogprobBackend, mates: int) -> None:
    """In passes that are as long as their texts, some of these are off by .01 nat."""
    assert backend.fills
    count = len(PAIRS)
    alone = {index: logps(backend, [index])[index] for index in range(count)}
    for first in range(count):
        company = [(first + step) % count for step in range(1 + mates)]
        for index, responses in logps(backend, company).items():
            for ours, expected in zip(responses, alone[index], strict=True):
                assert torch.equal(ours, expected)


def test_log_probs_with_more_from_the_same_logits_have_the_same_bits(
    backend: LogprobBackend,
) -> None:
    batch = backend.batch(PAIRS, [0, 3])
    with torch.no_grad():
        found = token_values(backend, batch, confidence=True, reference=backend)
        assert torch.equal(found.logp, token_logps(backend, batch))
    assert found.kl is not None
    assert found.kl.abs().max() < 1e-6


def test_inert_tokens_change_neither_values_nor_gradients() -> None:
    model = tiny_model("llama")
    backend = choose_backend(model, longest=24)
    found = []
    for fixed in (0, 512):
        batch = pack_pairs(PAIRS, range(5), fixed)
        sums = sum_by_row(token_logps(backend, batch), batch.lengths)
        slopes = torch.linspace(-1, 2, 10, dtype=torch.float64)
        found.append((sums, *torch.autograd.grad(sums, list(model.parameters()), slopes)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("fixed", "tokens"), [(512, 512), (100, 500), (1, 452)])
def test_a_row_is_filled_up_to_the_next_multiple(fixed: int, tokens: int) -> None:
    assert int(PAIRS.sizes[:5].sum()) == 452
    pack = pack_pairs(PAIRS, range(5), fixed)
    assert pack.input_ids.shape == (1, tokens)
    check_slots(pack)


def check_slots(pack: Pack) -> None:
    """Every token is read from a slot in which it stands, each from its own."""
    own = pack.token_of_slot[pack.slot_of_token]
    assert torch.equal(own, torch.arange(pack.input_ids.shape[1]))
    assert sum(bucket.rows * bucket.length for bucket in pack.buckets) == len(pack.token_of_slot)
