"""Tables show the results' own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import position
from dpo_bench.analysis.metrics import KL, REWARD, present
from dpo_bench.report.table_values import measured_cell
from tests.report.conftest import ViewOf

SHOWN = (
    "win_rate",
    "reward",
    "kl",
    "frontier_gap",
    "preference_accuracy",
    "margin",
    "chosen_logratio",
    "rejected_logratio",
    "response_tokens",
    "win_rate_chosen",
    "kl_monte_carlo",
)


def test_every_cell_is_the_value_of_the_results(view_of: ViewOf) -> None:
    view = view_of("clean")
    rows = {trial.id: trial.row for trial in view.results.trials}
    for row in view.table.rows:
        figures = [cell.value for cell in row.cells[3:-1]]
        expected = [rows[row.trial][name] for name in SHOWN]
        assert [f"{one}" for one in figures] == [
            "None" if np.isnan(one) else f"{one}" for one in expected
        ]
    assert len(view.table.columns) == 3 + len(SHOWN) + 1


def test_a_cell_has_interval_and_n(view_of: ViewOf) -> None:
    row = view_of("clean").table.rows[0]
    record = view_of("clean").results.trials[0].row
    assert row.cells[3].text == f"{record['win_rate']:.3f}"
    low, high = record["win_rate_low"], record["win_rate_high"]
    assert row.cells[3].detail == f"[{low:.3f}, {high:.3f}], n = 256"


def test_a_missing_figure_is_a_dash_and_never_zero(view_of: ViewOf) -> None:
    failed = next(row for row in view_of("clean").table.rows if row.failed)
    assert {cell.text for cell in failed.cells[3:-1]} == {"\u2013"}
    assert {cell.value for cell in failed.cells[3:-1]} == {None}


def test_a_narrow_interval_gets_the_digits_it_needs() -> None:
    cell = measured_cell(Estimate(0.10213, 0.0981, 0.1064, 64), KL)
    assert (cell.text, cell.detail) == ("0.102", "[0.098, 0.106], n = 64")
    assert measured_cell(Estimate(0.5, 0.5, 0.5, 8), REWARD).text == "0.500"
    assert measured_cell(Estimate(0.5), REWARD).detail == ""


def test_measures_that_nobody_has_are_left_out(view_of: ViewOf) -> None:
    titles = [title for title, _ in view_of("no_reward").table.columns]
    assert not any("reward" in title.lower() or "Win rate" in title for title in titles)
    assert present(view_of("all_failed").results, (KL, REWARD)) == ()


def test_seeds_get_a_column_only_when_there_are_several(view_of: ViewOf) -> None:
    assert "Seed" not in dict(view_of("clean").table.columns)
    assert "Seed" in dict(view_of("two_seeds").table.columns)
    assert view_of("clean").seeds is None


def test_spread_over_seeds_is_the_sample_standard_deviation(view_of: ViewOf) -> None:
    view = view_of("two_seeds")
    assert view.seeds is not None
    place = [title for title, _ in view.seeds.columns].index("Mean reward")
    setting = view.series[0].settings[0]
    values = [trial.row["reward"] for trial in setting.trials]
    cell = view.seeds.rows[0].cells[place]
    assert cell.value == pytest.approx(np.mean(values))
    assert cell.detail == f"± {np.std(values, ddof=1):.3f}"


def test_heat_maps_are_by_rank_and_colored_by_value(view_of: ViewOf) -> None:
    view = view_of("clean")
    maps = {one.measure.name: one for one in view.heat_maps}
    win = maps["win_rate"]
    shares = [cell.share for _, cells in win.rows for cell in cells if cell.share is not None]
    assert min(shares) == 0
    assert max(shares) == 1
    assert [cell.strength for cell in win.rows[3][1]] == ["0.1", "0.3", "1", "3", "10"]
    assert win.rows[1][1][0].cell.text == "failed"
    assert win.rows[1][1][0].share is None
    kl = maps["kl"]
    value = view.series[0].settings[2].mean("kl") or 0
    width = position(kl.high) - position(kl.low)
    assert kl.rows[0][1][2].share == pytest.approx((position(value) - position(kl.low)) / width)


def test_a_heat_map_over_seeds_says_how_many_it_averages(view_of: ViewOf) -> None:
    cells = view_of("two_seeds").heat_maps[0].rows[0][1]
    assert cells[0].cell.detail == "mean of 2 seeds"


def test_a_map_of_one_cell_is_in_the_middle_of_the_scale(view_of: ViewOf) -> None:
    assert view_of("single").heat_maps[0].rows[0][1][0].share == 0.5
