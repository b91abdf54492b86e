"""Optimiser and learning rate."""

from __future__ import annotations

import pytest
import torch

from dpo_bench.experiment.config import Training
from dpo_bench.training.optimiser import build_optimiser, learning_rate


def rates(**settings: object) -> list[float]:
    training = Training.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate(step, 10, training) for step in range(10)]


def test_warm_up_rises_linearly_to_the_peak() -> None:
    assert rates(warmup_fraction=0.4, schedule="constant") == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    )


def test_linear_falls_to_zero_one_step_after_the_last() -> None:
    assert rates(warmup_fraction=0.0, schedule="linear") == pytest.approx(
        [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


def test_cosine_is_half_way_in_the_middle() -> None:
    values = rates(warmup_fraction=0.0, schedule="cosine")
    assert values[0] == 1
    assert values[5] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("rmsprop", torch.optim.RMSprop)]
)
def test_the_optimiser_is_the_one_asked_for(name: str, kind: type) -> None:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = build_optimiser(
        [frozen, weight],
        Training(optimiser=name, learning_rate=0.5, weight_decay=0.1),  # type: ignore[arg-type]
    )
    assert isinstance(optimiser, kind)
    (group,) = optimiser.param_groups
    assert group["lr"] == 0.5
    assert group["weight_decay"] == 0.1
    assert [id(parameter) for parameter in group["params"]] == [id(weight)]
