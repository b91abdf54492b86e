"""The length-controlled win rate against other solvers, known truths and public figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, special

from dpo_bench.analysis.bootstrap import Array, bootstrap_mean, resample_weights
from dpo_bench.analysis.length_control import (
    RIDGE,
    Difficulty,
    length_controlled,
    length_controlled_leaderboard,
    length_term,
    prompt_difficulty,
)

PROMPTS = 80
WEIGHTS = resample_weights(PROMPTS, 300, seed=0)
EDGE = math.tanh(1)


def _drawn(theta: float, phi: float, prompts: int = PROMPTS, each: int = 2) -> tuple[Array, Array]:
    """Wins and length differences [prompts, each] of the model itself."""
    generator = np.random.default_rng(0)
    longer = generator.normal(5, 10, (prompts, each))
    chance = special.expit(theta + phi * np.tanh(longer / longer.std()))
    return (generator.random((prompts, each)) < chance).astype(float), longer


def _cost(logit: Array, won: Array) -> float:
    return float((np.logaddexp(0, logit) - won * logit).sum())


def _tie(theta: float, phi: float) -> float:
    """One prompt's worth of ties, half of it at each length."""
    ends = np.array([theta - phi * EDGE, theta + phi * EDGE])
    return _cost(ends, np.array([0.5, 0.5])) / 2


def test_alone_it_is_the_maximum_of_the_likelihood_with_one_tie() -> None:
    won, longer = _drawn(0.3, 1.0, each=1)
    x = np.tanh(longer / longer.std(ddof=1))

    def loss(given: Any) -> float:
        theta, phi = given
        return _cost(theta + phi * x, won) + _tie(theta, phi)

    theta, phi = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    found = length_controlled(won, longer, WEIGHTS)
    assert found.controlled.value == pytest.approx(special.expit(theta), abs=1e-5)
    assert found.length_effect.value == pytest.approx(phi, abs=1e-4)


def test_among_others_it_is_pulled_to_what_they_share() -> None:
    """Another solver finds the same maximum, with the ridge written out as a normal prior."""
    won, longer = _drawn(0.3, 1.0, each=1)
    random = np.random.default_rng(1)
    hardness = random.normal(size=PROMPTS)
    shared = Difficulty(hardness, 1.0, 0.7, np.zeros(PROMPTS), 9)
    x = np.tanh(longer / longer.std(ddof=1))[:, 0]

    def loss(given: Any) -> float:
        theta, phi, psi = given
        pull = (x**2).sum() * (phi - 0.7) ** 2 + (hardness**2).sum() * (psi - 1) ** 2
        games = _cost(theta + phi * x + psi * hardness, won[:, 0])
        return float(games + _tie(theta, phi) + RIDGE / 4 * pull / 2)

    theta, phi, psi = optimize.minimize(loss, np.array([0.0, 0.7, 1.0]), tol=1e-12).x
    found = length_controlled(won, longer, WEIGHTS, shared)
    expected = special.expit(theta + psi * hardness).mean()
    assert found.controlled.value == pytest.approx(expected, abs=1e-5)
    assert found.length_effect.value == pytest.approx(phi, abs=1e-4)


def test_length_that_wins_is_taken_out() -> None:
    won, longer = _drawn(0.0, 2.0, prompts=900)
    found = length_controlled(won, longer, resample_weights(900, 20, 0))
    assert found.raw.value > 0.6
    assert found.controlled.value == pytest.approx(0.5, abs=0.04)
    assert found.length_effect.value == pytest.approx(2.0, abs=0.3)
    assert found.extra_length.value == pytest.approx(5, abs=1)


def test_raw_is_the_mean_with_its_interval() -> None:
    won, longer = _drawn(0.3, 1.0)
    raw, plain = length_controlled(won, longer, WEIGHTS).raw, bootstrap_mean(won.mean(1), WEIGHTS)
    assert [raw.value, raw.low, raw.high] == pytest.approx([plain.value, plain.low, plain.high])


def test_equal_lengths_leave_the_win_rate_but_for_the_tie() -> None:
    won, _ = _drawn(0.3, 1.0)
    found = length_controlled(won, np.zeros_like(won), WEIGHTS)
    expected = (won.mean() * PROMPTS + 0.5) / (PROMPTS + 1)
    assert found.controlled.value == pytest.approx(expected, abs=1e-6)
    assert found.length_effect.value == pytest.approx(0, abs=1e-6)


def test_swapping_the_sides_turns_it_over() -> None:
    won, longer = _drawn(0.3, 1.0)
    one, other = (
        length_controlled(won, longer, WEIGHTS),
        length_controlled(1 - won, -longer, WEIGHTS),
    )
    assert one.controlled.value == pytest.approx(1 - other.controlled.value, abs=1e-3)
    assert one.controlled.low == pytest.approx(1 - other.controlled.high, abs=1e-3)


def test_unit_of_length_does_not_matter() -> None:
    won, longer = _drawn(0.3, 1.0)
    one, other = (
        length_controlled(won, longer, WEIGHTS),
        length_controlled(won, 8 * longer, WEIGHTS),
    )
    assert one.controlled.low == pytest.approx(other.controlled.low, abs=1e-9)


@pytest.mark.parametrize("always", ["wins", "wins when longer"])
def test_separable_wins_stay_finite(always: str) -> None:
    _, longer = _drawn(0.0, 0.0)
    won = np.ones_like(longer) if always == "wins" else (longer > 0).astype(float)
    found = length_controlled(won, longer, WEIGHTS)
    for figure in (found.controlled, found.length_effect):
        assert math.isfinite(figure.low)
        assert math.isfinite(figure.high)
    assert (found.controlled.value > 0.97) == (always == "wins")


def test_many_opponents_of_a_prompt_are_told_apart_by_their_lengths() -> None:
    """Length decides within prompts: the mean over opponents would show nothing of it."""
    random = np.random.default_rng(2)
    lengths = random.normal(0, 10, (60, 64))
    lengths -= lengths.mean(axis=1, keepdims=True)
    won = (random.random(lengths.shape) < special.expit(0.4 + 2 * np.tanh(lengths / 10))) * 1.0
    found = length_controlled(won, lengths, resample_weights(60, 50, 0))
    assert found.length_effect.value == pytest.approx(2.0, abs=0.15)
    assert found.controlled.value == pytest.approx(special.expit(0.4), abs=0.03)


def test_unanswered_comparisons_are_left_out() -> None:
    won, longer = _drawn(0.3, 1.0)
    won[:5] = np.nan
    won[7, 0] = np.nan
    found = length_controlled(won, longer, WEIGHTS)
    assert found.raw.value == pytest.approx(np.nanmean(np.nanmean(won[5:], axis=1)))
    assert math.isfinite(found.controlled.high)


def test_same_inputs_give_the_same_bytes() -> None:
    assert length_controlled(*_drawn(0.3, 1.0), WEIGHTS) == length_controlled(
        *_drawn(0.3, 1.0), WEIGHTS
    )


@pytest.mark.parametrize(
    ("won", "longer", "message"),
    [
        (np.ones((PROMPTS, 2)), np.ones((PROMPTS, 1)), "must both be"),
        (np.ones((3, 2)), np.ones((3, 2)), "80 prompts"),
        (np.full((PROMPTS, 1), 1.5), np.ones((PROMPTS, 1)), "outside 0 to 1"),
        (np.ones((PROMPTS, 1)), np.full((PROMPTS, 1), np.nan), "missing"),
        (np.full((PROMPTS, 1), np.nan), np.ones((PROMPTS, 1)), "no comparison"),
    ],
)
def test_impossible_input_is_refused(won: Array, longer: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        length_controlled(won, longer, WEIGHTS)


def _world(
    players: int, spread: float, seed: int = 0, prompts: int = 200
) -> tuple[Array, Array, Array]:
    """Binary wins and length terms [player, prompt], and the true difficulties."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, spread, prompts)
    longer = random.normal(4, 10, (players, prompts))
    terms = np.stack([length_term(one, np.ones(prompts)) for one in longer])
    chance = special.expit(random.normal(0, 1, players)[:, None] + 1.2 * terms + difficulty)
    return (random.random(chance.shape) < chance).astype(float), terms, difficulty


def test_difficulties_are_the_modes_of_their_prior() -> None:
    """The slope of the penalized likelihood is 0 in every coefficient, written out anew."""
    won, terms, _ = _world(6, 1.5)
    found = prompt_difficulty(won, terms)

    def slope(theta: Array, phi: float) -> tuple[Array, float]:
        miss = won - special.expit(theta[:, None] + phi * terms + found.values)
        ends = np.array([-EDGE, EDGE])
        tie = 0.5 * (0.5 - special.expit(theta[:, None] + phi * ends))
        return miss.sum(axis=1) + tie.sum(axis=1), float((miss * terms).sum() + (tie * ends).sum())

    def both(given: Any) -> Array:
        return np.append(*slope(given[:-1], given[-1]))

    solved = optimize.root(both, np.zeros(7), tol=1e-12).x
    assert found.length_effect == pytest.approx(solved[-1], abs=1e-5)
    miss = won - special.expit(solved[:-1, None] + solved[-1] * terms + found.values)
    ratio = miss.sum(axis=0) / found.values
    # gamma / variance = sum of misses / dispersion: one ratio for all prompts
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_spread_of_difficulties_is_found_with_many_players(spread: float) -> None:
    won, terms, truth = _world(30, spread)
    found = prompt_difficulty(won, terms)
    assert found.spread == pytest.approx(spread, abs=0.25)
    assert found.length_effect == pytest.approx(1.2, abs=0.2)
    assert found.players == 30
    if spread:
        assert np.corrcoef(found.values, truth)[0, 1] > 0.9


def test_few_players_pull_difficulties_back() -> None:
    for players in (2, 3):
        won, terms, truth = _world(players, 1.5)
        assert prompt_difficulty(won, terms).values.std() < 0.8 * truth.std()
        won, terms, _ = _world(players, 0.0)
        assert prompt_difficulty(won, terms).values.std() < 0.3


def test_one_player_has_no_difficulties() -> None:
    won, terms, _ = _world(1, 1.5)
    found = prompt_difficulty(won, terms)
    assert not found.values.any()
    assert (found.spread, found.players) == (0.0, 1)


def test_what_a_prompt_moved_is_what_leaving_it_out_undoes() -> None:
    won, terms, _ = _world(8, 1.0, prompts=120)
    whole = prompt_difficulty(won, terms)
    for prompt in (0, 17, 63):
        rest = np.arange(120) != prompt
        less = prompt_difficulty(won[:, rest], terms[:, rest])
        moved = whole.length_effect - less.length_effect
        assert moved == pytest.approx(whole.sway[prompt], abs=0.01)


def test_intervals_hold_the_truth_with_difficulties_of_several_trials() -> None:
    """Eight trials on prompts of unequal difficulty; the first one's win rate at equal length."""
    random = np.random.default_rng(3)
    truth = special.expit(0.3 + random.normal(0, 1.5, 200_000)).mean()
    held = []
    for seed in range(60):
        hard = random.normal(0, 1.5, 64)
        longer = random.normal(6, 10, (8, 64))
        terms = np.stack([length_term(one, np.ones(64)) for one in longer])
        level = np.append(0.3, random.normal(0.3, 0.5, 7))
        chance = special.expit(level[:, None] + terms + hard)
        won = (random.random(chance.shape) < chance).astype(float)
        shared = prompt_difficulty(won, terms)
        draws = resample_weights(64, 200, seed)
        found = length_controlled(won[0][:, None], longer[0][:, None], draws, shared).controlled
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.88  # 95% less three standard errors of 60 trials


PUBLIC = np.load(Path(__file__).parents[1] / "reproduce/data/alpaca_eval/annotations.npz")
PREFERENCE = PUBLIC["preference"].astype(float)


def test_published_figures_of_alpaca_eval_are_met() -> None:
    """Mean and worst difference on 15 models of the public leaderboard, percentage points."""
    found = length_controlled_leaderboard(PREFERENCE, PUBLIC["length_difference"])
    published = PUBLIC["published_lc"]
    apart = np.abs(found - published)[~np.isnan(published)]
    assert len(apart) == 15
    assert apart.mean() < 0.5
    assert apart.max() < 1.0
    assert found[list(PUBLIC["names"]).index("gpt4_1106_preview")] == 50.0


def test_a_leaderboard_is_the_sweeps_model() -> None:
    own = PUBLIC["names"] == "gpt4_1106_preview"
    won, longer = PREFERENCE[~own], PUBLIC["length_difference"][~own]
    board = length_controlled_leaderboard(won, longer)
    terms = [length_term(*one) for one in zip(longer, ~np.isnan(won), strict=True)]
    shared = prompt_difficulty(won, np.stack(terms))
    draws = resample_weights(won.shape[1], 5, 0)
    found = length_controlled(won[3][:, None], longer[3][:, None], draws, shared)
    assert 100 * found.controlled.value == pytest.approx(board[3], abs=1e-4)


def test_a_leaderboard_takes_out_what_length_put_in() -> None:
    """Models of known strength on instructions of known difficulty, some of which write more."""
    random = np.random.default_rng(0)
    strength = np.linspace(-1.5, 1.5, 12)
    difficulty = random.normal(size=400)
    extra = random.normal(np.where(np.arange(12) % 2, 300.0, 0.0)[:, None], 200.0, (12, 400))
    deviation = extra.std(axis=1, ddof=1, keepdims=True)
    logit = strength[:, None] + 0.8 * np.tanh(extra / deviation) + difficulty
    found = length_controlled_leaderboard(1 / (1 + np.exp(-logit)), extra)
    truth = 100 / (1 + np.exp(-(strength[:, None] + difficulty)))
    np.testing.assert_allclose(found, truth.mean(axis=1), atol=0.5)
    raw = 100 / (1 + np.exp(-logit))
    assert np.abs(raw.mean(axis=1) - truth.mean(axis=1)).max() > 10


def test_missing_preferences_are_left_out_and_wrong_ones_refused() -> None:
    random = np.random.default_rng(1)
    preference, longer = random.uniform(size=(4, 60)), random.normal(size=(4, 60))
    holes = preference.copy()
    holes[:, ::7] = np.nan
    assert np.isfinite(length_controlled_leaderboard(holes, longer)).all()
    for wrong, message in (
        (preference[:, :5], "must both be"),
        (preference + 1, "outside 0 to 1"),
        (np.full_like(preference, np.nan), "no preference at all"),
    ):
        with pytest.raises(ValueError, match=message):
            length_controlled_leaderboard(wrong, longer)


@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
def test_players_that_all_come_out_alike_stay_finite(outcome: float) -> None:
    """No scatter at all: neither a dispersion nor a difficulty of 0 may divide anything."""
    longer = np.random.default_rng(5).normal(size=(5, 12))
    terms = np.stack([length_term(one, np.ones(12)) for one in longer])
    won = np.full((5, 12), outcome)
    found = prompt_difficulty(won, terms)
    draws = resample_weights(12, 20, 0)
    fitted = length_controlled(won[0][:, None], longer[0][:, None], draws, found).controlled
    assert fitted.value == pytest.approx((outcome * 12 + 0.5) / 13, abs=0.05)
    assert 0 <= fitted.low <= fitted.high <= 1


def test_one_answered_prompt_of_many_is_enough() -> None:
    won = np.full((6, 1), np.nan)
    won[2] = 1.0
    found = length_controlled(won, np.arange(6.0)[:, None], resample_weights(6, 40, 0))
    assert found.raw.value == 1.0
    assert (found.raw.low, found.raw.high) == (1.0, 1.0)
