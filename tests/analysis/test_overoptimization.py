from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.calibration.simulate import hump
from dpo_bench.analysis.bootstrap import resample_weights
from dpo_bench.analysis.overoptimization import fit_overoptimization
from dpo_bench.analysis.points import Point

PROMPTS = 64
WEIGHTS = resample_weights(PROMPTS, 500, seed=0)
KLS = (0.1, 0.4, 1.0, 2.5, 6.0, 12.0, 20.0)
REFERENCE = np.linspace(-1, 1, PROMPTS)


def _exact(alpha: float, beta: float, kls: tuple[float, ...] = KLS) -> list[Point]:
    """Policies that lie on the curve, above a reference whose prompts differ."""
    return [
        Point(np.full(PROMPTS, kl), REFERENCE + math.sqrt(kl) * (alpha - beta * math.log(kl) / 2))
        for kl in kls
    ]


def test_curve_is_found_where_it_is_exact() -> None:
    found = fit_overoptimization(_exact(0.75, 0.4), REFERENCE, WEIGHTS)
    assert [one.value for one in found.gao.coefficients] == pytest.approx([0.75, 0.4])
    assert found.gao.rmse == pytest.approx(0, abs=1e-12)
    assert found.peak is not None
    assert found.peak.value == pytest.approx(math.exp(2 * (0.75 / 0.4 - 1)))
    assert found.gao.reason == ""
    assert not found.gao.open_low
    assert not found.gao.open_high
    assert not found.gao.misfit
    assert found.best is found.gao


def test_peak_is_where_the_curve_is_highest() -> None:
    found = fit_overoptimization(_exact(0.6, 0.35), REFERENCE, WEIGHTS)
    grid = np.linspace(0.5, 4, 200_001)
    highest = grid[np.argmax(grid * (0.6 - 0.35 * np.log(grid)))]
    assert found.peak is not None
    assert found.peak.value == pytest.approx(highest**2, rel=1e-3)


def test_residuals_are_those_of_least_squares() -> None:
    found = fit_overoptimization(_exact(0.75, 0.4), REFERENCE, WEIGHTS)
    kl = np.array(KLS)
    gain = np.sqrt(kl) * (0.75 - 0.2 * np.log(kl))
    assert [one.name for one in found.forms] == ["gao", "quadratic_distance", "quadratic_kl"]
    for form, variable in ((found.forms[1], np.sqrt(kl)), (found.forms[2], kl)):
        columns = np.stack([variable, variable**2], axis=1)
        fit, *_ = np.linalg.lstsq(columns, gain)
        assert [one.value for one in form.coefficients] == pytest.approx(fit)
        residuals = gain - columns @ fit
        assert [one.value for one in form.residuals] == pytest.approx(residuals)
        assert form.rmse == pytest.approx(np.sqrt(np.mean(residuals**2)))
    assert found.gao.rmse < found.forms[1].rmse < found.forms[2].rmse


@pytest.mark.parametrize(
    ("alpha", "beta", "reason"),
    [
        (0.6, 0.0, "rises up to KL 20"),
        (0.9, 0.1, "rises"),
        (-0.5, 0.2, "falls from KL 0.1"),
        # beta below 0, a curve that bends upwards: at its ends -.34 and 1.11, or -.23 and -.90
        (-0.5, -0.5, "rises up to KL 20"),
        (-0.5, -0.2, "falls from KL 0.1"),
    ],
)
def test_without_a_peak_inside_the_range_it_says_so(alpha: float, beta: float, reason: str) -> None:
    found = fit_overoptimization(_exact(alpha, beta), REFERENCE, WEIGHTS)
    assert found.peak is None
    assert found.range is None
    assert reason in found.gao.reason


def test_peak_beyond_the_policies_is_not_extrapolated() -> None:
    assert fit_overoptimization(_exact(0.75, 0.4), REFERENCE, WEIGHTS).peak is not None
    found = fit_overoptimization(_exact(0.75, 0.4, KLS[:4]), REFERENCE, WEIGHTS)
    assert found.peak is None
    assert found.gao.open_high


def test_noisy_peak_near_the_end_has_an_open_interval() -> None:
    # the curve peaks at KL 17.4 of at most 20
    points, reference = hump(np.random.default_rng(0), 0.85, 0.35, PROMPTS, 1)
    found = fit_overoptimization(points, reference, WEIGHTS)
    assert found.gao.open_high
    assert not found.gao.open_low
    if found.peak is not None:
        assert found.peak.high <= points[-1].mean_kl * (1 + 1e-9)


def test_several_seeds_are_in_the_interval() -> None:
    points, reference = hump(np.random.default_rng(0), 0.75, 0.4, PROMPTS, 3)
    found = fit_overoptimization(points, reference, WEIGHTS)
    still = [Point(one.kl.mean(axis=0), one.reward.mean(axis=0)) for one in points]
    alone = fit_overoptimization(still, reference, WEIGHTS)
    assert (found.seeds, alone.seeds) == (3, 1)
    wide, narrow = found.gao.coefficients[0], alone.gao.coefficients[0]
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > narrow.high - narrow.low


def test_same_inputs_give_the_same_bytes() -> None:
    points, reference = hump(np.random.default_rng(0), 0.75, 0.4, PROMPTS, 2)
    assert fit_overoptimization(points, reference, WEIGHTS) == fit_overoptimization(
        points, reference, WEIGHTS
    )


def test_too_few_policies_are_refused() -> None:
    for points in (_exact(0.75, 0.4)[:2], [_exact(0.75, 0.4)[0]] * 3):
        with pytest.raises(ValueError, match="three policies"):
            fit_overoptimization(points, REFERENCE, WEIGHTS)


def _noisy(gain: Callable[[float], float], noise: float, seeds: int = 1) -> list[Point]:
    """Policies whose mean gain misses a curve by the error of their prompts' values alone."""
    generator = np.random.default_rng(3)
    return [
        Point(
            np.full((seeds, PROMPTS), kl),
            REFERENCE + gain(kl) + noise * generator.normal(size=(seeds, PROMPTS)),
        )
        for kl in KLS
    ]


def _quadratic_distance(kl: float) -> float:
    """1.2 d - .15 d^2, largest at d = 4, KL 16."""
    return 1.2 * math.sqrt(kl) - 0.15 * kl


def _quadratic_kl(kl: float) -> float:
    """.3 KL - .015 KL^2, largest at KL 10."""
    return 0.3 * kl - 0.015 * kl**2


@pytest.mark.parametrize(
    ("truth", "name", "peak"),
    [(_quadratic_distance, "quadratic_distance", 16.0), (_quadratic_kl, "quadratic_kl", 10.0)],
)
def test_another_form_is_found_where_it_is_the_truth(
    truth: Callable[[float], float], name: str, peak: float
) -> None:
    found = fit_overoptimization(_noisy(truth, 0.05), REFERENCE, WEIGHTS)
    assert found.best.name == name
    assert not found.best.misfit
    assert found.best.peak is not None
    assert found.best.peak.low < peak < found.best.peak.high
    # Gao's form misses these policies by far more than their errors, and does not count
    assert found.gao.misfit
    assert not found.gao.comparable
    assert found.range is not None
    assert found.range.low <= peak <= found.range.high


def test_forms_that_fit_alike_make_a_range() -> None:
    # between two curves: neither form is right, and both miss it about as much
    def between(kl: float) -> float:
        return 0.4 * math.sqrt(kl) * (0.75 - 0.2 * math.log(kl)) + 0.36 * _quadratic_distance(kl)

    found = fit_overoptimization(_noisy(between, 0.02), REFERENCE, WEIGHTS)
    gao, other, _ = found.forms
    assert gao.comparable
    assert other.comparable
    assert gao.peak is not None
    assert other.peak is not None
    assert found.range is not None
    assert [found.range.first, found.range.last] == sorted([gao.peak.value, other.peak.value])
    assert found.range.last - found.range.first > 0.5
    assert found.range.low <= min(gao.peak.low, other.peak.low)
    assert found.range.high >= max(gao.peak.high, other.peak.high)


def test_a_form_that_does_not_count_leaves_the_range_alone() -> None:
    found = fit_overoptimization(_exact(0.75, 0.4), REFERENCE, WEIGHTS)
    assert [one.comparable for one in found.forms] == [True, False, False]
    assert found.range is not None
    assert found.peak is not None
    assert found.range.first == found.range.last == found.peak.value
    assert all(one.misfit for one in found.forms[1:])


def test_errors_as_large_as_the_misfit_let_every_form_count() -> None:
    found = fit_overoptimization(_noisy(_quadratic_distance, 20.0), REFERENCE, WEIGHTS)
    assert not any(one.misfit for one in found.forms)
    assert all(one.comparable for one in found.forms)


def test_a_counting_form_without_a_peak_leaves_the_range_open() -> None:
    # it turns so late that one form has its peak inside the range and another has not
    found = fit_overoptimization(_noisy(_quadratic_distance, 1.0), REFERENCE, WEIGHTS)
    without = [one for one in found.forms if one.comparable and one.peak is None]
    assert without
    assert found.range is not None
    assert found.range.open_high
    assert found.range.high == pytest.approx(KLS[-1])


def test_policies_on_a_curve_are_seldom_called_a_misfit() -> None:
    generator, weights, wrong = np.random.default_rng(0), resample_weights(PROMPTS, 2000, 0), 0
    for _ in range(40):
        points, reference = hump(generator, 0.75, 0.4, PROMPTS, 1)
        wrong += fit_overoptimization(points, reference, weights).gao.misfit
    # at most 5% and two standard errors
    assert wrong <= 40 * (0.05 + 2 * math.sqrt(0.05 * 0.95 / 40))
