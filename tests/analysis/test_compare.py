"""Losses at matched KL: from the samples, paired by prompt, never extrapolated."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.compare import (
    Choices,
    MatchedComparison,
    Plan,
    common_range,
    compare_series,
)
from dpo_bench.analysis.comparisons import Comparison, Spread
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.metrics import REWARD, WIN_RATE
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.readings import Curve, curves_in_common
from dpo_bench.analysis.results import read_sweep
from dpo_bench.analysis.series import group_series
from dpo_bench.errors import ConfigurationError
from dpo_bench.report.matched_table import DifferenceCell, difference_cell, matched_tables
from tests.report.conftest import ByName, ViewOf
from tests.report.sweep_folder import build
from tests.report.sweep_world import Sweep
from tests.sealing import as_written


def compared(folder: Path, plan: Plan | None = None) -> MatchedComparison:
    results = read_sweep(folder)
    series = group_series(results)
    comparison = compare_series(read_curves(results, series), series, plan or Plan.of(results))
    assert isinstance(comparison, MatchedComparison)
    return comparison


def test_a_figure_lies_between_its_neighbors_but_for_the_common_bend(folder_of: ByName) -> None:
    """Read by hand along a straight line; what the losses' curves have in common bends it."""
    folder = folder_of("clean")
    for level in compared(folder).levels:
        for index, loss in enumerate(("dpo", "cdpo", "hinge", "ipo")):
            points = []
            for trial in read_sweep(folder).done:
                if trial.loss == loss:
                    means = trial.samples.groupby("prompt_id")[["kl", "reward"]].mean().mean()
                    points.append((means["kl"] ** 0.5, means["reward"]))
            x, y = zip(*sorted(points), strict=True)
            by_hand = float(np.interp(level.kl**0.5, x, y))
            assert level.values[index].value == pytest.approx(by_hand, abs=0.04)
            assert level.values[index].n == 256


def test_one_seed_speaks_of_policies_and_not_of_losses(view_of: ViewOf) -> None:
    """ipo is the weaker one in this sweep, the others are alike."""
    comparison = view_of("clean").comparison
    assert isinstance(comparison, MatchedComparison)
    assert comparison.baseline == 0
    (ipo,) = (pair for pair in comparison.middle.pairs if pair.first == "3")
    assert (ipo.verdict, ipo.policies) == ("open", "worse")
    assert ipo.difference.high < 0
    assert math.isnan(comparison.middle.detectable)


def test_several_seeds_speak_of_losses(view_of: ViewOf) -> None:
    comparison = view_of("two_seeds").comparison
    assert isinstance(comparison, MatchedComparison)
    assert comparison.repeated
    assert comparison.middle.detectable > 0
    assert all(one.spread and one.spread.runs >= 0 for one in comparison.middle.compared)


def test_levels_lie_inside_what_the_losses_cover(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    kls = [[s.mean("kl") or 0 for s in one.settings if s.done] for one in view.series]
    assert view.comparison.low == pytest.approx(max(min(one) for one in kls), rel=1e-3)
    assert view.comparison.high == pytest.approx(min(max(one) for one in kls), rel=1e-3)
    assert all(
        view.comparison.low < level.kl < view.comparison.high for level in view.comparison.levels
    )


def test_the_plan_says_what_is_compared(folder_of: ByName) -> None:
    folder = folder_of("clean")
    plan = Plan(measure="win_rate", baseline="ipo", kl=(2.0, 1.0), same_within=0.5)
    found = compared(folder, plan)
    assert (found.measure, found.baseline) == (WIN_RATE, 3)
    assert [level.kl for level in found.levels] == [1.0, 2.0]
    assert {pair.second for level in found.levels for pair in level.pairs} == {"3"}
    with pytest.raises(ConfigurationError, match="no loss 'sppo'"):
        compared(folder, Plan(baseline="sppo"))
    with pytest.raises(ConfigurationError, match="by reward or win_rate here, not by accuracy"):
        compared(folder, Plan(measure="accuracy"))


def test_what_is_chosen_afterwards_is_no_plan() -> None:
    plan = Plan(baseline="dpo", planned=True)
    assert plan.changed(Choices(baseline="dpo")) == plan
    assert plan.changed(Choices()) == plan
    assert plan.changed(Choices(same_within=0.1)) == Plan(baseline="dpo", same_within=0.1)


def test_a_second_measure_is_descriptive(view_of: ViewOf) -> None:
    first, second = view_of("clean").compared
    assert (first.comparison.primary, second.comparison.primary) == (True, False)
    assert second.title == "Win rate against the reference (descriptive)"
    cells = [cell for row in second.differences.rows for cell in row.cells[1:]]
    assert not any(cell.strong for cell in cells)
    assert not any(word in note for cell in cells for note in cell.notes for word in VERDICTS)


VERDICTS = ("better", "worse", "same", "open")


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("no_reward", "Without a reward"),
        ("single", "at least two losses"),
        ("all_failed", "at least two losses"),
    ],
)
def test_what_cannot_be_compared_says_why(view_of: ViewOf, variant: str, reason: str) -> None:
    view = view_of(variant)
    assert isinstance(view.comparison, str)
    assert reason in view.comparison
    assert view.matched is None


def test_losses_that_share_no_kl_are_not_compared(tmp_path: Path) -> None:
    folder = build(
        tmp_path,
        Sweep(losses=("dpo", "ipo"), prompts=16, reference_samples=8, strengths=1, failed=()),
    )
    results = read_sweep(folder)
    series = group_series(results)
    found = compare_series(read_curves(results, series), series, Plan())
    assert "nothing is extrapolated" in str(found)


def ranges(**kls: tuple[float, ...]) -> dict[str, Curve]:
    return curves_in_common(
        {
            name: [Point(np.full((1, 4), kl), np.full((1, 4), kl), [0]) for kl in own]
            for name, own in kls.items()
        }
    )


def test_one_loss_far_away_does_not_keep_the_others_from_being_compared() -> None:
    curves = ranges(near=(0.01, 0.02), a=(1.0, 4.0), b=(2.0, 9.0), c=(3.0,))
    assert common_range(curves, "a") == pytest.approx((2.0, 4.0))
    assert common_range(curves, "near") is None
    assert common_range(curves, "c") is None


def test_of_as_many_losses_those_with_the_widest_range_in_the_root_are_compared() -> None:
    curves = ranges(base=(0.0, 9.0), a=(0.0, 1.0), b=(4.0, 8.9))
    assert common_range(curves, "base") == pytest.approx((0.0, 1.0))
    wider = ranges(base=(0.0, 9.2), a=(0.0, 1.0), b=(4.0, 9.1))
    assert common_range(wider, "base") == pytest.approx((4.0, 9.1))


def test_a_prompt_without_reward_in_one_trial_is_left_out_of_all(
    folder_of: ByName, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of("hostile"), tmp_path / "copy"))
    file = min(folder.glob("trials/*/samples.parquet"))
    table = pd.read_parquet(file)
    table.loc[table["prompt_id"] == "p0003", "reward"] = np.nan
    table.to_parquet(file)
    as_written(folder)
    assert compared(folder_of("hostile")).prompts == 64
    assert compared(folder).prompts == 63


def test_the_comparison_is_the_same_every_time(folder_of: ByName) -> None:
    first, second = (compared(folder_of("hostile")) for _ in range(2))
    assert first.levels == second.levels


def test_seeds_are_averaged_not_counted_as_prompts(folder_of: ByName) -> None:
    assert compared(folder_of("two_seeds")).prompts == 64


def test_tables_show_every_loss_and_difference_at_every_level(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    assert view.matched is not None
    assert len(view.matched.values.rows) == 4
    assert len(view.matched.differences.rows) == 3
    for column, level in enumerate(view.comparison.levels):
        for row, pair in enumerate(level.pairs):
            title, *cells = view.matched.differences.rows[row].cells
            assert title.text == f"{view.series[int(pair.first)].label} \u2212 dpo"
            cell = cells[column]
            assert isinstance(cell, DifferenceCell)
            assert cell.value == pair.difference.value
            low, value, high = cell.strip or (0, 0, 0)
            assert 0 <= low <= value <= high <= 1
            assert any("standard error" in note for note in cell.notes)


def test_a_reading_says_between_which_policies_it_lies(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert view.matched is not None
    assert isinstance(view.comparison, MatchedComparison)
    level = view.comparison.levels[0]
    low, high = level.brackets[0]
    assert low <= level.kl <= high
    notes = view.matched.values.rows[0].cells[1].notes
    assert any(note.startswith(f"read between KL {low:.2f} and {high:.2f}") for note in notes)


def test_doubtful_policies_are_marked_where_a_reading_rests_on_them(folder_of: ByName) -> None:
    results = read_sweep(folder_of("clean"))
    for trial in results.done:
        if trial.loss == "dpo":
            trial.__dict__["samples"] = trial.samples.assign(finished=False)
    series = group_series(results)
    found = compare_series(read_curves(results, series), series, Plan())
    assert isinstance(found, MatchedComparison)
    assert found.middle.doubts == {0: "cut"}
    tables = matched_tables(found, series)
    notes = tables.values.rows[0].cells[2].notes
    assert "rests on policies that are cut" in notes


def test_a_loss_outside_the_range_has_a_dash_and_the_reason(folder_of: ByName) -> None:
    results = read_sweep(folder_of("clean"))
    series = group_series(results)
    curves = read_curves(results, series)
    found = compare_series(curves, series, Plan(kl=(2.0, 500.0)))
    assert isinstance(found, MatchedComparison)
    tables = matched_tables(found, series)
    cell = tables.values.rows[3].cells[2]
    assert (cell.text, cell.detail.startswith("spans KL ")) == ("\u2013", True)
    last = tables.differences.rows[-1].cells[2]
    assert isinstance(last, DifferenceCell)
    assert (last.strip, last.notes, last.strong) == (None, ("not covered by both",), False)


def comparison(verdict: str, **changes: object) -> Comparison:
    fields: dict[str, object] = {
        "first": "1",
        "second": "0",
        "kl": 2.0,
        "difference": Estimate(0.1, 0.05, 0.15, 64),
        "band": Estimate(0.1, 0.02, 0.18, 64),
        "p_value": 0.01,
        "spread": Spread(0.0125, 0.005, 0.25, 0.0, 3),
        "bias_bound": 0.0,
        "verdict": verdict,
        "policies": verdict,
    }
    return Comparison(**(fields | changes))  # type: ignore[arg-type]


def test_a_verdict_is_said_with_what_the_band_leaves() -> None:
    first, *_ = difference_cell(comparison("better"), 1.0, REWARD).notes
    assert first == "better by 0.020 to 0.180"
    same = comparison("same", band=Estimate(0.0, -0.01, 0.02, 64))
    assert difference_cell(same, 1.0, REWARD).notes[0] == "same: at most 0.020 apart"
    one_seed = comparison("open", policies="better")
    said = difference_cell(one_seed, 1.0, REWARD).notes[0]
    assert said == "open (one seed); these policies: better by 0.020 to 0.180"
    spread = difference_cell(comparison("open"), 1.0, REWARD).notes[1]
    expected = "standard error 0.0125 from prompts, 0.0050 from responses, 0.2500 from runs"
    assert spread == expected


def test_a_comparison_is_planned_only_where_it_stood_before_the_first_trial(
    folder_of: ByName,
) -> None:
    results = read_sweep(folder_of("clean"))
    stated: dict[str, Any] = {"measure": "", "baseline": "ipo", "kl": [], "same_within": None}
    experiment = {**results.experiment, "comparison": stated}
    before = dataclasses.replace(results, experiment=experiment, plan=stated)
    after = dataclasses.replace(results, experiment=experiment, plan={**stated, "baseline": ""})
    assert Plan.of(before) == Plan(baseline="ipo", planned=True)
    assert Plan.of(after) == Plan(baseline="ipo")
    assert not Plan.of(results).planned
