"""Run-to-run variance from all settings: against simulated components and Smyth's formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from benchmarks.calibration.simulate import Losses
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.readings import Reading, curves_in_common
from dpo_bench.analysis.run_variance import RunVariance, moderate, run_variance


def estimated(losses: Losses, experiments: int) -> list[RunVariance]:
    return [
        run_variance(curves_in_common(losses.draw(np.random.default_rng(seed))))
        for seed in range(experiments)
    ]


@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_components_are_found_on_average(alike: float) -> None:
    """.75 x .1^2 are the runs' own or their loss's, .25 x .1^2 the seed's; responses .16 / n."""
    losses = Losses((0.0,) * 4, seed_deviation=0.1, scatter=0.0, alike=alike)
    found = estimated(losses, 40)
    own = np.mean([one.own["0"].mean() - one.responses["0"].mean() for one in found])
    of_loss = np.mean(
        [np.mean([o.value for o in one.loss.values()]) - one.own["0"].mean() / 5 for one in found]
    )
    assert own == pytest.approx(0.0075 * (1 - alike), abs=0.0007)
    assert of_loss == pytest.approx(0.0075 * alike, abs=0.0016)
    assert np.mean([one.common for one in found]) == pytest.approx(0.0025, abs=0.0012)
    assert np.mean([one.responses["0"][0] for one in found]) == pytest.approx(0.16 / 256, rel=0.1)


def test_degrees_of_freedom_are_those_of_all_settings_where_they_agree() -> None:
    one = next(found for found in estimated(Losses((0.0,) * 4), 10) if found.shared)
    assert one.freedom["0"][0] == pytest.approx(4 * 2 * 4)  # losses, seeds - 1, strengths - 1
    assert one.loss["0"].freedom <= 3 * 2
    assert one.seed.freedom == 2


def test_a_setting_that_truly_scatters_keeps_its_own() -> None:
    generator = np.random.default_rng(0)
    size = np.full(20, 0.02)
    size[7] = 1.0
    points = {
        str(loss): [
            Point(
                np.full((4, 30), 1.0 + strength),
                np.broadcast_to(generator.normal(0, size[5 * loss + strength], (4, 1)), (4, 30)),
            )
            for strength in range(5)
        ]
        for loss in range(4)
    }
    found = run_variance(curves_in_common(points))
    assert not found.shared
    assert found.own["1"][2] > 20 * found.own["0"][0]
    assert found.freedom["1"][2] < 10


def test_one_seed_knows_nothing() -> None:
    curves = curves_in_common(Losses((0.0, 0.0), seeds=1).draw(np.random.default_rng(0)))
    reading = curves["0"].read(3.0)
    assert isinstance(reading, Reading)
    assert not run_variance(curves).known(reading)


def test_a_missing_run_is_left_out() -> None:
    curves = dict(Losses((0.0,) * 3).draw(np.random.default_rng(1)))
    first = curves["0"][0]
    curves["0"] = [Point(first.kl[:2], first.reward[:2], [0, 1]), *curves["0"][1:]]
    found = run_variance(curves_in_common(curves))
    assert np.isfinite(found.own["0"]).all()
    assert set(found.loss) == {"0", "1", "2"}


def test_moderation_recovers_the_prior_it_was_drawn_from() -> None:
    """Variances from a scaled inverse chi-square with 4 degrees of freedom around 2."""
    generator = np.random.default_rng(2)
    true = 2.0 * 4 / generator.chisquare(4, 20_000)
    seen = true * generator.chisquare(3, 20_000) / 3
    value, freedom, shared = moderate(seen, np.full(20_000, 3.0))
    assert not shared
    assert freedom[0] == pytest.approx(7, abs=0.4)
    assert value == pytest.approx((4 * 2.0 + 3 * seen) / 7, rel=0.1)


def test_equal_variances_are_pooled() -> None:
    """The spread of their logarithms is no more than trigamma says."""
    logs = np.array([0.1, -0.1, 0.05, -0.05])
    assert logs.var(ddof=1) < special.polygamma(1, 1.0)
    value, freedom, shared = moderate(np.exp(logs), np.full(4, 2.0))
    assert shared
    assert value == pytest.approx(np.exp(logs).mean())
    assert freedom.tolist() == [8.0] * 4
