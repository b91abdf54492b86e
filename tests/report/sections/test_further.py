"""Further findings stand where there is data for them, with the statistics' own figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpo_bench.analysis import matched
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.results import read_sweep
from dpo_bench.report.sections import further
from dpo_bench.report.sections import round_robin as strengths
from dpo_bench.report.view import build_view
from tests.report.conftest import ViewOf, small
from tests.report.sweep_folder import build


def test_a_full_sweep_has_all_sections_in_order(view_of: ViewOf) -> None:
    found = view_of("clean").further
    assert [one.key for one in found] == [
        "gaps",
        "areas",
        "overoptimization",
        "strengths",
        "length",
    ]
    assert [len(one.table.rows) for one in found] == [4, 6, 4, 2, 4]
    for one in found:
        assert {len(row.cells) for row in one.table.rows} == {len(one.table.columns)}


def test_areas_are_those_of_the_curves(view_of: ViewOf) -> None:
    view = view_of("clean")
    curves = read_curves(view.results, view.series)
    assert not isinstance(curves, str)
    expected = {area.mean.value for area in matched.areas(curves.curves, curves.weights)}
    shown = {row.cells[1].value for row in view.further[1].table.rows}
    assert shown == expected


def test_strengths_are_those_of_policies_at_the_compared_kl(view_of: ViewOf) -> None:
    view = view_of("clean")
    rows = view.further[3].table.rows
    kls = [float(row.cells[1].value or 0) for row in rows]
    assert all(abs(kl**0.5 - view.policies.kl**0.5) <= 0.1 for kl in kls)
    values = [float(row.cells[2].value or 0) for row in rows]
    assert values == sorted(values, reverse=True)


def test_raw_win_rates_beside_the_controlled_are_the_trials_own(view_of: ViewOf) -> None:
    view = view_of("clean")
    rates = {trial.row["win_rate"] for trial in view.results.done}
    for row in view.further[4].table.rows:
        assert min(abs(float(row.cells[1].value or 0) - rate) for rate in rates) == pytest.approx(0)


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
    assert "areas" not in found
    assert [row.cells[0].text for row in found["overoptimization"].table.rows] == ["dpo"]
