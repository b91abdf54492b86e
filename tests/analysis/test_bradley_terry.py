from __future__ import annotations

import itertools
import math

import choix
import numpy as np
import pytest

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.bradley_terry import round_robin

PROMPTS = 50
WEIGHTS = resample_weights(PROMPTS, 400, seed=0)
NAMES = ["a", "b", "c", "d"]


def _wins(strengths: list[float], seed: int = 0) -> dict[tuple[str, str], Array]:
    generator = np.random.default_rng(seed)
    return {
        (NAMES[i], NAMES[j]): (
            generator.random((PROMPTS, 2)) < 1 / (1 + math.exp(strengths[j] - strengths[i]))
        ).mean(axis=1)
        for i, j in itertools.combinations(range(len(strengths)), 2)
    }


def _by_choix(wins: dict[tuple[str, str], Array], weights: Array) -> Array:
    """The fit to resampled games, one table at a time."""
    table = np.zeros((4, 4))
    for (first, second), shares in wins.items():
        i, j = NAMES.index(first), NAMES.index(second)
        won = float(weights @ shares)
        table[i, j], table[j, i] = PROMPTS * won + 0.5, PROMPTS * (1 - won) + 0.5
    found = choix.ilsr_pairwise_dense(table, tol=1e-12)
    return np.asarray(found - found.mean())


def test_strengths_are_those_of_choix() -> None:
    wins = _wins([1.0, 0.2, -0.3, -0.9])
    found = {one.name: one.strength.value for one in round_robin(NAMES, wins, WEIGHTS)}
    expected = _by_choix(wins, np.full(PROMPTS, 1 / PROMPTS))
    assert [found[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-8)


def test_every_resample_is_fitted_as_choix_fits_it() -> None:
    wins = _wins([1.0, 0.2, -0.3, -0.9])
    # an interval of hardly any width at the middle of the resamples is their median, but for the
    # correction of its bias; so compare the ends of a wide one with percentiles of choix's fits
    fits = np.array([_by_choix(wins, row) for row in WEIGHTS])
    for one in round_robin(NAMES, wins, WEIGHTS):
        low, high = np.quantile(fits[:, NAMES.index(one.name)], [0.025, 0.975])
        width = high - low
        assert one.strength.low == pytest.approx(low, abs=0.15 * width)
        assert one.strength.high == pytest.approx(high, abs=0.15 * width)


def test_strongest_is_first_and_the_mean_is_zero() -> None:
    found = round_robin(NAMES, _wins([-2.0, 1.0, 0.0, 2.0]), WEIGHTS)
    assert [one.name for one in found] == ["d", "b", "c", "a"]
    assert sum(one.strength.value for one in found) == pytest.approx(0, abs=1e-9)
    assert all(one.league == 0 for one in found)


def test_two_policies_differ_by_the_log_odds_with_one_tie() -> None:
    wins = {("a", "b"): np.r_[np.ones(30), np.full(10, 0.5), np.zeros(10)]}
    first, second = round_robin(["a", "b"], wins, WEIGHTS)
    difference = first.strength.value - second.strength.value
    assert difference == pytest.approx(math.log(35.5 / 15.5))


def test_turning_a_pair_round_changes_nothing() -> None:
    wins = _wins([1.0, 0.2, -0.3, -0.9])
    turned = {(b, a): 1 - shares for (a, b), shares in wins.items()}
    for one, other in zip(
        round_robin(NAMES, wins, WEIGHTS), round_robin(NAMES, turned, WEIGHTS), strict=True
    ):
        assert one.name == other.name
        assert one.strength.low == pytest.approx(other.strength.low, abs=1e-9)


def test_perfect_winner_has_a_finite_strength() -> None:
    wins = _wins([0.0, 0.0, 0.0, 0.0])
    for other in "bcd":
        wins["a", other] = np.ones(PROMPTS)
    best = round_robin(NAMES, wins, WEIGHTS)[0]
    assert best.name == "a"
    assert 3 < best.strength.value < 6
    assert math.isfinite(best.strength.high)


def test_policies_that_never_met_are_in_leagues_of_their_own() -> None:
    shares = np.full(PROMPTS, 0.75)
    found = round_robin([*NAMES, "e"], {("a", "b"): shares, ("c", "d"): shares}, WEIGHTS)
    assert [(one.name, one.league) for one in found] == [
        ("a", 0),
        ("b", 0),
        ("c", 1),
        ("d", 1),
        ("e", 2),
    ]
    assert found[4].strength.value == 0
    assert math.isnan(found[4].strength.low)


def test_chain_of_opponents_makes_one_league() -> None:
    shares = np.full(PROMPTS, 0.75)
    chain = {("d", "a"): shares, ("b", "d"): shares, ("b", "c"): shares}
    assert {one.league for one in round_robin(NAMES, chain, WEIGHTS)} == {0}


def test_same_inputs_give_the_same_bytes() -> None:
    wins = _wins([1.0, 0.2, -0.3, -0.9])
    assert round_robin(NAMES, wins, WEIGHTS) == round_robin(NAMES, wins, WEIGHTS)


@pytest.mark.parametrize(
    ("wins", "message"),
    [
        ({("a", "x"): np.ones(PROMPTS)}, "unknown"),
        ({("a", "a"): np.ones(PROMPTS)}, "of one policy"),
        ({("a", "b"): np.ones(PROMPTS), ("b", "a"): np.ones(PROMPTS)}, "given twice"),
        ({("a", "b"): np.full(PROMPTS, np.nan)}, "between 0 and 1"),
        ({("a", "b"): np.r_[np.ones(PROMPTS - 1), 1.01]}, "between 0 and 1"),
        ({("a", "b"): np.r_[np.ones(PROMPTS - 1), -0.01]}, "between 0 and 1"),
        ({("a", "b"): np.ones((PROMPTS, 1))}, r"must be \[prompts\]"),
    ],
)
def test_impossible_games_are_refused(wins: dict[tuple[str, str], Array], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_robin(NAMES, wins, WEIGHTS)
