"""Values and gradients of every loss against its formula in 60 digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import mpmath as mp
import pytest
import torch
from torch import Tensor

from dpo_bench import PairLogps, get_loss
from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.testing.example_pairs import extreme_pairs, ordinary_pairs, supplied
from tests.losses.formulas import FORMULAS, OF_THE_BATCH, Pair, pairs_of
from tests.losses.pairs import gradients

NAMES = sorted(FORMULAS)


@pytest.fixture(autouse=True)
def _digits() -> Iterator[None]:
    with mp.workdps(60):
        yield


AUTHORS_CODE: dict[str, list[dict[str, float]]] = {
    "cal_dpo": [{"beta": 0.002, "calibration_weight": 0.5}],
    "exo": [{"label_smoothing": math.exp(-10), "label_normalization": 0.0}],
    "odpo": [
        {"alpha": 0.0, "log_alpha": 1.0},
        {"beta": 0.7, "alpha": 0.0, "log_alpha": 0.5},
        {"alpha": 2.0, "log_alpha": 0.3},
    ],
}
"""Variants that the authors of a loss trained with, besides the equation of their paper."""


def settings(name: str) -> list[dict[str, float]]:
    """The defaults, both ends of the grid, and variants."""
    loss = get_loss(name)
    if loss.strength is None:
        return [{}]
    strengths = (loss.hyperparameters[loss.strength], min(loss.grid), max(loss.grid))
    given = [{loss.strength: value} for value in strengths] + AUTHORS_CODE.get(name, [])
    return [loss.resolve(values) for values in given]


def evaluate(name: str, pairs: list[Pair], hyperparameters: dict[str, float]) -> list[mp.mpf]:
    exact = {key: mp.mpf(value) for key, value in hyperparameters.items()}
    if name in OF_THE_BATCH:
        found: list[mp.mpf] = FORMULAS[name](pairs, **exact)
        return found
    return [FORMULAS[name](pair, **exact) for pair in pairs]


def expected(name: str, logps: PairLogps, hyperparameters: dict[str, float]) -> Tensor:
    values = evaluate(name, pairs_of(logps), hyperparameters)
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def test_every_shipped_loss_has_a_formula_of_its_own() -> None:
    assert shipped_losses() == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param(lambda: supplied(ordinary_pairs()).at_reference(), id="margin 0"),
        pytest.param(lambda: supplied(ordinary_pairs()), id="ordinary"),
        pytest.param(lambda: supplied(extreme_pairs()), id="extreme"),
    ],
)
def test_value_is_the_formula(name: str, pairs: Callable[[], PairLogps]) -> None:
    for hyperparameters in settings(name):
        logps = pairs()
        torch.testing.assert_close(
            get_loss(name)(logps, **hyperparameters),
            expected(name, logps, hyperparameters),
            rtol=1e-11,
            atol=1e-11,
        )


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_formulas_derivative(name: str) -> None:
    for hyperparameters in settings(name):
        logps = supplied(ordinary_pairs())
        found = gradients(name, logps, **hyperparameters)
        for letter, gradient in zip(("p_w", "p_l"), found, strict=True):
            pairs = pairs_of(logps)
            wanted = [
                derivative(name, pairs, place, letter, hyperparameters)
                for place in range(len(pairs))
            ]
            torch.testing.assert_close(
                gradient, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12
            )


def derivative(
    name: str, pairs: list[Pair], place: int, letter: str, hyperparameters: dict[str, float]
) -> float:
    """Central difference with a step of 1e-20 in 60 digits: exact to double precision."""
    step = mp.mpf(10) ** -20
    # A loss that does not couple pairs is looked at alone, which is quicker.
    first, last = (0, len(pairs)) if name in OF_THE_BATCH else (place, place + 1)

    def moved(shift: mp.mpf) -> mp.mpf:
        pair = replace(pairs[place], **{letter: getattr(pairs[place], letter) + shift})
        changed = [*pairs[:place], pair, *pairs[place + 1 :]][first:last]
        return sum(evaluate(name, changed, hyperparameters))

    return float((moved(step) - moved(-step)) / (2 * step))
