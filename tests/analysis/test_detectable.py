"""What a design can see: against simulated experiments of that design."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.calibration.simulate import Losses
from dpo_bench.analysis.comparisons import compare_losses
from dpo_bench.analysis.detectable import (
    Components,
    components_of,
    critical_value,
    detectable_difference,
    mixes,
)
from dpo_bench.analysis.readings import curves_in_common


def test_what_is_said_to_be_shown_is_shown_in_four_of_five() -> None:
    def experiment(height: float, seed: int) -> tuple[float, float]:
        losses = Losses((0.0, height), seeds=4)
        curves = curves_in_common(losses.draw(np.random.default_rng(seed)))
        found = compare_losses(curves, [3.0], baseline="0", draws=1000, seed=seed)
        shown = detectable_difference(found.comparisons[0], found.critical)
        return shown, float(found.all[0].verdict == "better")

    shown = float(np.median([experiment(0.0, seed)[0] for seed in range(30)]))
    power = np.mean([experiment(shown, 100 + seed)[1] for seed in range(150)])
    assert power == pytest.approx(0.8, abs=0.1)


def test_components_of_a_sweep_are_those_it_was_drawn_from() -> None:
    """Prompts .25^2, responses .4^2 at one response each, runs .75 x .03^2."""
    spreads = []
    for seed in range(30):
        losses = Losses((0.0,) * 4, prompts=512, seeds=5, seed_deviation=0.03, grid="targets")
        curves = curves_in_common(losses.draw(np.random.default_rng(seed)))
        found = compare_losses(curves, [3.0], draws=200)
        spreads += [one.spread for one in found.all if one.spread]
    components = components_of(spreads, 512, 1, "")
    assert components is not None
    assert components.prompts == pytest.approx(0.0625, rel=0.2)
    assert 0.25 < components.responses / 0.16 < 1.1  # averaged over the policies that are read
    assert 0.25 < components.runs / (0.75 * 0.03**2) < 1.2


def test_variance_is_that_of_drawn_experiments() -> None:
    components = Components(0.04, 0.16, 0.001)
    generator = np.random.default_rng(0)
    prompts, responses, seeds = 50, 2, 3

    def loss() -> np.ndarray:
        taste = generator.normal(0, 0.2, (4000, prompts)).mean(axis=1)
        noise = generator.normal(0, 0.4 / math.sqrt(prompts * responses * seeds), 4000)
        return np.asarray(taste + noise + generator.normal(0, math.sqrt(0.001 / seeds), 4000))

    drawn = float(np.var(loss() - loss()))
    assert components.variance(prompts, responses, seeds) == pytest.approx(drawn, rel=0.1)


def test_the_cheapest_mix_comes_first_and_all_are_enough() -> None:
    components = Components(0.003, 0.04, 0.0003)
    found = mixes(components, 0.05, 9, lambda n, m, s: s * (10 + n * m / 100))
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)
    reach = stats.norm.ppf(0.8) + critical_value(9)
    for one in found:
        error = math.sqrt(components.variance(one.prompts, one.responses, one.seeds))
        assert one.shown == pytest.approx(reach * error)
        assert one.shown <= 0.05
    assert not mixes(components, 1e-5, 9, lambda n, m, s: 1.0)


def test_one_seed_shows_nothing_of_losses() -> None:
    curves = curves_in_common(Losses((0.0, 0.0), seeds=1).draw(np.random.default_rng(0)))
    found = compare_losses(curves, [3.0])
    assert math.isnan(detectable_difference(found.all, found.critical))
    assert components_of([one.spread for one in found.all if one.spread], 256, 1, "") is None
