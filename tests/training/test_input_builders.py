"""What the providers supply, against values worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpo_bench import PairLogps
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.errors import DataError
from dpo_bench.model.load import load_model
from dpo_bench.model.logprobs import LogprobBackend, choose_backend
from dpo_bench.model.token_statistics import TokenValues
from dpo_bench.training.input_builders import (
    Confidence,
    MeanLogratio,
    MismatchedLogratio,
    PreferenceMargin,
    SequentialKL,
    SharedSums,
    Supplies,
    require_margins,
)
from dpo_bench.training.reference_model import CachedReference

ONE = Ragged.of([np.ones(1, np.int32)] * 4)
MARGINS = np.array([0.5, -1.0, 2.0, 0.0])


def pairs(margins: np.ndarray | None = MARGINS) -> TokenizedPairs:
    return TokenizedPairs(ONE, ONE, ONE, margins=margins)


@pytest.fixture(scope="module")
def path(llama_folder: Path) -> LogprobBackend:
    return choose_backend(load_model(llama_folder, "cpu"), "fp32")


@pytest.fixture
def supplies(path: LogprobBackend) -> Supplies:
    return Supplies(path, pairs(), None, "mine")


def test_margins_are_those_of_the_pairs_that_are_asked_for(
    supplies: Supplies, path: LogprobBackend
) -> None:
    given = PreferenceMargin(supplies).of_pairs(path.batch(pairs(), [2, 0, 2]), None)
    assert given["preference_margin"].tolist() == [2.0, 0.5, 2.0]
    assert given["preference_margin"].dtype == path.dtype


def test_missing_margins_are_counted_and_their_column_is_named() -> None:
    require_margins("mine", pairs())
    some = np.array([0.5, np.nan, np.nan, 0.0])
    with pytest.raises(DataError, match=r"mine needs .* and 2 of 4 have no number in column 'gap'"):
        require_margins("mine", pairs(some), "gap")
    with pytest.raises(DataError, match=r"and 4 of 4 have no number\. Name the column"):
        require_margins("mine", pairs(None))


def test_statistics_of_tokens_are_summed_or_averaged_over_each_response(
    supplies: Supplies,
) -> None:
    """Two pairs: responses of 2 and 1 tokens chosen, of 1 and 3 tokens rejected."""
    lengths = torch.tensor([2, 1, 1, 3])
    values = torch.tensor([1.0, 2.0, 5.0, 7.0, 2.0, 3.0, 7.0])
    tokens = TokenValues(values, confidence=values, kl=values)
    means = Confidence(supplies).of_tokens(tokens, lengths)
    assert means["chosen_confidence"].tolist() == [1.5, 5.0]
    assert means["rejected_confidence"].tolist() == [7.0, 4.0]
    sums = SequentialKL(supplies).of_tokens(tokens, lengths)
    assert sums["chosen_kl"].tolist() == [3.0, 5.0]
    assert sums["rejected_kl"].tolist() == [7.0, 12.0]
    shared = SharedSums(supplies).of_tokens(tokens, lengths)  # 1 token of each pair is shared
    assert shared["policy_chosen_shared"].tolist() == [1.0, 5.0]
    assert shared["policy_rejected_shared"].tolist() == [7.0, 2.0]


def test_what_was_not_asked_of_the_forward_pass_is_no_zero(supplies: Supplies) -> None:
    tokens, lengths = TokenValues(torch.ones(2)), torch.tensor([1, 1])
    for provider in (Confidence(supplies), SequentialKL(supplies)):
        with pytest.raises(ValueError, match="was not asked for this"):
            provider.of_tokens(tokens, lengths)


def test_a_need_of_the_reference_without_one_names_the_loss(
    supplies: Supplies, path: LogprobBackend
) -> None:
    with pytest.raises(ValueError, match="mine needs a reference and was given none"):
        SharedSums(supplies).of_pairs(path.batch(pairs(), [0]), None)


def log_prob(path: LogprobBackend, prompt: Any, response: Any) -> float:
    """Of a response, from the model's full logits in double precision."""
    ids = torch.tensor([[*map(int, prompt), *map(int, response)]])
    with torch.no_grad():
        logits = path.model(input_ids=ids).logits[0].double()
    positions = range(len(prompt) - 1, ids.shape[1] - 1)
    chances = logits.log_softmax(-1)
    return sum(float(chances[at, ids[0, at + 1]]) for at in positions)


def test_mismatched_log_ratio_is_of_the_next_prompts_response(llama_folder: Path) -> None:
    """Pair i takes one of pair i + 1: the chosen one where i is even, else the rejected."""
    generator = np.random.default_rng(2)
    prompt, chosen, rejected = (
        [generator.integers(3, 200, n).astype(np.int32) for n in lengths]
        for lengths in ((2, 4, 3), (3, 1, 5), (2, 6, 4))
    )
    data = TokenizedPairs(Ragged.of(prompt), Ragged.of(chosen), Ragged.of(rejected))
    policy, frozen = (choose_backend(load_model(llama_folder, "cpu"), "fp32") for _ in range(2))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.5)
    reference = CachedReference(frozen, data, "mismatched", "cpu/fp32")
    provider = MismatchedLogratio(Supplies(policy, data, reference, "kto"))
    further = policy.response_batch(*provider.texts([2, 0, 1]))
    batch = policy.batch(data, [2, 0, 1])
    found = provider.of_pairs(batch, further)["mismatched_logratio"]
    taken = [(prompt[2], chosen[0]), (prompt[0], chosen[1]), (prompt[1], rejected[2])]
    expected = [log_prob(policy, *texts) - log_prob(frozen, *texts) for texts in taken]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert min(map(abs, expected)) > 0.01, "policy and reference differ"
    assert not found.requires_grad


def step(chosen: list[float], rejected: list[float]) -> PairLogps:
    zero = torch.zeros(len(chosen))
    one = torch.ones(len(chosen))
    return PairLogps(torch.tensor(chosen), torch.tensor(rejected), zero, zero, one, one)


def test_mean_is_over_all_responses_so_far_and_survives_a_checkpoint(supplies: Supplies) -> None:
    first = MeanLogratio(supplies)
    assert first.of_step(step([1.0, 2.0], [0.0, -1.0]))["mean_logratio"].tolist() == [0.5, 0.5]
    assert first.of_step(step([6.0], [4.0]))["mean_logratio"].tolist() == [2.0]  # 12 over 6

    resumed = MeanLogratio(supplies)
    resumed.restore(first.state())
    for provider in (first, resumed):  # 12 - 4 over 8
        assert provider.of_step(step([-2.0], [-2.0]))["mean_logratio"].tolist() == [1.0]


def test_mean_carries_no_gradient(supplies: Supplies) -> None:
    whole = replace(step([1.0], [0.0]), policy_chosen=torch.ones(1, requires_grad=True))
    assert not MeanLogratio(supplies).of_step(whole)["mean_logratio"].requires_grad
