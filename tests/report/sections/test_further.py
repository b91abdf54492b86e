"""Further findings stand where there is data for them, with the statistics' own figures."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.results import read_sweep
from dpo_bench.report.sections import further
from dpo_bench.report.sections import round_robin as strengths
from dpo_bench.report.sections.components import components_section
from dpo_bench.report.view import build_view
from tests.report.conftest import ViewOf, small
from tests.report.sweep_folder import build


def test_a_full_sweep_has_all_sections_in_order(view_of: ViewOf) -> None:
    found = view_of("clean").further
    assert [one.key for one in found] == [
        "gaps",
        "overoptimization",
        "strengths",
        "length",
    ]
    assert [len(one.table.rows) for one in found] == [4, 4, 2, 8]
    for one in found:
        assert {len(row.cells) for row in one.table.rows} == {len(one.table.columns)}


def test_components_are_the_medians_of_the_differences(view_of: ViewOf) -> None:
    view = view_of("two_seeds")
    assert isinstance(view.comparison, MatchedComparison)
    (section,) = (one for one in view.further if one.key == "components")
    spreads = [one.spread for one in view.comparison.family.all if one.spread]
    shown = {row.cells[0].text: row.cells[1].value for row in section.table.rows}
    assert shown["runs"] == median(one.runs for one in spreads)
    assert shown["prompts"] == median(one.prompts for one in spreads)
    shares = [float(row.cells[2].value or 0) for row in section.table.rows]
    assert sum(shares) == pytest.approx(1)
    assert section.table.rows[0].cells[3].text.startswith("twice the prompts")
    assert not any(one.key == "components" for one in view_of("clean").further)


def test_what_runs_differ_by_is_what_the_seeds_change(view_of: ViewOf) -> None:
    view = view_of("two_seeds")
    assert view.experiment is not None
    for resample, anew in (("none", False), ("bootstrap", True)):
        training = view.experiment.training.model_copy(update={"resample": resample})
        experiment = view.experiment.model_copy(update={"training": training})
        section = components_section(view.results, experiment, view.comparison)
        assert section is not None
        assert ("which each seed draws anew" in section.about) == anew
        assert ("the training pairs, model" in section.about) != anew


def test_strengths_are_those_of_policies_at_the_compared_kl(view_of: ViewOf) -> None:
    view = view_of("clean")
    rows = view.further[2].table.rows
    kls = [float(row.cells[1].value or 0) for row in rows]
    assert all(abs(kl**0.5 - view.policies.kl**0.5) <= 0.1 for kl in kls)
    values = [float(row.cells[2].value or 0) for row in rows]
    assert values == sorted(values, reverse=True)


def test_raw_win_rates_beside_the_controlled_are_the_trials_own(view_of: ViewOf) -> None:
    view = view_of("clean")
    for opponent, metric in (("reference", "win_rate"), ("chosen", "win_rate_chosen")):
        rates = [trial.value(metric) or 0.0 for trial in view.results.done]
        rows = [row for row in view.further[3].table.rows if row.cells[1].text == opponent]
        assert len(rows) == 4
        for row in rows:
            apart = [abs(float(row.cells[2].value or 0) - rate) for rate in rates]
            assert min(apart) == pytest.approx(0)


def test_length_control_says_how_many_policies_the_difficulties_rest_on(
    view_of: ViewOf, tmp_path: Path
) -> None:
    view = view_of("clean")
    assert f"over all {len(view.results.done)} policies" in view.further[3].about
    for count, words in (
        (1, "no difficulty is fitted"),
        (2, "over both 2 policies that met the opponent. With so few"),
    ):
        sweep = small(losses=("dpo",), strengths=count, failed=(), prompts=24)
        lone = build_view(read_sweep(build(tmp_path / str(count), sweep)))
        (section,) = (one for one in lone.further if one.key == "length")
        assert words in section.about


def test_too_many_losses_for_a_round_robin_are_told(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of("clean")
    curves = read_curves(view.results, view.series)
    assert not isinstance(curves, str)
    monkeypatch.setattr(strengths, "_ROUND", 1)
    sections = further.further_sections(
        view.results,
        view.experiment,
        view.series,
        curves=curves,
        policies=view.policies,
        gaps=view.gaps,
        comparison=view.comparison,
    )
    found = next(one for one in sections if one.key == "strengths")
    assert found.about.startswith("Left out: 2 losses are more than the 1 ")
    assert found.table.rows == ()


@pytest.mark.parametrize("variant", ["no_reward", "all_failed"])
def test_without_data_there_is_no_section(view_of: ViewOf, variant: str) -> None:
    assert view_of(variant).further == ()


def test_one_loss_alone_still_has_its_fit(tmp_path: Path) -> None:
    view = build_view(read_sweep(build(tmp_path / "sweep", small(losses=("dpo",), failed=()))))
    found = {one.key: one for one in view.further}
    assert "components" not in found
    assert [row.cells[0].text for row in found["overoptimization"].table.rows] == ["dpo"]
