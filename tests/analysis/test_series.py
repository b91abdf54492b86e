"""Trials become curves: by a search's record, or by what the given values leave to be tuned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dpo_bench.analysis.compare import (
    NO_BASELINE_YET,
    MatchedComparison,
    Plan,
    compare_series,
)
from dpo_bench.analysis.looks import WAITS
from dpo_bench.analysis.loss_curves import trial_label
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts, read_curves
from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.analysis.series import group_series
from dpo_bench.errors import ConfigurationError
from tests.report.sweep_search import STOPPED, searched, tuned
from tests.sealing import as_written


@pytest.fixture(scope="module")
def of_search(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    return read_sweep(searched(tmp_path_factory.mktemp("searched") / "sweep"))


@pytest.fixture(scope="module")
def of_rates(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    return read_sweep(tuned(tmp_path_factory.mktemp("tuned") / "sweep"))


def changed(results: SweepResults, **values: Any) -> SweepResults:
    return replace(results, search={**results.search, **values})


def curves(results: SweepResults) -> CurvesOnPrompts:
    found = read_curves(results, group_series(results))
    assert isinstance(found, CurvesOnPrompts)
    return found


def test_a_search_says_which_trials_make_a_curve(of_search: SweepResults) -> None:
    dpo, ipo = group_series(of_search)
    assert (dpo.label, ipo.label) == ("dpo", "ipo")
    assert {s.strength for s in dpo.settings} == {0.1, 0.3, 1.0}
    assert {s.strength for s in dpo.explored} == {0.03, 3.0}
    assert all(len(setting.trials) == 2 for setting in dpo.settings)
    assert {len(s.trials) for s in dpo.explored} == {1}
    assert {trial.id for one in (dpo, ipo) for trial in one.trials} == set(of_search.planned)
    assert len(curves(of_search).curves["0"]) == 3, "what was explored is no node of a curve"


def test_a_stopped_trial_is_none_that_failed(of_search: SweepResults) -> None:
    (stopped,) = of_search.stopped
    assert (stopped.status, stopped.done, of_search.failed) == ("stopped", False, ())
    assert stopped.state == f"stopped: {STOPPED}"
    assert stopped.stopped["limit"] == 16.0
    assert stopped.samples.empty
    assert len(stopped.training_log) == 13
    assert stopped in group_series(of_search)[1].trials


def test_settings_of_a_curve_may_differ_in_more_than_the_strength(of_search: SweepResults) -> None:
    _, ipo = group_series(of_search)
    labels = [trial_label(ipo, setting.trials[0], (0,)) for setting in ipo.settings]
    assert labels == [
        "ipo, beta 3, learning_rate 0.001",
        "ipo, beta 1, learning_rate 0.002",
        "ipo, beta 0.3, learning_rate 0.001",
    ], "by ascending KL"
    assert [setting.rank for setting in ipo.settings] == [0, 1, 2]


def test_trials_that_have_not_run_are_left_out(of_search: SweepResults) -> None:
    first = changed(of_search, trials=[*of_search.planned, "later"])
    first.search["series"][0]["path"].append("later")
    assert len(group_series(first)[0].settings) == 3


def test_a_learning_rate_that_was_not_chosen_is_explored(of_search: SweepResults) -> None:
    ids = {trial.id: trial for trial in of_search.trials if trial.loss == "ipo"}
    own = [one for one, trial in ids.items() if trial.training["learning_rate"] == 2e-3]
    rest = [one for one in of_search.search["series"][1]["path"] if one not in own]
    base = of_search.search["series"][1]
    rates: list[dict[str, Any]] = [
        base | {"key": f"ipo learning_rate={rate:g}", "learning_rate": rate, "path": path}
        for rate, path in ((1e-3, rest), (2e-3, own))
    ]
    dpo = of_search.search["series"][0]
    chosen = [rates[0] | {"chosen": True}, rates[1] | {"chosen": False}]
    _, ipo = group_series(changed(of_search, series=[dpo, *chosen]))
    assert ipo.label == "ipo"
    assert {s.strength for s in ipo.settings} == {0.3, 3.0}
    assert {trial.id for s in ipo.explored for trial in s.trials} >= set(own)
    assert [one.label for one in ipo.options] == ["learning_rate 0.001", "learning_rate 0.002"]
    assert ipo.chosen == 0
    unsettled = changed(of_search, series=[dpo, *(one | {"chosen": None} for one in rates)])
    labels = [one.label for one in group_series(unsettled)]
    assert labels == ["dpo", "ipo (learning_rate 0.001)", "ipo (learning_rate 0.002)"]


def test_values_of_training_are_tuned_and_the_other_half_compares(of_rates: SweepResults) -> None:
    dpo, ipo = group_series(of_rates)
    assert (dpo.label, ipo.label) == ("dpo", "ipo")
    assert [one.label for one in dpo.options] == ["learning_rate 0.001", "learning_rate 0.002"]
    assert dpo.chosen == 1, "the second gains .1 on every response"
    assert {t.training["learning_rate"] for s in dpo.settings for t in s.trials} == {0.002}
    assert {t.training["learning_rate"] for s in dpo.explored for t in s.trials} == {0.001}
    assert ipo.options == ()
    found = curves(of_rates)
    everything = sorted(of_rates.reference.prompts["prompt_id"])
    assert list(found.prompts) == everything[1::2], "for all losses"


def test_planned_looks_are_what_is_compared(of_search: SweepResults) -> None:
    def comparison(results: SweepResults) -> MatchedComparison:
        series = group_series(results)
        found = compare_series(read_curves(results, series), series, Plan.of(results))
        assert isinstance(found, MatchedComparison)
        return found

    one_seed = changed(of_search, looks=[{"seeds": [0], "level": 0.05, "open": []}])
    assert comparison(of_search).seeds == 2
    assert comparison(one_seed).seeds == 1
    waits = comparison(changed(of_search, looks=[], end=""))
    assert {one.reason for one in waits.family.all if one.compared} == {WAITS}
    ended = comparison(changed(of_search, looks=[], end="hours"))
    assert WAITS not in {one.reason for one in ended.family.all}


def test_before_the_baseline_has_one_curve_nothing_is_compared(of_search: SweepResults) -> None:
    dpo, ipo = of_search.search["series"]
    rates = [
        dpo | {"key": f"dpo learning_rate={rate}", "learning_rate": rate, "chosen": None,
               "path": path}
        for rate, path in ((1e-3, dpo["path"][:3]), (2e-3, dpo["path"][3:]))
    ]  # fmt: skip
    early = changed(of_search, series=[*rates, ipo], looks=[], end="")
    series = group_series(early)
    assert len(series) == 3
    plan = Plan(baseline="dpo", kl=(1.0, 2.0))
    assert compare_series(read_curves(early, series), series, plan) == NO_BASELINE_YET
    with pytest.raises(ConfigurationError, match="several variants"):
        compare_series(read_curves(of_search, series), series, plan)


def test_a_sweep_can_be_read_before_anything_was_found(tmp_path: Path) -> None:
    folder = searched(tmp_path / "sweep", end="")
    found = json.loads((folder / "search.json").read_text())
    found |= {
        "looks": [],
        "series": [one | {"path": [], "chosen": None} for one in found["series"]],
    }
    (folder / "search.json").write_text(json.dumps(found))
    table = pd.read_parquet(folder / "results.parquet")
    table.iloc[:1].to_parquet(folder / "results.parquet")
    as_written(folder)
    results = read_sweep(folder)
    (dpo,) = group_series(results)
    assert (dpo.settings, len(dpo.explored)) == ((), 1)
    assert results.pending == len(results.planned) - 1
    assert isinstance(read_curves(results, (dpo,)), str)
