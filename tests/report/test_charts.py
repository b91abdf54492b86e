"""Charts are valid plotly figures that show the results' numbers on the KL axis."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import pytest

from dpo_bench.report import charts, theme
from dpo_bench.report.charts import (
    against_kl_chart,
    displacement_chart,
    frontier_chart,
    training_data,
)
from dpo_bench.report.measures import ACCURACY, WIN_RATE
from dpo_bench.report.page import page_data
from dpo_bench.report.text import one_line
from tests.report.conftest import ViewOf
from tests.report.sweep_world import HOSTILE_LOSS

DECLARED = theme.custom_properties(dark=False).rstrip(";").split("; ")
COLOURS = dict(part.split(": ") for part in DECLARED)


def resolved(value: Any) -> Any:
    """The figure as the page's script draws it: names of colours replaced."""
    if isinstance(value, dict):
        return {key: resolved(one) for key, one in value.items()}
    if isinstance(value, list):
        return [resolved(one) for one in value]
    if isinstance(value, str) and value.startswith("@"):
        return COLOURS[f"--{value[1:].split('/')[0]}"]
    return value


@pytest.mark.parametrize("variant", ["two_seeds", "no_reward"])
def test_plotly_accepts_every_chart(view_of: ViewOf, variant: str) -> None:
    import plotly.graph_objects as go

    for chart in page_data(view_of(variant))["charts"].values():
        go.Figure(resolved(chart))


def points(chart: dict[str, Any], series: int) -> dict[str, Any]:
    (found,) = [
        t for t in chart["data"] if t.get("meta") == {"series": series} and t["mode"] == "markers"
    ]
    return dict(found)


def test_points_are_the_trials_with_intervals_in_both_directions(view_of: ViewOf) -> None:
    view = view_of("clean")
    chart = frontier_chart(view.results, view.series)
    for one in view.series:
        trace = points(chart, one.index)
        rows = [trial.row for trial in one.done]
        assert trace["x"] == pytest.approx([row["kl"] ** 0.5 for row in rows], rel=1e-4)
        assert trace["y"] == pytest.approx([row["reward"] for row in rows], rel=1e-4)
        up = [row["reward_high"] - row["reward"] for row in rows]
        left = [row["kl"] ** 0.5 - row["kl_low"] ** 0.5 for row in rows]
        assert trace["error_y"]["array"] == pytest.approx(up, rel=1e-3)
        assert trace["error_x"]["arrayminus"] == pytest.approx(left, rel=1e-3)


def test_frontier_band_end_best_of_n_and_reference(view_of: ViewOf) -> None:
    view = view_of("clean")
    chart = frontier_chart(view.results, view.series)
    assert chart["layout"]["annotations"][0]["text"] == "optimum known to KL 3.0"
    band, line, best = chart["data"][:3]
    assert max(line["x"]) == pytest.approx(2.958**0.5, rel=1e-4)
    assert len(band["x"]) == 2 * len(line["x"])
    assert best["customdata"][1][0] == "best of 2 reference samples"
    reference = chart["data"][-1]
    assert reference["x"] == [0]
    assert reference["y"] == [pytest.approx(view.results.reference.reward.value, rel=1e-4)]


def test_the_line_of_several_seeds_goes_through_their_mean(view_of: ViewOf) -> None:
    view = view_of("two_seeds")
    chart = against_kl_chart(view.results, view.series, WIN_RATE)
    (line,) = [t for t in chart["data"] if t.get("meta") == {"series": 0} and t["mode"] == "lines"]
    assert len(line["x"]) == 5
    assert len(points(chart, 0)["x"]) == 10
    assert line["y"][0] == pytest.approx(view.series[0].settings[0].mean("win_rate"), rel=1e-4)


def test_labels_of_the_axis_are_nats_at_their_places(view_of: ViewOf) -> None:
    view = view_of("clean")
    axis = against_kl_chart(view.results, view.series, ACCURACY)["layout"]["xaxis"]
    for place, label in zip(axis["tickvals"], axis["ticktext"], strict=True):
        assert place == pytest.approx(float(label) ** 0.5, rel=1e-4)
    assert "nats" in axis["title"]["text"]


def test_rejected_log_ratios_are_open_and_dotted(view_of: ViewOf) -> None:
    view = view_of("clean")
    data = displacement_chart(view.results, view.series)["data"]
    own = [trace for trace in data if trace["meta"] == {"series": 0}]
    assert [trace["mode"] for trace in own] == ["lines", "markers", "lines", "markers"]
    assert own[3]["marker"]["symbol"] == "circle-open"
    assert own[2]["line"]["dash"] == "dot"
    rows = [trial.row for trial in view.series[0].done]
    assert own[3]["y"] == pytest.approx([row["rejected_logratio"] for row in rows], rel=1e-4)


def test_training_lines_are_the_logged_steps(view_of: ViewOf) -> None:
    view = view_of("clean")
    data = training_data(view.results, view.series)
    assert len(data["lines"]) == 20
    first = data["lines"][0]
    table = view.series[0].trials[0].training
    assert first["step"] == table["step"].tolist()
    assert first["margin"] == pytest.approx(table["margin"].tolist(), rel=1e-3)
    assert [line["failed"] for line in data["lines"]].count(True) == 1
    empty = view_of("untrained")
    assert training_data(empty.results, empty.series)["lines"] == []


def test_names_from_data_are_inert_in_plotly(view_of: ViewOf) -> None:
    view = view_of("hostile")
    chart = frontier_chart(view.results, view.series)
    label = points(chart, 3)["customdata"][0][0]
    assert not set("<>{$") & set(label)
    assert html.unescape(label) == f"{one_line(HOSTILE_LOSS)}, beta 0.1"


def test_very_many_steps_are_thinned_evenly_with_the_last_kept(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of("clean")
    full = training_data(view.results, view.series)
    assert full["every"] == 1
    monkeypatch.setattr(charts, "_TRAINING_BUDGET", 400)
    thin = training_data(view.results, view.series)
    assert thin["every"] == 4
    assert thin["lines"][0]["step"] == [0, 40, 80, 120]
    assert thin["lines"][0]["margin"] == full["lines"][0]["margin"][::4]


def test_the_note_at_the_end_of_the_frontier_stays_on_a_narrow_screen(view_of: ViewOf) -> None:
    view = view_of("clean")
    (note,) = frontier_chart(view.results, view.series)["layout"]["annotations"]
    assert note["xanchor"] == "right"
    trials = tuple(
        dataclasses.replace(trial, row={**trial.row, "kl_high": 40.0})
        for trial in view.results.trials
    )
    far = dataclasses.replace(view.results, trials=trials)
    (note,) = frontier_chart(far, view.series)["layout"]["annotations"]
    assert note["xanchor"] == "left"
