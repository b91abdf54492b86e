"""Policies along training are points of their losses' curves, the last one once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.compare import MatchedComparison, Plan, compare_series
from dpo_bench.analysis.metrics import REWARD, WIN_RATE
from dpo_bench.analysis.points import by_step, trained
from dpo_bench.analysis.prompt_curves import compared_measures, read_curves
from dpo_bench.analysis.readings import Reading, curves_in_common
from dpo_bench.analysis.regret import frontier_regret
from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.analysis.series import group_series
from dpo_bench.report.figures.frames import figure_table, matched_values
from dpo_bench.report.markdown import render_markdown
from dpo_bench.report.sections.gaps import gaps_section
from dpo_bench.report.view import build_view
from tests.report.conftest import ByName, ViewOf
from tests.sealing import as_written


def test_every_step_is_a_point_and_the_last_one_counts_once(view_of: ViewOf) -> None:
    curves = view_of("along").curves
    assert curves is not None
    assert {step: len(found) for step, found in by_step(curves.curves["0"]).items()} == {
        60: 5,
        120: 5,
    }
    own = view_of("along").series[0].settings[0].done[0]
    assert own.checkpoints["step"].tolist() == [60]
    trained = next(point for point in curves.curves["0"] if point.step == 120)
    assert trained.mean_kl == pytest.approx(own.row["kl"])


def test_policies_along_training_do_not_move_the_comparison(view_of: ViewOf) -> None:
    """They are drawn; what is compared are policies after training."""
    curves = view_of("along").curves
    assert curves is not None
    alone = {name: trained(points) for name, points in curves.curves.items()}
    found = (
        [one.read(2.0) for one in curves_in_common(curves.curves).values()],
        [one.read(2.0) for one in curves_in_common(alone).values()],
    )
    for one, other in zip(*found, strict=True):
        assert isinstance(one, Reading)
        assert isinstance(other, Reading)
        assert one.values.mean() == pytest.approx(other.values.mean())
    note = dict(view_of("along").notes)["Comparison at matched KL"]
    assert "Policies along training take no part" in note


def test_the_numbers_behind_a_figure_hold_policies_and_curves(view_of: ViewOf) -> None:
    view = view_of("along")
    table = figure_table(view, "win_rate")
    counts = table.groupby(["point", "step"]).size().to_dict()
    assert counts["trained", 120] == counts["along training", 60] == 19
    assert counts["curve", 60] > 4
    row = table.query("point == 'along training'").iloc[0]
    (checkpoint,) = view.series[0].settings[0].done[0].checkpoints.to_dict("records")
    assert [row["value"], row["low"], row["kl"], row["n"]] == [
        *(checkpoint[name] for name in ("win_rate", "win_rate_low", "kl")),
        64,
    ]


def test_win_rates_stand_at_the_same_kls_without_verdicts(view_of: ViewOf) -> None:
    rewards, wins = (one.comparison for one in view_of("clean").compared)
    assert [one.measure for one in (rewards, wins)] == [REWARD, WIN_RATE]
    assert [level.kl for level in rewards.levels] == [level.kl for level in wins.levels]
    text = render_markdown(view_of("clean"), [])
    assert "### Win rate against the reference (descriptive)" in text
    table = matched_values(view_of("clean"))
    shown = table.query("measure == 'win_rate' and loss == 'ipo'")["value"]
    assert list(shown) == [level.values[3].value for level in wins.levels]
    differences = figure_table(view_of("clean"), "differences")
    of_wins = differences.query("measure == 'win_rate'")
    assert set(of_wins["verdict"]) == {"descriptive"}
    assert of_wins["p_value"].isna().all()


def judged(results: SweepResults) -> SweepResults:
    """The same under a judge: no rewards, and no verdict on one prompt."""
    evaluation = {**results.experiment["evaluation"], "reward": "judge:m"}
    for trial in results.done:
        trial.samples["reward"] = np.nan
    results.done[0].samples.loc[lambda table: table["prompt_id"] == "p0003", "win_reference"] = (
        np.nan
    )
    results.reference.samples["reward"] = np.nan
    experiment = {**results.experiment, "evaluation": evaluation}
    return dataclasses.replace(results, experiment=experiment, scored_by="judge:m")


def test_under_a_judge_losses_are_compared_by_their_win_rate(folder_of: ByName) -> None:
    results = judged(read_sweep(folder_of("hostile")))
    assert compared_measures(results) == (WIN_RATE,)
    view = build_view(results)
    assert isinstance(view.comparison, MatchedComparison)
    assert view.comparison.measure == WIN_RATE
    assert view.comparison.prompts == 63
    assert view.also_matched == ()
    assert view.gaps == ()
    assert [one.key for one in view.further] == ["length", "lost_verdicts"]
    assert "by their win rate" in view.no_reward


def test_gaps_stand_at_the_compared_kls_inside_the_frontiers_range(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    assert [one.kl for one in view.gaps] == [level.kl for level in view.comparison.levels]
    assert any(one.gaps for one in view.gaps)
    for level in view.gaps:
        rewards = next(one for one in view.comparison.levels if one.kl == level.kl).values
        for index, gap in level.gaps.items():
            assert gap.value == pytest.approx((level.optimum or 0) - rewards[index].value)
            assert gap.low < gap.value < gap.high
    beyond = [one for one in view.gaps if one.optimum is None]
    assert all(one.gaps == {} for one in beyond)
    section = gaps_section(view.series, view.gaps)
    assert section is not None
    assert ("do not show it" in section.about) == bool(beyond)
    csv = matched_values(view).query("measure == 'frontier_gap'")
    assert len(csv) == sum(len(one.gaps) for one in view.gaps)


def test_one_loss_alone_has_gaps_at_kls_of_its_own(folder_of: ByName, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("clean"), tmp_path / "copy"))
    table = pd.read_parquet(folder / "results.parquet")
    table[table["loss"] == "dpo"].to_parquet(folder / "results.parquet")
    as_written(folder)
    results = read_sweep(folder)
    curves = read_curves(results, group_series(results))
    series = group_series(results)
    found = frontier_regret(results, curves, compare_series(curves, series, Plan.of(results)))
    assert len(found) == 3
    assert any(one.gaps for one in found)


def test_without_a_frontier_there_are_no_gaps(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert view.curves is not None
    bare = dataclasses.replace(view.results.reference, read=lambda _name: None)
    bare.__dict__["samples"] = view.results.reference.samples
    results = dataclasses.replace(view.results, reference=bare)
    assert frontier_regret(results, view.curves, view.comparison) == ()
    assert gaps_section(view.series, ()) is None


def test_whole_policies_are_picked_at_the_middle_of_the_compared_kls(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    middle = view.comparison.middle
    assert view.policies.kl == middle.kl
    assert view.policies.compared == set(middle.values)
    named = f"{middle.kl:.2f} nats"
    sections = {one.key: one.about for one in view.further}
    assert named in sections["strengths"]
    assert named in sections["length"]
