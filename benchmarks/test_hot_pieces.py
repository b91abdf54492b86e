"""The hot pieces, timed by ``make bench``; in the ordinary run each is called once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.versus_trl.workloads import WORKLOADS, prepare, random_pairs
from dpo_bench import PairLogps, get_loss
from dpo_bench.data.batches import pad_batch
from dpo_bench.data.packing import pack_pairs
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import FullLogitsBackend, HiddenStateBackend, LogprobBackend
from dpo_bench.model.logprobs import sum_by_row, token_logps
from dpo_bench.model.sampling import SamplingPlan, sample_responses

SMALL = replace(
    WORKLOADS["c"],
    width=64,
    layers=2,
    vocabulary=512,
    pairs_per_step=8,
    steps=1,
    prompt=24,
    response=(8, 40),
)


@pytest.fixture(scope="module")
def pairs() -> TokenizedPairs:
    return random_pairs(SMALL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("benchmark")
    return load_model(prepare(SMALL, folder).model)


def test_padding(benchmark: Any, pairs: TokenizedPairs) -> None:
    assert len(benchmark(pad_batch, pairs, range(len(pairs))).lengths) == 2 * len(pairs)


def test_packing(benchmark: Any, pairs: TokenizedPairs) -> None:
    assert len(benchmark(pack_pairs, pairs, range(len(pairs))).lengths) == 2 * len(pairs)


@pytest.mark.parametrize("way", ["logits everywhere", "padded", "packed"])
def test_log_probs_forward_and_backward(
    benchmark: Any, model: Any, pairs: TokenizedPairs, way: str
) -> None:
    path: LogprobBackend = (
        FullLogitsBackend(model)
        if way == "logits everywhere"
        else HiddenStateBackend(model, packs=way == "packed")
    )

    def step() -> torch.Tensor:
        model.zero_grad()
        batch = path.batch(pairs, range(len(pairs)))
        sums = sum_by_row(token_logps(path, batch), batch.lengths)
        torch.autograd.backward(sums.mean())
        return sums

    assert benchmark(step).isfinite().all()


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo"])
def test_loss_forward_and_backward(benchmark: Any, name: str) -> None:
    values = torch.linspace(-90, -10, 4 * 1024).view(4, -1).requires_grad_()
    counts = torch.full((1024,), 40)
    loss = get_loss(name)

    def step() -> torch.Tensor:
        losses = loss(PairLogps(values[0], values[1], values[2], values[3], counts, counts))
        torch.autograd.backward(losses.mean())
        return losses

    assert benchmark(step).shape == (1024,)


def test_sampling(benchmark: Any, model: Any, pairs: TokenizedPairs) -> None:
    plan = SamplingPlan(
        samples=4,
        max_new_tokens=16,
        temperature=1.0,
        end_tokens=frozenset({2}),
        seed=0,
        stream="policy",
        rows_per_batch=512,
    )
    prompts = [pairs.prompt[index].tolist() for index in range(len(pairs))]
    found = benchmark(sample_responses, choose_backend(model), prompts, plan)
    assert len(found) == 4 * len(pairs)
