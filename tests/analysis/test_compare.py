"""Losses at matched KL: from the samples, paired by prompt, never extrapolated."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis import matched
from dpo_bench.analysis.compare import (
    MatchedComparison,
    compare_series,
    most_overlapping,
)
from dpo_bench.analysis.loss_curves import group_series
from dpo_bench.analysis.metrics import REWARD
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.results import read_sweep
from dpo_bench.report import matched_table
from dpo_bench.report.markdown import render_markdown
from dpo_bench.report.matched_table import DifferenceCell, difference_cell, matched_tables
from tests.report.conftest import ByName, ViewOf
from tests.report.sweep_folder import build
from tests.report.sweep_world import Sweep


def compared(folder: Path) -> MatchedComparison:
    results = read_sweep(folder)
    comparison = compare_series(read_curves(results, group_series(results)))
    assert isinstance(comparison, MatchedComparison)
    return comparison


def by_hand(folder: Path, loss: str, kl: float) -> float:
    """Reward of a loss at a KL: a straight line in sqrt(KL) between the two nearest policies."""
    points = []
    for trial in read_sweep(folder).done:
        if trial.loss == loss:
            means = trial.samples.groupby("prompt_id")[["kl", "reward"]].mean().mean()
            points.append((means["kl"] ** 0.5, means["reward"]))
    x, y = zip(*sorted(points), strict=True)
    return float(np.interp(kl**0.5, x, y))


def test_rewards_are_read_off_between_neighboring_policies(folder_of: ByName) -> None:
    folder = folder_of("clean")
    for level in compared(folder).levels:
        for index, loss in enumerate(("dpo", "cdpo", "hinge", "ipo")):
            assert level.values[index].value == pytest.approx(by_hand(folder, loss, level.kl))
            assert level.values[index].n == 256


def test_the_weaker_loss_is_separated_and_the_alike_are_not(view_of: ViewOf) -> None:
    comparison = view_of("clean").comparison
    assert isinstance(comparison, MatchedComparison)
    pairs = {(pair.first, pair.second): pair for pair in comparison.middle.pairs}
    assert pairs[0, 3].separated
    assert pairs[0, 3].difference.low > 0
    assert pairs[0, 3].prompts is None
    assert not pairs[0, 1].separated
    assert pairs[0, 1].difference.low < 0 < pairs[0, 1].difference.high
    assert (pairs[0, 1].prompts or 0) > 256
    assert any({0, 1} <= set(group) for group in comparison.middle.groups)


def test_levels_lie_inside_what_all_losses_cover(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    kls = [[s.mean("kl") or 0 for s in one.settings if s.done] for one in view.series]
    assert view.comparison.low == pytest.approx(max(min(one) for one in kls))
    assert view.comparison.high == pytest.approx(min(max(one) for one in kls))
    assert all(
        view.comparison.low < level.kl < view.comparison.high for level in view.comparison.levels
    )


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
    assert "nothing is extrapolated" in str(
        compare_series(read_curves(results, group_series(results)))
    )


def test_one_loss_far_away_does_not_keep_the_others_from_being_compared() -> None:
    def curve(*kls: float) -> list[matched.Point]:
        return [matched.Point(np.full((1, 4), kl), np.full((1, 4), kl), [0]) for kl in kls]

    near, far = curve(0.01, 0.02), curve(1.0, 4.0)
    curves = {"near": near, "a": far, "b": curve(2.0, 9.0), "one point": curve(3.0)}
    assert list(most_overlapping(curves)) == ["a", "b"]
    assert list(most_overlapping({"a": far, "b": far})) == ["a", "b"]
    assert most_overlapping({"near": near, "a": far}) == {}
    assert most_overlapping({}) == {}


def test_of_as_many_losses_those_with_the_widest_range_are_compared() -> None:
    """On the scale of sqrt(KL): from 0 to 1 it is as far as from 4 to 9."""

    def curve(low: float, high: float) -> list[matched.Point]:
        return [matched.Point(np.full((1, 4), kl), np.full((1, 4), kl), [0]) for kl in (low, high)]

    near, far = curve(0.0, 1.0), curve(4.0, 8.9)
    assert list(most_overlapping({"a": near, "b": near, "c": far, "d": far})) == ["a", "b"]
    far = curve(4.0, 9.1)
    assert list(most_overlapping({"a": near, "b": near, "c": far, "d": far})) == ["c", "d"]


def test_what_is_left_out_of_the_common_range_is_counted(view_of: ViewOf) -> None:
    comparison = view_of("clean").comparison
    assert isinstance(comparison, MatchedComparison)
    assert comparison.coverage == "All of these losses cover"
    fewer = dataclasses.replace(comparison, compared=3)
    assert fewer.coverage.startswith("3 of 4 losses, the most")


def test_losses_share_a_letter_exactly_where_they_are_not_separated(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    assert view.matched is not None
    for level, letters in zip(view.comparison.levels, view.matched.letters, strict=True):
        for pair in level.compared:
            first, second = (set(letters[i].split(",")) for i in (pair.first, pair.second))
            assert pair.separated == (not first & second)


def test_many_names_become_letters(view_of: ViewOf, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of("clean")
    assert "Groups of which no two losses" in render_markdown(view, [])
    monkeypatch.setattr(matched_table, "_NAMES", 1)
    assert isinstance(view.comparison, MatchedComparison)
    tables = matched_tables(view.comparison, view.series)
    crowded = dataclasses.replace(view, matched=tables, also_matched=())
    text = render_markdown(crowded, [])
    assert "Groups of which no two losses" not in text
    assert "Losses that share a letter are not separated" in text


def test_a_prompt_without_reward_in_one_trial_is_left_out_of_all(
    folder_of: ByName, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of("hostile"), tmp_path / "copy"))
    file = min(folder.glob("trials/*/samples.parquet"))
    table = pd.read_parquet(file)
    table.loc[table["prompt_id"] == "p0003", "reward"] = np.nan
    table.to_parquet(file)
    assert compared(folder_of("hostile")).prompts == 64
    assert compared(folder).prompts == 63


def test_the_comparison_is_the_same_every_time(folder_of: ByName) -> None:
    assert compared(folder_of("hostile")) == compared(folder_of("hostile"))


def test_seeds_are_averaged_not_counted_as_prompts(folder_of: ByName) -> None:
    assert compared(folder_of("two_seeds")).prompts == 64


def test_tables_show_every_loss_and_pair_at_every_level(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    assert view.matched is not None
    assert len(view.matched.values.rows) == 4
    assert len(view.matched.differences.rows) == 6
    for column, level in enumerate(view.comparison.levels):
        for row, pair in enumerate(level.pairs):
            title, *cells = view.matched.differences.rows[row].cells
            assert (
                title.text
                == f"{view.series[pair.first].label} \u2212 {view.series[pair.second].label}"
            )
            cell = cells[column]
            assert isinstance(cell, DifferenceCell)
            assert cell.value == pair.difference.value
            assert cell.notes[0] == ("separated" if pair.separated else "not separated")
            assert cell.strong == pair.separated
            low, value, high = cell.strip or (0, 0, 0)
            assert 0 <= low <= value <= high <= 1
            assert low > 0.5 or high < 0.5 or not pair.separated


def test_a_loss_outside_the_range_has_a_dash_and_the_reason(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    level = view.comparison.middle
    rewards = {index: found for index, found in level.values.items() if index != 3}
    pairs = tuple(
        dataclasses.replace(pair, reason="not covered by both") if pair.second == 3 else pair
        for pair in level.pairs
    )
    partial = dataclasses.replace(
        level, values=rewards, reasons={3: "spans KL 5 to 6"}, pairs=pairs
    )
    tables = matched_tables(dataclasses.replace(view.comparison, levels=(partial,)), view.series)
    assert tables.values.rows[3].cells[1].text == "\u2013"
    assert tables.values.rows[3].cells[1].detail == "spans KL 5 to 6"
    assert len(tables.differences.rows) == 3
    assert not any("ipo" in row.cells[0].text for row in tables.differences.rows)
    last = difference_cell(pairs[-1], 1.0, REWARD)
    assert (last.strip, last.notes, last.strong) == (None, ("not covered by both",), False)


def test_the_number_of_prompts_is_rounded_upwards(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    pair = next(pair for pair in view.comparison.middle.pairs if pair.prompts)
    needed = difference_cell(dataclasses.replace(pair, prompts=1234), 1.0, REWARD).notes[1]
    assert needed == "about 1,300 prompts would separate"


def test_seeds_and_their_part_of_the_spread_are_said_where_there_are_several(
    view_of: ViewOf,
) -> None:
    def cells(name: str) -> list[DifferenceCell]:
        matched = view_of(name).matched
        assert matched is not None
        cells = [cell for row in matched.differences.rows for cell in row.cells]
        return [cell for cell in cells if isinstance(cell, DifferenceCell) and cell.strip]

    assert {cell.notes[2] for cell in cells("clean")} == {""}
    both = cells("two_seeds")
    comparison = view_of("two_seeds").comparison
    assert isinstance(comparison, MatchedComparison)
    pair = next(p for p in comparison.middle.compared if not p.separated and p.shares)
    assert all(cell.notes[2].startswith("standard error ") for cell in both)
    shown = dataclasses.replace(pair, prompts=1234, seeds=7, shares=(0.0125, 0.25))
    cell = difference_cell(shown, 1.0, REWARD)
    assert cell.notes[1] == "about 1,300 prompts or 7 seeds would separate"
    assert cell.notes[2] == "standard error 0.013 from prompts, 0.250 from seeds"
    seeds_only = dataclasses.replace(shown, prompts=None)
    assert difference_cell(seeds_only, 1.0, REWARD).notes[1] == "7 seeds would separate"
    neither = difference_cell(dataclasses.replace(seeds_only, seeds=None), 1.0, REWARD).notes[1]
    assert neither == "neither prompts alone nor seeds alone would separate"
    assert difference_cell(dataclasses.replace(shown, separated=True), 1.0, REWARD).notes[1] == ""


def test_very_many_pairs_leave_room_for_those_with_the_best_loss(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of("clean")
    assert isinstance(view.comparison, MatchedComparison)
    assert view.matched is not None
    assert view.matched.shown == view.matched.differences
    monkeypatch.setattr(matched_table, "_ROOM", 5)
    tables = matched_tables(view.comparison, view.series)
    rewards = view.comparison.middle.values
    best = view.series[max(rewards, key=lambda index: rewards[index].value)].label
    assert len(tables.differences.rows) == 6
    titles, shown = (
        [row.cells[0].text for row in table.rows] for table in (tables.differences, tables.shown)
    )
    assert shown == [title for title in titles if best in title.split(" \u2212 ")]
    assert len(shown) == 3
