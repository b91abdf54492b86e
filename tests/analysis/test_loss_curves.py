"""Trials become curves: by loss and other settings, ordered by strength."""

from __future__ import annotations

from dataclasses import replace

from dpo_bench.analysis.kl_axis import position
from dpo_bench.analysis.loss_curves import kl_position, largest_kl, trial_label
from dpo_bench.analysis.series import group_series
from tests.report.conftest import ViewOf


def test_one_series_per_loss_in_the_order_of_the_table(view_of: ViewOf) -> None:
    series = view_of("clean").series
    assert [one.label for one in series] == ["dpo", "cdpo", "hinge", "ipo"]
    assert [one.index for one in series] == [0, 1, 2, 3]
    for one in series:
        strengths = [setting.strength for setting in one.settings]
        assert strengths == sorted(strengths, key=lambda value: value or 0)
        assert [setting.rank for setting in one.settings] == list(range(5))


def test_settings_that_differ_within_a_loss_split_it_and_name_the_parts(view_of: ViewOf) -> None:
    labels = [one.label for one in view_of("two_seeds").series]
    assert labels == [
        "dpo",
        "cdpo (label_smoothing 0.1)",
        "cdpo (label_smoothing 0.3)",
        "hinge",
        "ipo",
    ]


def test_seeds_share_a_setting_and_are_averaged(view_of: ViewOf) -> None:
    view = view_of("two_seeds")
    setting = view.series[0].settings[2]
    assert [trial.seed for trial in setting.trials] == [0, 1]
    values = [trial.row["kl"] for trial in setting.trials]
    assert setting.mean("kl") == sum(values) / 2
    first = view.series[0].settings[2].trials[1]
    assert trial_label(view.series[0], first, view.results.seeds) == "dpo, beta 0.3, seed 1"
    assert trial_label(view.series[0], first, (1,)) == "dpo, beta 0.3"


def test_a_failed_setting_has_no_mean(view_of: ViewOf) -> None:
    setting = view_of("clean").series[1].settings[0]
    assert setting.done == ()
    assert setting.mean("kl") is None


def test_a_mean_of_zero_is_higher_than_one_below_it(view_of: ViewOf) -> None:
    series = view_of("clean").series[0]
    means = [-2.0, 0.0, -1.0, None, -3.0]
    settings = tuple(
        replace(
            setting,
            trials=tuple(
                replace(trial, row={**trial.row, "gap": mean}) for trial in setting.trials
            ),
        )
        for setting, mean in zip(series.settings, means, strict=True)
    )
    assert replace(series, settings=settings).highest("gap") is settings[1]


def test_the_axis_holds_every_interval_and_curve(view_of: ViewOf) -> None:
    results = view_of("clean").results
    ends = [trial.row["kl_high"] for trial in results.done]
    assert largest_kl(results) == max(ends)
    assert largest_kl(view_of("all_failed").results) == max(
        point.kl
        for point in (
            *results.reference.frontier,
            *view_of("all_failed").results.reference.best_of_n,
        )
    )


def test_kl_intervals_move_with_their_value(view_of: ViewOf) -> None:
    kl = view_of("clean").results.done[0].estimate("kl")
    moved = kl_position(kl)
    assert kl.value is not None
    assert kl.low is not None
    assert (moved.value, moved.low) == (position(kl.value), position(kl.low))


def test_grouping_depends_on_nothing_but_the_results(view_of: ViewOf) -> None:
    results = view_of("two_seeds").results
    assert group_series(results) == group_series(results)
