"""The records that losses see."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from dpo_bench import PairLogps, get_loss
from dpo_bench.contract import Objective
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.model.load import load_model
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.training.inputs import LossInputBuilder, cat, non_null_fields


def record(*chosen: float, margin: float | None = None) -> PairLogps:
    values = torch.tensor(chosen)
    margins = None if margin is None else torch.full_like(values, margin)
    return PairLogps(values, values - 1, values - 2, values - 3, values, values, margins)


def test_a_record_has_the_fields_that_are_there() -> None:
    six = {field.name for field in fields(PairLogps)[:6]}
    assert set(non_null_fields(record(1.0))) == six
    assert set(non_null_fields(record(1.0, margin=0.0))) == six | {"preference_margin"}


def test_records_are_joined_in_order() -> None:
    whole = cat([record(1.0, 2.0, margin=0.5), record(3.0, margin=0.25)])
    assert whole.policy_chosen.tolist() == [1.0, 2.0, 3.0]
    assert whole.reference_rejected.tolist() == [-2.0, -1.0, 0.0]
    assert whole.preference_margin is not None
    assert whole.preference_margin.tolist() == [0.5, 0.5, 0.25]
    assert whole.chosen_kl is None


def test_without_a_reference_its_fields_are_unknown_and_only_the_policy_has_a_gradient(
    llama_folder: Path,
) -> None:
    sides = [Ragged.of([np.arange(3, 3 + n, dtype=np.int32) for n in (2, 4)]) for _ in range(3)]
    pairs = TokenizedPairs(sides[0], sides[1], sides[2])
    path = choose_backend(load_model(llama_folder, "cpu"), "fp32")
    builder = LossInputBuilder(path, pairs, None, Objective(get_loss("simpo")))
    found = builder.record(builder.inputs([1, 0]))
    assert found.chosen_tokens.tolist() == [4, 2]
    for name, value in non_null_fields(found).items():
        assert value.requires_grad == name.startswith("policy"), name
        assert value.isnan().all() == name.startswith("reference"), name
