from __future__ import annotations

import math

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
    assert found.alpha.value == pytest.approx(0.75)
    assert found.beta.value == pytest.approx(0.4)
    assert found.rmse == pytest.approx(0, abs=1e-12)
    assert found.peak is not None
    assert found.peak.value == pytest.approx(math.exp(2 * (0.75 / 0.4 - 1)))
    assert found.reason == ""
    assert not found.open_low
    assert not found.open_high


def test_peak_is_where_the_curve_is_highest() -> None:
    found = fit_overoptimization(_exact(0.6, 0.35), REFERENCE, WEIGHTS)
    grid = np.linspace(0.5, 4, 200_001)
    highest = grid[np.argmax(grid * (0.6 - 0.35 * np.log(grid)))]
    assert found.peak is not None
    assert found.peak.value == pytest.approx(highest**2, rel=1e-3)


def test_residuals_of_the_quadratics_are_those_of_least_squares() -> None:
    found = fit_overoptimization(_exact(0.75, 0.4), REFERENCE, WEIGHTS)
    kl = np.array(KLS)
    gain = np.sqrt(kl) * (0.75 - 0.2 * np.log(kl))
    for rmse, variable in (
        (found.rmse_quadratic_kl, kl),
        (found.rmse_quadratic_distance, np.sqrt(kl)),
    ):
        columns = np.stack([variable, variable**2], axis=1)
        fit, *_ = np.linalg.lstsq(columns, gain)
        assert rmse == pytest.approx(np.sqrt(np.mean((columns @ fit - gain) ** 2)))
    assert found.rmse < found.rmse_quadratic_distance < found.rmse_quadratic_kl


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
    assert reason in found.reason


def test_peak_beyond_the_policies_is_not_extrapolated() -> None:
    assert fit_overoptimization(_exact(0.75, 0.4), REFERENCE, WEIGHTS).peak is not None
    found = fit_overoptimization(_exact(0.75, 0.4, KLS[:4]), REFERENCE, WEIGHTS)
    assert found.peak is None
    assert found.open_high


def test_noisy_peak_near_the_end_has_an_open_interval() -> None:
    # the curve peaks at KL 17.4 of at most 20
    points, reference = hump(np.random.default_rng(0), 0.85, 0.35, PROMPTS, 1)
    found = fit_overoptimization(points, reference, WEIGHTS)
    assert found.open_high
    assert not found.open_low
    if found.peak is not None:
        assert found.peak.high <= points[-1].mean_kl * (1 + 1e-9)


def test_several_seeds_are_in_the_interval() -> None:
    points, reference = hump(np.random.default_rng(0), 0.75, 0.4, PROMPTS, 3)
    found = fit_overoptimization(points, reference, WEIGHTS)
    still = [Point(one.kl.mean(axis=0), one.reward.mean(axis=0)) for one in points]
    alone = fit_overoptimization(still, reference, WEIGHTS)
    assert (found.seeds, alone.seeds) == (3, 1)
    assert found.alpha.value == pytest.approx(alone.alpha.value)
    assert found.alpha.high - found.alpha.low > alone.alpha.high - alone.alpha.low


def test_same_inputs_give_the_same_bytes() -> None:
    points, reference = hump(np.random.default_rng(0), 0.75, 0.4, PROMPTS, 2)
    assert fit_overoptimization(points, reference, WEIGHTS) == fit_overoptimization(
        points, reference, WEIGHTS
    )


def test_too_few_policies_are_refused() -> None:
    for points in (_exact(0.75, 0.4)[:2], [_exact(0.75, 0.4)[0]] * 3):
        with pytest.raises(ValueError, match="three policies"):
            fit_overoptimization(points, REFERENCE, WEIGHTS)
