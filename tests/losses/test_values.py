"""Values and gradients of every loss against its formula in 60 digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mpmath as mp
import pytest
import torch
from torch import Tensor

from dpo_bench import PairLogps, get_loss
from dpo_bench.catalogue import shipped_losses
from dpo_bench.contract.example_pairs import extreme_pairs, ordinary_pairs
from tests.losses.formulas import FORMULAS, Pair, pairs_of
from tests.losses.pairs import gradients

NAMES = sorted(FORMULAS)


@pytest.fixture(autouse=True)
def _digits() -> Iterator[None]:
    with mp.workdps(60):
        yield


def settings(name: str) -> list[dict[str, float]]:
    """The defaults, and both ends of the grid."""
    loss = get_loss(name)
    if loss.strength is None:
        return [{}]
    strengths = (loss.hyperparameters[loss.strength], min(loss.grid), max(loss.grid))
    return [loss.resolve({loss.strength: value}) for value in strengths]


def evaluate(name: str, pair: Pair, hyperparameters: dict[str, float]) -> mp.mpf:
    exact = {key: mp.mpf(value) for key, value in hyperparameters.items()}
    return FORMULAS[name](pair, **exact)


def expected(name: str, logps: PairLogps, hyperparameters: dict[str, float]) -> Tensor:
    values = [float(evaluate(name, pair, hyperparameters)) for pair in pairs_of(logps)]
    return torch.tensor(values, dtype=torch.float64)


def test_every_shipped_loss_has_a_formula_of_its_own() -> None:
    assert shipped_losses() == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param(lambda: ordinary_pairs().at_reference(), id="margin 0"),
        pytest.param(ordinary_pairs, id="ordinary"),
        pytest.param(extreme_pairs, id="extreme"),
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
        logps = ordinary_pairs()
        found = gradients(name, logps, **hyperparameters)
        for letter, gradient in zip(("p_w", "p_l"), found, strict=True):
            wanted = [derivative(name, pair, letter, hyperparameters) for pair in pairs_of(logps)]
            torch.testing.assert_close(
                gradient, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12
            )


def derivative(name: str, pair: Pair, letter: str, hyperparameters: dict[str, float]) -> float:
    """Central difference with a step of 1e-20 in 60 digits: exact to double precision."""
    step = mp.mpf(10) ** -20
    at = getattr(pair, letter)

    def moved(value: mp.mpf) -> mp.mpf:
        return evaluate(name, Pair(**(vars(pair) | {letter: value})), hyperparameters)

    return float((moved(at + step) - moved(at - step)) / (2 * step))
