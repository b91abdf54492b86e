"""Losses compared at equal KL, against truths that are put in and against a mixed model."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from benchmarks.calibration.simulate import Losses
from dpo_bench.analysis.comparisons import (
    ONE_RUN,
    ONE_SEED,
    WIDE_BRACKET,
    Comparison,
    Family,
    compare_losses,
    loss_value,
)
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import Reading, curves_in_common
from dpo_bench.analysis.run_variance import run_variance


def family(curves: Curves, levels: tuple[float, ...] = (3.0,), **options: object) -> Family:
    return compare_losses(curves_in_common(curves), levels, **options)  # type: ignore[arg-type]


def at_one_kl(
    heights: tuple[float, ...], seeds: int, prompts: int, *, run: float = 0.0, seed: int = 0
) -> Curves:
    """Losses of one strength, all at KL 3: nothing has to be read between policies."""
    generator = np.random.default_rng(seed)
    ease = generator.normal(0, 1, prompts)
    common = generator.normal(0, 0.1, (seeds, 1))
    return {
        str(index): [
            Point(
                np.full((seeds, prompts), 3.0),
                height
                + ease
                + common
                + run * generator.normal(0, 1, (seeds, 1))
                + generator.normal(0, 0.2, prompts)
                + generator.normal(0, 0.4, (seeds, prompts)),
            )
        ]
        for index, height in enumerate(heights)
    }


def test_one_seed_is_the_paired_t_test_over_prompts_and_speaks_of_policies() -> None:
    curves = at_one_kl((0.0, 0.2), 1, 100)
    (one,) = family(curves, draws=20_000).all
    ours, theirs = (curves[name][0].reward[0] for name in ("0", "1"))
    expected = stats.ttest_rel(ours, theirs).confidence_interval()
    assert one.difference.value == pytest.approx(float((ours - theirs).mean()))
    assert (one.difference.low, one.difference.high) == pytest.approx(
        (expected.low, expected.high), abs=0.004
    )
    assert (one.verdict, one.policies, one.reason) == ("open", "worse", ONE_SEED)


def test_what_a_seed_does_to_all_losses_cancels() -> None:
    """The common deviation is .1; that of the runs is 0."""
    (one,) = family(at_one_kl((0.0, 0.1), 5, 400)).all
    assert one.spread is not None
    assert one.spread.runs < 0.02
    assert one.verdict == "worse"
    assert one.band.low < -0.1 < one.band.high


def test_intervals_are_never_below_what_prompts_alone_give() -> None:
    for seed in range(20):
        curves = at_one_kl((0.0, 0.0), 3, 64, seed=seed)
        (one,) = family(curves, draws=2000, seed=seed).all
        gaps = curves["0"][0].reward.mean(axis=0) - curves["1"][0].reward.mean(axis=0)
        half = gaps.std(ddof=1) / 8
        assert one.spread is not None
        assert one.spread.total >= half * (1 - 1e-9)
        assert one.difference.high - one.difference.low > 2 * 1.7 * half


def restricted_likelihood(gaps: np.ndarray, components: np.ndarray) -> tuple[float, float]:
    """-2 log REML of a mean with crossed prompts and seeds, and the variance of the mean."""
    seeds, prompts = gaps.shape
    of_prompt, of_seed, rest = components
    covariance = np.kron(np.ones((seeds, seeds)), of_prompt * np.eye(prompts))
    covariance += np.kron(of_seed * np.eye(seeds), np.ones((prompts, prompts)))
    covariance += rest * np.eye(gaps.size)
    inverse = np.linalg.inv(covariance)
    ones = np.ones(gaps.size)
    information = float(ones @ inverse @ ones)
    left = gaps.ravel() - float(ones @ inverse @ gaps.ravel()) / information
    determinant = float(np.linalg.slogdet(covariance)[1])
    return determinant + math.log(information) + float(left @ inverse @ left), 1 / information


def test_the_whole_agrees_with_a_mixed_model() -> None:
    """The differences of two losses as mean + prompt + seed + rest, by restricted likelihood."""
    curves = at_one_kl((0.0, 0.1), 5, 24, run=0.15, seed=4)
    (found,) = family(curves).all
    gaps = curves["0"][0].reward - curves["1"][0].reward
    fitted = optimize.minimize(  # type: ignore[call-overload]
        lambda logs: restricted_likelihood(gaps, np.exp(logs))[0],
        np.log([0.05, 0.05, 0.3]),
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000},
    )
    components = np.exp(fitted.x)
    assert min(components) > 1e-4  # inside: there the two agree
    assert found.spread is not None
    error = math.sqrt(restricted_likelihood(gaps, components)[1])
    assert found.spread.total == pytest.approx(error, rel=5e-3)
    assert found.spread.runs**2 == pytest.approx(components[1] / 5, rel=2e-2)
    assert found.spread.prompts**2 == pytest.approx(components[0] / 24, rel=5e-2)
    assert found.spread.responses**2 == pytest.approx(components[2] / (5 * 24), rel=5e-2)


def test_pooling_lets_few_seeds_decide() -> None:
    """Twenty settings tell the run-to-run variance that two losses of one strength cannot."""
    losses = Losses((0.0, 0.12, 0.0, 0.0), seeds=2, seed_deviation=0.02)
    decided = [
        any(one.verdict == "better" for one in family(losses.draw(generator), baseline="0").all)
        for generator in map(np.random.default_rng, range(10))
    ]
    assert sum(decided) >= 7


def test_a_family_has_one_critical_value_and_more_comparisons_a_larger_one() -> None:
    curves = Losses((0.0,) * 5).draw(np.random.default_rng(3))
    few = family(curves, (3.0,), baseline="0")
    many = family(curves, (1.2, 3.0, 6.0))
    assert 2.0 < few.critical < many.critical
    for one in many.all:
        assert one.band.low <= one.difference.low <= one.difference.high <= one.band.high
        assert (one.p_value < 0.05) == (one.at_least > 0)


def test_same_takes_a_margin_and_open_is_neither() -> None:
    curves = at_one_kl((0.0, 0.0), 4, 2000)
    verdicts = {
        margin: family(curves, same_within=margin).all[0].verdict for margin in (None, 0.001, 0.2)
    }
    assert verdicts == {None: "open", 0.001: "open", 0.2: "same"}


def test_swapping_the_losses_turns_the_verdict() -> None:
    curves = at_one_kl((0.0, 0.3), 3, 200)
    (one,) = family(curves).all
    (other,) = family({name: curves[name] for name in ("1", "0")}).all
    assert (one.verdict, other.verdict) == ("worse", "better")
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert (one.at_least, one.at_most) == pytest.approx((other.at_least, other.at_most), rel=0.05)


def two_strengths(gap: float, rise: float) -> Comparison:
    """Losses with policies at KL .1 and 9 alone, ``gap`` apart at 9, read at 8."""
    generator = np.random.default_rng(0)

    def point(kl: float, reward: float) -> Point:
        noise = 1e-3 * generator.normal(size=(3, 50))
        return Point(np.full((3, 50), kl), reward + noise)

    curves = {
        "a": [point(0.1, 0.0), point(9.0, rise)],
        "b": [point(0.1, 0.0), point(9.0, rise + gap)],
    }
    (found,) = family(curves, (8.0,)).all
    return found


def test_a_wide_bracket_withholds_a_verdict_that_the_band_would_give() -> None:
    """The more the curves rise between their policies, the less is known of what lies there."""
    sure, doubtful = two_strengths(0.4, 0.5), two_strengths(0.4, 1.0)
    for one in (sure, doubtful):
        assert one.p_value < 0.05
        assert one.at_least > 0
    assert (sure.verdict, sure.reason) == ("worse", "")
    assert sure.bias_bound <= 0.5 * abs(sure.difference.value)
    assert (doubtful.verdict, doubtful.policies, doubtful.reason) == ("open", "open", WIDE_BRACKET)
    assert doubtful.bias_bound > 0.5 * abs(doubtful.difference.value)


def test_runs_of_which_only_the_mean_is_known() -> None:
    one_run = {name: [Point([[3.0]], [[value]])] for name, value in (("a", 0.1), ("b", 0.4))}
    (found,) = family(one_run, prompts_known=False).all
    assert (found.verdict, found.reason) == ("open", ONE_RUN)
    assert math.isnan(found.difference.low)
    generator = np.random.default_rng(0)
    several = {
        name: [Point(np.full((4, 1), 3.0), value + generator.normal(0, 0.01, (4, 1)))]
        for name, value in (("a", 0.1), ("b", 0.4))
    }
    (found,) = family(several, prompts_known=False).all
    assert found.verdict == "worse"
    assert found.spread is not None
    assert math.isnan(found.spread.prompts)


def test_losses_that_do_not_cover_a_kl_are_missing_with_the_reason() -> None:
    curves = Losses((0.0, 0.0)).draw(np.random.default_rng(1))
    (one,) = family(curves, (40.0,)).all
    assert math.isnan(one.difference.value)
    assert "spans KL" in one.reason
    assert not one.compared


def test_shares_stay_between_0_and_1_and_keep_a_width() -> None:
    point = Point(np.full((2, 40), 3.0), np.ones((2, 40)))
    curves = curves_in_common({"a": [point], "b": [point]})
    reading = curves["a"].read(3.0)
    assert isinstance(reading, Reading)
    found = loss_value(reading, run_variance(curves), share=True)
    assert found.high == 1.0
    assert 0.85 < found.low < 0.95


def test_the_same_numbers_give_the_same_bytes() -> None:
    curves = Losses((0.0, 0.1, 0.0)).draw(np.random.default_rng(2))
    first, second = (family(curves, (1.2, 3.0)).all for _ in range(2))
    assert first == second
    others = family(curves, (1.2, 3.0), seed=1).all
    pairs: itertools.chain[tuple[Comparison, Comparison]] = itertools.chain(
        zip(first, others, strict=True)
    )
    assert all(a.difference.value == b.difference.value for a, b in pairs)
