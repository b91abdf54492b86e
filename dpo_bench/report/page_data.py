"""What the page's script works from: plain values, each said once; all pictures come from them.

Texts are visible characters as they are (`text.visible`); the script writes them as text, never as
markup, and escapes what plotly would read as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpo_bench.analysis.estimate import Estimate, finite
from dpo_bench.analysis.kl_axis import ticks
from dpo_bench.analysis.loss_curves import LossCurve, largest_kl, trial_label
from dpo_bench.analysis.metrics import CHOSEN, KL, REJECTED, Metric, explored, headline
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.configuration import spelled
from dpo_bench.report.families import loss_card
from dpo_bench.report.theme import style
from dpo_bench.report.training_curves import training_data
from dpo_bench.report.view import ReportView
from dpo_bench.wording import one_line, rounded, visible

_CROWD = 12
"""series from which intervals are first hidden: more of them cannot be told apart"""


def page_data(view: ReportView) -> dict[str, Any]:
    """Everything that the page's figures and panels show."""
    results, series = view.results, view.series
    ordered = [(one, trial) for one in series for trial in one.trials]
    settings = {t.id: point.rank for one in series for point in one.settings for t in point.trials}
    places = {trial.id: index for index, (_, trial) in enumerate(ordered)}
    measures = explored(results)
    return {
        "measures": {one.name: _measure(one, results) for one in measures},
        "first": _first_axes(results),
        "intervals": len(series) <= _CROWD,
        "along": any(not trial.checkpoints.empty for _, trial in ordered),
        "series": [_series(one) for one in series],
        "trials": [
            _trial(one, trial, results, measures) | {"setting": settings.get(trial.id)}
            for one, trial in ordered
        ],
        "reference": _reference(results),
        "training": training_data(series, places),
        "selections": [
            {
                "key": one.key,
                "title": one_line(one.title),
                "trials": [places[trial.id] for _, trial in one.policies],
            }
            for one in view.selections
        ],
        "textColumns": view.table.text_columns,
    }


def _measure(measure: Metric, results: SweepResults) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": measure.title, "axis": measure.axis, "unit": measure.unit,
        "decimals": measure.decimals, "about": measure.about,
    }  # fmt: skip
    if measure == KL:
        largest = largest_kl(results)
        found |= {"root": True, "ticks": ticks(largest), "largest": rounded(largest)}
    return found


def _first_axes(results: SweepResults) -> list[list[str]]:
    """The axes of the linked charts, two at most, when the page opens; none without KLs."""
    if not results.has_kl:
        return []
    upright = [measure.name for measure in headline(results)]
    upright += [CHOSEN.name] if len(upright) < 2 and results.has(CHOSEN.name) else []
    return [[KL.name, name] for name in upright[:2]]


def _series(series: LossCurve) -> dict[str, Any]:
    return {
        "label": one_line(series.label),
        "family": loss_card(series.loss).family,
        "color": style(series.index).color,
        "symbol": style(series.index).marker.plotly,
        "path": style(series.index).marker.path,
        "dash": style(series.index).dash[0],
        "strength": one_line(series.strength_name),
    }


def _trial(
    series: LossCurve, trial: Trial, results: SweepResults, measures: Sequence[Metric]
) -> dict[str, Any]:
    figures = {one.name: trial.estimate(one.name) for one in measures}
    found: dict[str, Any] = {
        "id": trial.id,
        "series": series.index,
        "label": one_line(trial_label(series, trial, results.seeds)),
        "strength": trial.strength,
        "seed": trial.seed,
        "done": trial.done,
        "status": trial.status,
        "values": {
            name: values(figure) for name, figure in figures.items() if not figure.is_missing
        },
        "settings": {one_line(k): one_line(spelled(v)) for k, v in _settings(series, trial)},
        "seconds": [rounded(trial.value(f"{name}_seconds")) for name in ("train", "evaluation")],
        "steps": trial.value("steps"),
        "start": [rounded(trial.value(name)) for name in ("initial_loss", "initial_loss_expected")],
    }
    if along := _along(trial, measures):
        found["along"] = along
    if trial.sources:
        found["sources"] = [one_line(one) for one in trial.sources]
    if not trial.done:
        found |= {"error": visible(trial.error), "traceback": visible(trial.traceback)}
    return found


def _settings(series: LossCurve, trial: Trial) -> list[tuple[str, Any]]:
    """Its hyperparameters, and the keys of training in which the loss's trials differ."""
    own = [(key, trial.training[key]) for key in series.varied if key in trial.training]
    return [*trial.hyperparameters.items(), *own]


def _along(trial: Trial, measures: Sequence[Metric]) -> dict[str, list[Any]]:
    """The trial's evaluations along training, the last one its own; empty where there was none."""
    table = trial.checkpoints
    if table.empty:
        return {}
    last = trial.value("steps")
    found: dict[str, list[Any]] = {"step": [*map(int, table["step"]), last and int(last)]}
    for one in measures:
        if one.name in table:
            line = [*(finite(value) for value in table[one.name]), trial.value(one.name)]
            found[one.name] = [rounded(value, 5) for value in line]
    return found


def values(figure: Estimate) -> list[Any]:
    """Value, low, high and n."""
    return [*(rounded(end, 6) for end in (figure.value, figure.low, figure.high)), figure.n or None]


def _reference(results: SweepResults) -> dict[str, Any]:
    reference = results.reference
    level: dict[str, Any] = {KL.name: [0, None, None, None]}
    level |= {name: [0, None, None, None] for name in (CHOSEN.name, REJECTED.name, "margin")}
    if results.has_wins:
        level["win_rate"] = [0.5, None, None, None]
    for name, figure in (
        ("reward", reference.reward),
        ("response_tokens", reference.response_tokens),
    ):
        if not figure.is_missing:
            level[name] = values(figure)
    return {
        "values": level,
        "frontier": [
            [rounded(end) for end in (p.kl, p.reward.value, p.reward.low, p.reward.high)]
            for p in results.frontier
        ],
        "best": [
            [
                p.n,
                *(rounded(end) for end in (p.kl, p.reward.value, p.reward.low, p.reward.high)),
            ]
            for p in reference.best_of_n
        ],
    }
