"""The sections on a search and on tuning say what the sweep's record and its trials have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.frames import trials
from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.analysis.tuning import tuned_losses
from dpo_bench.report.page_data import page_data
from dpo_bench.report.sections.search import search_section
from dpo_bench.report.sections.section import ReportSection
from dpo_bench.report.view import ReportView, build_view
from dpo_bench.report.write import write_report
from tests.report.conftest import ViewOf
from tests.report.sweep_search import KLS, STOPPED, searched, tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("searched") / "sweep")


@pytest.fixture(scope="module")
def view(folder: Path) -> ReportView:
    return build_view(read_sweep(folder))


@pytest.fixture(scope="module")
def of_rates(tmp_path_factory: pytest.TempPathFactory) -> ReportView:
    return build_view(read_sweep(tuned(tmp_path_factory.mktemp("tuned") / "sweep")))


def section(view: ReportView, key: str) -> ReportSection:
    (found,) = (one for one in view.further if one.key == key)
    return found


def changed(results: SweepResults, **values: object) -> str:
    found = search_section(replace(results, search={**results.search, **values}), ())
    assert found is not None
    return found.about


def test_every_target_has_its_setting_or_why_there_is_none(view: ReportView) -> None:
    dpo, ipo = section(view, "search").table.rows
    assert [cell.text for cell in dpo.cells] == ["dpo", "beta 1", "beta 0.3", "beta 0.1", "5", "0"]
    assert dpo.cells[1].notes == ("KL 1.02",)
    assert not any(cell.strong for cell in dpo.cells)
    assert ipo.cells[2].text == "beta 1, learning_rate 0.002"
    assert ipo.cells[2].notes == ("KL 2.04", "by learning_rate")
    assert ipo.cells[2].strong
    assert ipo.cells[3].notes == ("KL stays between 4.9 and 6.6 for tau from 0.1 to 0.3",)
    assert [cell.text for cell in ipo.cells[-2:]] == ["5", "1"]


def test_the_text_says_what_it_took_and_why_it_ended(view: ReportView) -> None:
    about = section(view, "search").about
    assert "KL to the reference of 1.00, 2.00 and 4.00 nats" in about
    assert "1 of 2 losses reaches every one of them, 1 by its own hyperparameters alone" in about
    assert "10 trials with the first seed" in about
    assert f"saved 80 of its 120 steps ({STOPPED})" in about
    assert "2 seeds, which may spend 5.00% of false verdicts, 1 loss was open (ipo)" in about
    assert "every comparison was decided" in about
    assert "It goes on" in changed(view.results, end="", looks=[])
    assert "number of trials" in changed(view.results, end="trials")
    assert "time was over" in changed(view.results, end="hours")


def test_the_opening_has_the_targets_and_how_many_reach_all(view: ReportView) -> None:
    assert isinstance(view.comparison, MatchedComparison)
    first = view.findings.sentences[0]
    assert "(1.00, 2.00 and 4.00 nats)" in first
    assert f"{view.comparison.everywhere} of 2 losses are compared at every one" in first
    again = view.findings.sentences[1]
    assert "Model, data set and length of training were not varied" in again, "the rate was"
    assert "15 finished, 1 stopped early" in view.findings.also[0]
    assert view.failed == ()
    assert "1 stopped early" in view.findings.tiles[-1].detail
    assert (
        "Settings of each loss",
        "searched for, to reach KL 1, 2 and 4 nats",
    ) in view.setup.tuned


def test_a_stopped_trial_is_shown_as_such(view: ReportView, folder: Path) -> None:
    states = [cell.text for row in view.table.rows for cell in row.cells if "stop" in cell.text]
    assert states == [f"stopped: {STOPPED}"]
    page = write_report(folder).read_text("utf-8")
    assert "How the settings were found" in page
    assert "No trial failed." in page
    assert "No trial failed." in (folder / "report.md").read_text("utf-8")


def test_what_was_only_tried_is_drawn_and_not_joined(view: ReportView) -> None:
    shown = page_data(view)["trials"]
    on_curve = {t.id for one in view.series for s in one.settings for t in s.trials}
    assert {one["id"] for one in shown if one["setting"] is not None} == on_curve
    assert len(shown) == len(view.results.trials) > len(on_curve)
    assert {one["status"] for one in shown} == {"done", "stopped"}
    rates = {one["settings"]["learning_rate"] for one in shown if one["series"] == 1}
    assert rates == {"0.001", "0.002"}, "the one key of training in which trials differ"


def test_the_frame_of_trials_has_the_keys_in_which_they_differ(view: ReportView) -> None:
    table = trials(view.results)
    assert set(table["learning_rate"]) == {0.001, 0.002}
    assert "steps" not in table, "all have the same"
    assert table["status"].value_counts().to_dict() == {"done": 15, "stopped": 1}
    assert set(table.loc[table["status"] == "stopped", "error"]) == {STOPPED}


def test_losses_are_ranked_at_each_kl_by_itself(view: ReportView) -> None:
    assert view.matched is not None
    comparison = view.matched.comparison
    table = view.matched.ranking
    assert len(table.columns) == 1 + len(KLS)
    for column, level in enumerate(comparison.levels, 1):
        values = [row.cells[column].value for row in table.rows]
        assert values == sorted((one.value for one in level.values.values()), reverse=True)
        said = {row.cells[column].text.split()[0]: row.cells[column].notes for row in table.rows}
        assert said["dpo"] == ("baseline",)
        assert said["ipo"] == (level.pairs[0].verdict,)


def test_a_loss_without_a_figure_at_a_kl_has_no_place_there(view_of: ViewOf) -> None:
    matched = view_of("clean").matched
    assert matched is not None
    for column, level in enumerate(matched.comparison.levels, 1):
        shown = [row.cells[column].value is not None for row in matched.ranking.rows]
        assert sum(shown) == len(level.values)
        assert shown == sorted(shown, reverse=True)


def test_what_tuning_bought_is_shown_by_value(of_rates: ReportView) -> None:
    found = section(of_rates, "tuning")
    (gain,) = tuned_losses(of_rates.results, of_rates.series)
    first, second = found.table.rows
    assert first.cells[1].text == "learning_rate 0.001"
    assert second.cells[1].notes == ("chosen",)
    assert second.cells[4].value == gain.gain.value
    assert [row.cells[5].value for row in found.table.rows] == list(gain.expected)
    assert "1 loss was tuned over learning_rate" in found.about
    assert "is above 0 with dpo" in found.about
    said = dict(of_rates.setup.tuned)["Training of dpo"]
    assert said.endswith("chosen learning_rate 0.002")
    assert any("Beside learning_rate no setting" in one for one in of_rates.setup.caveats)


def test_given_strengths_have_neither_section(view_of: ViewOf) -> None:
    assert not {"search", "tuning"} & {one.key for one in view_of("clean").further}
