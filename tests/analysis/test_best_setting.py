"""The setting to train: not the luckiest, and no degenerate one."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration.simulate import equal_settings
from dpo_bench.analysis.best_setting import BestSetting, best_setting
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import curves_in_common
from dpo_bench.analysis.run_variance import run_variance


def choose(curves: Curves, doubts: dict[str, list[str]] | None = None) -> BestSetting:
    found = best_setting(curves, doubts or {}, run_variance(curves_in_common(curves)))
    assert found is not None
    return found


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_best_of_equal_settings_is_not_said_to_be_better(seeds: int) -> None:
    """All reach 0; with one seed runs are alike, because their luck cannot be told from merit."""
    deviation = 0.05 if seeds > 1 else 0.0
    generator = np.random.default_rng(seeds)
    chosen, largest = [], []
    for _ in range(60):
        curves = equal_settings(generator, 20, 256, seeds, deviation)
        chosen.append(choose(curves).expected.value)
        largest.append(max(point.reward.mean() for own in curves.values() for point in own))
    assert np.mean(largest) > 0.02
    assert abs(np.mean(chosen)) < 0.02


def test_a_setting_that_is_better_is_found_with_its_figure() -> None:
    curves = dict(equal_settings(np.random.default_rng(1), 20, 400, 3, 0.02))
    better = curves["2"][3]
    raised = Point(better.kl, better.reward + 0.3)
    curves["2"] = [*curves["2"][:3], raised, *curves["2"][4:]]
    found = choose(curves)
    assert (found.loss, found.strength, found.agreed) == ("2", 3, 3)
    assert found.expected.low < 0.3 < found.expected.high
    assert (found.candidates, found.left_out, found.seeds) == (20, 0, (2, 1))
    assert found.expected.n == 200


def test_doubtful_policies_take_no_part() -> None:
    curves = dict(equal_settings(np.random.default_rng(1), 20, 400, 3, 0.02))
    better = curves["2"][3]
    raised = Point(better.kl, better.reward + 0.3)
    curves["2"] = [*curves["2"][:3], raised, *curves["2"][4:]]
    found = choose(curves, {"2": ["", "", "", "degenerate", ""]})
    assert (found.loss, found.strength) != ("2", 3)
    assert (found.candidates, found.left_out) == (19, 1)
    everything = {name: ["cut"] * 5 for name in curves}
    assert best_setting(curves, everything, run_variance(curves_in_common(curves))) is None


def test_one_run_of_which_only_the_mean_is_known_recommends_nothing() -> None:
    curves = {"a": [Point([[1.0]], [[0.5]])], "b": [Point([[1.0]], [[0.7]])]}
    variance = run_variance(curves_in_common(curves))
    assert best_setting(curves, {}, variance, prompts_known=False) is None


def test_a_policy_of_one_seed_alone_takes_no_part_and_hinders_nobody() -> None:
    """A search adds some beyond the outermost KLs, for a seed whose own leave these out."""
    curves = dict(equal_settings(np.random.default_rng(1), 20, 400, 3, 0.02))
    before = choose(curves)
    lone = Point(np.full((1, 400), 9.0), np.full((1, 400), 1.0), (1,))
    curves["2"] = [*curves["2"], lone]
    found = choose(curves)
    assert (found.candidates, found.left_out, found.seeds) == (20, 0, (2, 1))
    assert (found.loss, found.strength) == (before.loss, before.strength)
