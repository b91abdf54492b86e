"""Tuning: chosen on one half of the prompts, what it bought is read on the other."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dpo_bench.analysis.points import Point
from dpo_bench.analysis.results import OWN_KEYS, SweepResults, read_sweep
from dpo_bench.analysis.series import group_series
from dpo_bench.analysis.tuning import (
    choose,
    choose_of_folder,
    expected_best,
    order_changes,
    tuned_losses,
)
from dpo_bench.experiment.config import OWN_KEYS as OF_THE_EXPERIMENT
from tests.report.sweep_search import tuned

GAIN = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tuned") / "sweep", better=GAIN)


@pytest.fixture(scope="module")
def results(folder: Path) -> SweepResults:
    return read_sweep(folder)


def option(*policies: tuple[float, float], prompts: int = 8) -> list[Point]:
    """Policies of one seed, each with a KL and a reward that all prompts have."""
    return [Point(np.full(prompts, kl), np.full(prompts, reward)) for kl, reward in policies]


def test_the_analysis_knows_the_keys_that_trials_may_differ_in() -> None:
    assert set(OWN_KEYS) == set(OF_THE_EXPERIMENT)


def test_options_are_read_at_the_kls_that_all_of_them_cover() -> None:
    low = option((0.5, 0.5), (2.0, 0.6))
    high = option((1.0, 0.3), (8.0, 0.9))
    found = choose([low, high], [0.5, 1.0, 2.0, 8.0])
    assert found.kls == (1.0, 2.0)
    assert found.chosen == 0, "at equal KL it is ahead, although the other reaches more"


def test_options_without_a_common_kl_are_chosen_by_their_settings() -> None:
    found = choose([option((0.5, 0.5)), option((8.0, 0.9), (9.0, 0.7)), []], [1.0, 2.0])
    assert (found.kls, found.chosen) == ((), 1)
    assert found.figures[:2] == pytest.approx((0.5, 0.8))
    assert np.isnan(found.figures[2]), "an option without policies is no candidate"


def test_the_expected_best_is_the_mean_over_all_draws() -> None:
    figures = [0.2, 0.7, 0.7, 0.1]
    for n, found in enumerate(expected_best(figures), 1):
        assert found == pytest.approx(np.mean([max(one) for one in product(figures, repeat=n)]))


def test_the_gain_is_what_was_put_in(results: SweepResults) -> None:
    series = group_series(results)
    (found,) = tuned_losses(results, series)
    assert series[found.index].label == "dpo"
    assert (found.chosen, found.labels) == (1, ("learning_rate 0.001", "learning_rate 0.002"))
    assert found.gain.low < GAIN < found.gain.high
    assert found.gain.n == 32, "the half that did not choose"
    difference = found.figures[1].value - found.figures[0].value
    assert found.gain.value == pytest.approx(difference)
    assert found.expected[0] == pytest.approx(np.mean(found.chose))


def test_the_order_of_losses_with_and_without_tuning(folder: Path, tmp_path: Path) -> None:
    results = read_sweep(folder)
    for one in order_changes(results, group_series(results)):
        assert (one.losses, one.pairs) == (2, 1)
        assert one.correlation == 1 - 2 * one.swapped
    far = read_sweep(tuned(tmp_path / "far", better=-1.0))
    assert {one.swapped for one in order_changes(far, group_series(far))} == {0}, "not chosen"


def test_a_search_asks_of_the_trials_in_its_folder(folder: Path, results: SweepResults) -> None:
    (dpo, _) = group_series(results)
    paths = [[t.id for s in one.settings for t in s.trials] for one in dpo.options]
    (folder / "results.parquet").rename(folder / "elsewhere")
    try:
        assert choose_of_folder(folder, paths, (1.0, 2.0)) == 1
        assert choose_of_folder(folder, paths[::-1], (1.0, 2.0)) == 0
        assert choose_of_folder(folder, [["unknown"], *paths], (1.0, 2.0)) == 2
    finally:
        (folder / "elsewhere").rename(folder / "results.parquet")
    assert json.loads((folder / "experiment.json").read_text())["experiment"]["name"]
