"""The page's interactive pictures as plotly figures in plain values.

Colours are written ``@name`` or ``@name/opacity``; the page's script replaces them by its custom
properties of that name, so that pictures follow the light and the dark scheme. Text from data
goes through `plotly_text`, because plotly reads some HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dpo_bench.report.measured import Measured
from dpo_bench.report.measures import CHOSEN, KL, REJECTED, REWARD, WIN_RATE, Measure
from dpo_bench.report.read import SweepResults
from dpo_bench.report.reference import CurvePoint
from dpo_bench.report.scale import AXIS_TITLE, position, ticks
from dpo_bench.report.series import Series, kl_position, largest_kl, trial_label
from dpo_bench.report.text import clipped, interval, number, plain_number, plotly_text, rounded
from dpo_bench.report.theme import rank_shade

Trace = dict[str, Any]
TRAINING_COLUMNS = (
    ("margin", "Margin (nats)"),
    ("loss", "Loss"),
    ("accuracy", "Accuracy on the step's pairs"),
    ("chosen_logratio", "Chosen log-ratio (nats)"),
    ("rejected_logratio", "Rejected log-ratio (nats)"),
    ("gradient_norm", "Gradient norm"),
)
_TITLE = {"size": 14}
_TRAINING_BUDGET = 30_000
"""values that the training curves of all trials together may take in the page"""
_PANEL_LIMIT = 24
"""characters of a panel's title"""
_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>"


def frontier_chart(results: SweepResults, series: Sequence[Series]) -> dict[str, Any]:
    """Reward against KL with the optimal frontier, best-of-n and the reference."""
    frontier, best = results.reference.frontier, results.reference.best_of_n
    reference = results.reference.reward
    data = _frontier_traces(frontier)
    if best:
        data.append(_best_of_n_trace(best))
    for one in series:
        data += _series_traces(results, one, REWARD)
    if reference.value is not None:
        data.append(_reference_trace(reference))
    layout = _layout(largest_kl(results), REWARD.axis)
    layout["annotations"] = _frontier_end(frontier, position(largest_kl(results)))
    return {"data": data, "layout": layout}


def against_kl_chart(
    results: SweepResults, series: Sequence[Series], measure: Measure
) -> dict[str, Any]:
    """Any measure against KL, one curve per series."""
    data = [trace for one in series for trace in _series_traces(results, one, measure)]
    layout = _layout(largest_kl(results), measure.axis)
    if measure == WIN_RATE:
        layout["shapes"] = [_level_line(0.5)]
        layout["annotations"] = [_note(1.0, 0.5, "as good as the reference", xref="x domain")]
    return {"data": data, "layout": layout}


def displacement_chart(results: SweepResults, series: Sequence[Series]) -> dict[str, Any]:
    """Chosen (filled, solid) and rejected (open, dotted) log-ratios against KL."""
    data: list[Trace] = []
    for one in series:
        data += _series_traces(results, one, CHOSEN)
        for trace in _series_traces(results, one, REJECTED):
            if "line" in trace:
                trace["line"] |= {"dash": "dot"}
            if "marker" in trace:
                trace["marker"] |= {"symbol": f"{one.style.marker.plotly}-open"}
            data.append(trace)
    layout = _layout(largest_kl(results), "Log-ratio on held-out pairs (nats)")
    layout["shapes"] = [_level_line(0.0)]
    layout["annotations"] = [_note(1.0, 0.0, "as likely as under the reference", xref="x domain")]
    return {"data": data, "layout": layout}


def training_data(results: SweepResults, series: Sequence[Series]) -> dict[str, Any]:
    """What the page's script draws the training curves from, a panel per series.

    With very many trials only every so many logged steps are kept (``every``), evenly.
    """
    logged = [
        (one, setting, trial)
        for one in series
        for setting in one.settings
        for trial in setting.trials
        if len(trial.training)
    ]
    known = [
        column
        for column in TRAINING_COLUMNS
        if any(column[0] in trial.training for *_, trial in logged)
    ]
    rows = sum(len(trial.training) for *_, trial in logged)
    every = -(-rows * len(known) // _TRAINING_BUDGET) or 1
    lines = [
        {
            "series": one.index,
            "label": plotly_text(trial_label(one, trial, results.seeds)),
            "shade": rank_shade(setting.rank, len(one.settings)),
            "failed": not trial.done,
        }
        | _curves(_thinned(trial.training, every), [name for name, _ in known])
        for one, setting, trial in logged
    ]
    panels = {one.index: plotly_text(clipped(one.label, _PANEL_LIMIT)) for one in series}
    return {"lines": lines, "panels": panels, "columns": known, "every": every}


def _thinned(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """Every so many rows, the last one always."""
    last = len(table) - 1
    return table.iloc[sorted({*range(0, len(table), every), last})]


def _curves(table: pd.DataFrame, names: Sequence[str]) -> dict[str, list[Any]]:
    """Steps and values of one trial; a value that is not finite is None."""
    values = {
        name: [rounded(float(value), 4) for value in table[name]] for name in names if name in table
    }
    return {"step": [int(step) for step in table["step"]]} | values


def _series_traces(results: SweepResults, series: Series, measure: Measure) -> list[Trace]:
    """A line through the settings (means over seeds) and a marker with intervals per trial."""
    colour = f"@series-{series.style.colour}"
    centre = [(setting.mean(KL.name), setting.mean(measure.name)) for setting in series.settings]
    known = [(kl, value) for kl, value in centre if kl is not None and value is not None]
    if not known:
        return []
    line: Trace = {
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "meta": {"series": series.index},
        "x": [rounded(position(kl)) for kl, _ in known],
        "y": [rounded(value) for _, value in known],
        "line": {"color": colour, "width": 2, "dash": series.style.dash[0]},
    }  # fmt: skip
    trials = [
        (trial_label(series, trial, results.seeds), trial.measured(KL.name), figure)
        for trial in series.done
        if (figure := trial.measured(measure.name)).value is not None
    ]  # fmt: skip
    points: Trace = {
        "type": "scatter", "mode": "markers", "meta": {"series": series.index},
        "x": [rounded(position(kl.value or 0)) for _, kl, _ in trials],
        "y": [rounded(value.value) for _, _, value in trials],
        "marker": {"color": colour, "size": 9, "symbol": series.style.marker.plotly,
                   "line": {"color": "@ground", "width": 1}},
        "error_x": _errors([kl_position(kl) for _, kl, _ in trials], colour),
        "error_y": _errors([value for _, _, value in trials], colour),
        "customdata": [
            [plotly_text(label), _hover_line(KL, kl), _hover_line(measure, value)]
            for label, kl, value in trials
        ],
        "hovertemplate": _HOVER,
    }  # fmt: skip
    return [line, points]


def _errors(values: Sequence[Measured], colour: str) -> Trace:
    def length(value: Measured, end: float | None) -> float | None:
        return None if end is None or value.value is None else rounded(abs(end - value.value))

    return {
        "type": "data", "symmetric": False, "color": f"{colour}/0.55", "thickness": 1.2, "width": 0,
        "array": [length(value, value.high) for value in values],
        "arrayminus": [length(value, value.low) for value in values],
    }  # fmt: skip


def _hover_line(measure: Measure, value: Measured) -> str:
    unit = f" {measure.unit}" if measure.unit else ""
    decimals = measure.digits(value)
    brackets = interval(value.low, value.high, decimals)
    n = "" if value.n is None else f", n = {value.n:,}"
    return f"{measure.title} {number(value.value, decimals)}{unit} {brackets}{n}"


def _frontier_traces(frontier: Sequence[CurvePoint]) -> list[Trace]:
    if not frontier:
        return []
    x = [rounded(position(point.kl)) for point in frontier]
    edge = [rounded(point.high) for point in frontier]
    edge += [rounded(point.low) for point in reversed(frontier)]
    band: Trace = {
        "type": "scatter", "mode": "lines", "fill": "toself", "hoverinfo": "skip",
        "x": x + x[::-1], "y": edge, "line": {"width": 0}, "fillcolor": "@frontier/0.22",
    }  # fmt: skip
    line: Trace = {
        "type": "scatter", "mode": "lines", "x": x,
        "y": [rounded(point.reward) for point in frontier],
        "line": {"color": "@frontier", "width": 2.5},
        "customdata": [_curve_hover("optimal frontier", point) for point in frontier],
        "hovertemplate": _HOVER,
    }  # fmt: skip
    return [band, line]


def _frontier_end(frontier: Sequence[CurvePoint], width: float) -> list[dict[str, Any]]:
    if not frontier:
        return []
    end = frontier[-1]
    text = f"optimum known to KL {number(end.kl, 1)}"
    side = "left" if position(end.kl) < width / 2 else "right"  # where a narrow screen has room
    return [_note(position(end.kl), end.high, text) | {"yshift": 2, "xanchor": side}]


def _best_of_n_trace(best: Sequence[CurvePoint]) -> Trace:
    return {
        "type": "scatter", "mode": "lines+markers",
        "x": [rounded(position(point.kl)) for point in best],
        "y": [rounded(point.reward) for point in best],
        "line": {"color": "@frontier", "width": 1.3, "dash": "dot"},
        "marker": {"color": "@ground", "size": 6, "symbol": "circle",
                   "line": {"color": "@frontier", "width": 1.3}},
        "customdata": [
            _curve_hover(f"best of {point.n} reference samples", point) for point in best
        ],
        "hovertemplate": _HOVER,
    }  # fmt: skip


def _curve_hover(title: str, point: CurvePoint) -> list[str]:
    reward = Measured(point.reward, point.low, point.high)
    return [title, f"KL {number(point.kl, KL.decimals)} nats", _hover_line(REWARD, reward)]


def _reference_trace(reward: Measured) -> Trace:
    return {
        "type": "scatter", "mode": "markers", "x": [0], "y": [rounded(reward.value)],
        "marker": {"color": "@ink", "size": 11, "symbol": "star"},
        "error_y": _errors([reward], "@ink"), "cliponaxis": False,
        "customdata": [["the reference", "KL 0 nats", _hover_line(REWARD, reward)]],
        "hovertemplate": _HOVER,
    }  # fmt: skip


def _layout(largest: float, title: str) -> dict[str, Any]:
    labels = ticks(largest)
    axis = {
        "gridcolor": "@grid", "linecolor": "@line", "zeroline": False, "ticks": "outside",
        "tickcolor": "@line", "automargin": True,
    }  # fmt: skip
    return {
        "xaxis": axis | {
            "title": {"text": AXIS_TITLE, "standoff": 10, "font": _TITLE},
            "range": [-0.02 * position(largest), 1.03 * position(largest)],
            "tickmode": "array", "tickvals": [rounded(position(kl)) for kl in labels],
            "ticktext": [plain_number(kl) for kl in labels],
        },
        "yaxis": axis | {"title": {"text": title, "standoff": 8, "font": _TITLE}},
        "showlegend": False, "hovermode": "closest",
        "margin": {"l": 56, "r": 14, "t": 14, "b": 52},
    }  # fmt: skip


def _level_line(level: float) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x domain", "x0": 0, "x1": 1, "y0": level, "y1": level,
        "layer": "below", "line": {"color": "@muted", "width": 1, "dash": "dash"},
    }  # fmt: skip


def _note(x: float, y: float, text: str, xref: str = "x") -> dict[str, Any]:
    return {
        "x": rounded(x), "y": rounded(y), "xref": xref, "yref": "y", "text": text,
        "showarrow": False, "xanchor": "right", "yanchor": "bottom",
        "font": {"size": 12, "color": "@muted"},
    }  # fmt: skip
