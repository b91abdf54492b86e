from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special

from dpo_bench.analysis.bootstrap import Array, bootstrap_mean, resample_weights
from dpo_bench.analysis.length_control import (
    LABEL,
    length_controlled,
    length_controlled_leaderboard,
)

PROMPTS = 80
WEIGHTS = resample_weights(PROMPTS, 500, seed=0)


def _drawn(theta: float, phi: float, prompts: int = PROMPTS) -> tuple[Array, Array]:
    """Wins and length differences [prompts, 2] of the model itself."""
    generator = np.random.default_rng(0)
    longer = generator.normal(5, 10, (prompts, 2))
    chance = special.expit(theta + phi * np.tanh(longer / longer.std()))
    return (generator.random((prompts, 2)) < chance).astype(float), longer


def test_is_the_maximum_of_the_likelihood_with_one_tie() -> None:
    won, longer = _drawn(0.3, 1.0)
    x, edge = np.tanh(longer / longer.std()), math.tanh(1)

    def loss(parameters: Array) -> float:
        theta, phi = parameters
        fits = theta + phi * x
        games = (np.logaddexp(0, fits) - won * fits).sum() / 2
        tie = sum(
            0.5 * np.logaddexp(0, one) - 0.25 * one
            for one in (theta - phi * edge, theta + phi * edge)
        )
        return float(games + tie)

    theta, phi = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    found = length_controlled(won, longer, WEIGHTS)
    assert found.controlled.value == pytest.approx(special.expit(theta), abs=1e-5)
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
    assert found.controlled.value == pytest.approx(expected, abs=1e-9)
    assert found.length_effect.value == pytest.approx(0, abs=1e-9)


def test_swapping_the_sides_turns_it_over() -> None:
    won, longer = _drawn(0.3, 1.0)
    one, other = (
        length_controlled(won, longer, WEIGHTS),
        length_controlled(1 - won, -longer, WEIGHTS),
    )
    assert one.controlled.value == pytest.approx(1 - other.controlled.value, abs=1e-9)
    assert one.controlled.low == pytest.approx(1 - other.controlled.high, abs=1e-9)


def test_unit_of_length_does_not_matter() -> None:
    won, longer = _drawn(0.3, 1.0)
    one, other = (
        length_controlled(won, longer, WEIGHTS),
        length_controlled(won, 7 * longer, WEIGHTS),
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


def test_same_inputs_give_the_same_bytes() -> None:
    assert length_controlled(*_drawn(0.3, 1.0), WEIGHTS) == length_controlled(
        *_drawn(0.3, 1.0), WEIGHTS
    )


def test_is_named_for_what_it_is() -> None:
    assert "tanh + constant" in LABEL


@pytest.mark.parametrize(
    ("won", "longer", "message"),
    [
        (np.ones((PROMPTS, 2)), np.ones((PROMPTS, 1)), "must both be"),
        (np.ones((3, 2)), np.ones((3, 2)), "80 prompts"),
        (np.full((PROMPTS, 1), 1.5), np.ones((PROMPTS, 1)), "out of range"),
        (np.ones((PROMPTS, 1)), np.full((PROMPTS, 1), np.nan), "missing"),
    ],
)
def test_impossible_input_is_refused(won: Array, longer: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        length_controlled(won, longer, WEIGHTS)


PUBLIC = np.load(Path(__file__).parent / "data" / "alpaca_eval.npz")


def test_published_figures_of_alpaca_eval_are_met() -> None:
    """Mean and worst difference on 15 models of the public leaderboard, percentage points."""
    found = length_controlled_leaderboard(PUBLIC["preference"], PUBLIC["length_difference"])
    published = PUBLIC["published"]
    apart = np.abs(found - published)[~np.isnan(published)]
    assert len(apart) == 15
    assert apart.mean() < 1.0
    assert apart.max() < 2.0
    assert found[list(PUBLIC["names"]).index("gpt4_1106_preview")] == 50.0


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
    # The ridge leaves an eighth of what length puts in, and nothing where it puts in nothing.
    np.testing.assert_allclose(found[::2], truth.mean(axis=1)[::2], atol=0.2)
    np.testing.assert_allclose(found, truth.mean(axis=1), atol=1.5)
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
