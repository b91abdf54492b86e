"""What the page draws from is the results' numbers, each trial once, texts as they are."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpo_bench.analysis.matched_policies import matched_policies
from dpo_bench.analysis.results import read_sweep
from dpo_bench.report import training_curves
from dpo_bench.report.page_data import page_data
from dpo_bench.report.training_curves import training_data
from dpo_bench.report.view import build_view
from dpo_bench.wording import one_line
from tests.report.conftest import ByName, ViewOf
from tests.report.sweep_world import HOSTILE_LOSS
from tests.sealing import as_written


def test_every_trial_is_there_once_with_its_figures_intervals_and_n(view_of: ViewOf) -> None:
    view = view_of("clean")
    data = page_data(view)
    rows = {trial.id: trial.row for trial in view.results.trials}
    assert sorted(one["id"] for one in data["trials"]) == sorted(rows)
    for one in data["trials"]:
        row = rows[one["id"]]
        if not one["done"]:
            assert one["values"] == {}
            assert one["error"].startswith("the loss is not finite")
            continue
        for name in ("reward", "win_rate", "kl", "response_tokens"):
            ends = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            assert one["values"][name][:3] == pytest.approx(ends, rel=1e-5)
            assert one["values"][name][3] == 256
        assert one["settings"]["beta"] == f"{row['beta']:g}"


def test_a_figure_that_only_the_evaluation_holds_is_drawn_and_missing_ones_are_absent(
    view_of: ViewOf,
) -> None:
    data = page_data(view_of("clean"))
    gaps = ["frontier_gap" in one["values"] for one in data["trials"] if one["done"]]
    assert True in gaps
    assert False in gaps
    assert page_data(view_of("no_reward"))["measures"].keys() & {"reward", "win_rate"} == set()


def test_axes_begin_with_kl_and_the_headline_figures(view_of: ViewOf) -> None:
    assert page_data(view_of("clean"))["first"] == [["kl", "reward"], ["kl", "win_rate"]]
    without = page_data(view_of("no_reward"))["first"]
    assert without == [["kl", "preference_accuracy"], ["kl", "chosen_logratio"]]


def test_the_kl_axis_has_labels_in_nats_up_to_its_end(view_of: ViewOf) -> None:
    kl = page_data(view_of("clean"))["measures"]["kl"]
    assert kl["root"] is True
    assert kl["ticks"][0] == 0
    assert kl["ticks"][-1] <= kl["largest"]


def test_frontier_best_of_n_and_reference(view_of: ViewOf) -> None:
    view = view_of("clean")
    found = page_data(view)["reference"]
    assert found["frontier"][-1][0] == pytest.approx(2.958, rel=1e-4)
    assert found["best"][1][0] == 2
    assert found["values"]["reward"][0] == pytest.approx(view.results.reference.reward.value)
    assert found["values"]["win_rate"][0] == 0.5


def test_selections_name_trials_by_place(view_of: ViewOf) -> None:
    data = page_data(view_of("clean"))
    chosen = {one["key"]: one["trials"] for one in data["selections"]}
    assert len(chosen["all"]) == 19
    assert sorted(data["trials"][one]["series"] for one in chosen["matched"]) == [0, 1, 2, 3]
    assert {data["trials"][one]["series"] for one in chosen["series-2"]} == {2}
    assert next(iter(chosen)) == "matched"
    assert page_data(view_of("all_failed"))["selections"] == []


def test_training_lines_are_the_logged_steps(view_of: ViewOf) -> None:
    view = view_of("clean")
    data = page_data(view)
    lines = data["training"]["lines"]
    assert len(lines) == 20
    table = view.series[0].trials[0].training_log
    assert data["trials"][lines[0]["trial"]]["id"] == view.series[0].trials[0].id
    assert lines[0]["step"] == table["step"].tolist()
    assert lines[0]["margin"] == pytest.approx(table["margin"].tolist(), rel=1e-3)
    assert [line["failed"] for line in lines].count(True) == 1
    assert page_data(view_of("untrained"))["training"]["lines"] == []


def test_very_many_steps_are_thinned_evenly_with_the_last_kept(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of("clean")
    places = {trial.id: 0 for trial in view.results.trials}
    full = training_data(view.series, places)
    assert full["every"] == 1
    monkeypatch.setattr(training_curves, "_BUDGET", 400)
    thin = training_data(view.series, places)
    assert thin["every"] == 4
    assert thin["lines"][0]["step"] == [0, 40, 80, 120]
    assert thin["lines"][0]["margin"] == full["lines"][0]["margin"][::4]


def test_names_are_texts_without_hidden_characters_and_numbers_are_finite(view_of: ViewOf) -> None:
    data = page_data(view_of("hostile"))
    assert data["series"][3]["label"] == one_line(HOSTILE_LOSS)
    assert "\u202e" not in json.dumps(data, allow_nan=False, ensure_ascii=False)
    assert len(json.dumps(page_data(view_of("clean")))) < 150_000


def test_intervals_are_hidden_at_first_where_curves_are_a_crowd(view_of: ViewOf) -> None:
    view = view_of("clean")
    assert page_data(view)["intervals"] is True
    crowd = tuple(dataclasses.replace(view.series[0], index=i, label=f"l{i}") for i in range(13))
    for count, expected in ((12, True), (13, False)):
        series = crowd[:count]
        policies = matched_policies(series, "not compared")
        shown = dataclasses.replace(view, series=series, policies=policies, selections=())
        assert page_data(shown)["intervals"] is expected


def test_points_along_training_end_at_the_trials_own(folder_of: ByName, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("single"), tmp_path / "copy"))
    results = read_sweep(folder)
    assert page_data(build_view(results))["along"] is False
    (trial,) = results.done
    rows = {"step": [80, 40], "kl": [0.5, 0.2], "reward": [np.nan, 0.1]}
    pd.DataFrame(rows).to_parquet(folder / "trials" / trial.id / "checkpoints.parquet")
    as_written(folder)
    data = page_data(build_view(read_sweep(folder)))
    assert data["along"] is True
    along = data["trials"][0]["along"]
    own = {name: found[0] for name, found in data["trials"][0]["values"].items()}
    assert along["step"] == [40, 80, 120]
    assert along["kl"] == pytest.approx([0.2, 0.5, own["kl"]], abs=1e-4)
    assert along["reward"] == pytest.approx([0.1, None, own["reward"]], abs=1e-4)
