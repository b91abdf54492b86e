"""The gradient of a step, against plain autograd through full logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench import get_loss
from dpo_bench.training.step_metrics import PAIR_METRICS
from tests.training.test_trainer import PAIRS, Setup

BETA = 0.1


@pytest.fixture(scope="module")
def setup(llama_folder: Path) -> Setup:
    """A policy that has left its reference."""
    setup = Setup(llama_folder)
    setup.initial = {name: 1.3 * value for name, value in setup.initial.items()}
    return setup


def log_prob(model: Any, prompt: Any, response: Any) -> Tensor:
    ids = torch.tensor([[*map(int, prompt), *map(int, response)]])
    chances = model(input_ids=ids).logits[0].log_softmax(-1)
    first, last = len(prompt) - 1, ids.shape[1] - 1
    total: Tensor = chances[first:last].gather(-1, ids[0, first + 1 :, None]).sum()
    return total


def log_probs(model: Any, indices: list[int]) -> tuple[Tensor, Tensor]:
    rows = [PAIRS.pair(index) for index in indices]
    sides = [[log_prob(model, row[0], row[side]) for row in rows] for side in (1, 2)]
    return torch.stack(sides[0]), torch.stack(sides[1])


def dpo(policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
    margin = policy[0] - reference[0] - policy[1] + reference[1]
    return -logsigmoid(BETA * margin)


def aot(policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
    ours, theirs = ((one - other).sort().values for one, other in (policy, reference))
    return -logsigmoid(BETA * (ours - theirs))


@pytest.mark.parametrize("pairs_per_pass", [0, 3])
@pytest.mark.parametrize(("name", "formula"), [("dpo", dpo), ("aot", aot)])
def test_gradient_is_that_of_the_mean_loss_of_the_steps_pairs(
    setup: Setup,
    tmp_path: Path,
    name: str,
    formula: Callable[[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor],
    pairs_per_pass: int,
) -> None:
    """Adam hides a wrong scale of the gradient; clipping and other optimizers do not."""
    loss = get_loss(name).at({"beta": BETA})
    trainer = setup.trainer(tmp_path, loss, settings={"pairs_per_pass": pairs_per_pass})
    model, indices = setup.backend.model, list(trainer.update.order[0])
    model.zero_grad()
    values = trainer.update.gradient(indices).tolist()
    sums = dict(zip(PAIR_METRICS, values, strict=True))
    found = [parameter.grad.clone() for parameter in model.parameters()]

    with torch.no_grad():
        reference = log_probs(setup.reference.backend.model, indices)
    policy = log_probs(model, indices)
    losses = formula(policy, reference)
    expected = torch.autograd.grad(losses.mean(), list(model.parameters()))
    size = torch.stack([one.norm() for one in expected]).norm()
    assert size > 0.1
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 1e-4 * size
    assert sums["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    ratios = [(one - other).mean().item() for one, other in zip(policy, reference, strict=True)]
    assert sums["chosen_logratio"] == pytest.approx(ratios[0], rel=1e-4)
    assert sums["rejected_logratio"] == pytest.approx(ratios[1], rel=1e-4)
