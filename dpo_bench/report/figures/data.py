"""The numbers behind every figure file, tidy: a row per point, one CSV beside each picture.

In the figures against KL the column ``point`` says what a row is: a policy after its training, a
policy along it, a node of the curve of a step by which losses are compared, or the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pandas as pd

from dpo_bench.analysis.estimate import finite
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import (
    BY_NAME,
    CHOSEN,
    FRONTIER_GAP,
    KL,
    REJECTED,
    REWARD,
    Metric,
)
from dpo_bench.analysis.results import Trial
from dpo_bench.report.training_curves import COLUMNS
from dpo_bench.report.view import ReportView
from dpo_bench.wording import visible

Row = dict[str, Any]


def figure_table(view: ReportView, name: str) -> pd.DataFrame:
    """The table behind the figure of this name (`figures.NAMES`)."""
    rows: Iterator[Row]
    if name == "frontier":
        rows = chain(_against_kl(view, REWARD), _reference_curves(view))
    elif name == "displacement":
        rows = _points(view, (CHOSEN, REJECTED))
    elif name == "differences":
        rows = _differences(view)
    elif name == "heat_map":
        rows = _heat_map(view)
    elif name == "training":
        rows = _training(view)
    else:
        rows = _against_kl(view, BY_NAME[name])
    return pd.DataFrame(list(rows))


def _named(series: LossCurve) -> Row:
    return {"series": visible(series.label), "loss": visible(series.loss)}


def _points(view: ReportView, measures: tuple[Metric, ...]) -> Iterator[Row]:
    for one in view.series:
        for trial in one.done:
            kl = trial.estimate(KL.name)
            for measure in measures:
                found = trial.estimate(measure.name)
                if found.is_missing:
                    continue
                yield {
                    **_named(one), **_which(trial), "step": trial.value("steps"),
                    "point": "trained", "measure": measure.name, "value": found.value,
                    "low": found.low, "high": found.high, "n": found.n or None,
                    "kl": kl.value, "kl_low": kl.low, "kl_high": kl.high,
                }  # fmt: skip


def _which(trial: Trial) -> Row:
    return {"strength": trial.strength, "seed": trial.seed, "trial": trial.id}


def _against_kl(view: ReportView, measure: Metric) -> Iterator[Row]:
    """The policies after training and along it, and the curves through them."""
    yield from _points(view, (measure,))
    for one in view.series:
        for trial in one.done:
            yield from _along(one, trial, measure)
    yield from _curves(view, measure)


def _along(series: LossCurve, trial: Trial, measure: Metric) -> Iterator[Row]:
    for row in trial.checkpoints.to_dict("records"):
        value, kl = (
            [finite(row.get(f"{name}{end}")) for end in ("", "_low", "_high")]
            for name in (measure.name, KL.name)
        )
        if value[0] is not None:
            yield {
                **_named(series), **_which(trial), "step": row["step"], "point": "along training",
                "measure": measure.name, "value": value[0], "low": value[1], "high": value[2],
                "n": trial.estimate(measure.name).n or None,
                "kl": kl[0], "kl_low": kl[1], "kl_high": kl[2],
            }  # fmt: skip


def _curves(view: ReportView, measure: Metric) -> Iterator[Row]:
    """The nodes of the curves by which losses are compared."""
    if view.curves is None:
        return
    n = len(view.curves.prompts)
    for one in view.series:
        for step, line in view.curves.lines(one, measure).items():
            for kl, value in line:
                yield {
                    **_named(one), "step": step, "point": "curve", "measure": measure.name,
                    "value": value, "n": n, "kl": kl,
                }  # fmt: skip


def _reference_curves(view: ReportView) -> Iterator[Row]:
    reference = view.results.reference
    for label, curve in (
        ("optimal frontier", reference.frontier),
        ("best of n", reference.best_of_n),
    ):
        for point in curve:
            yield {
                "series": label, "point": label, "measure": REWARD.name,
                "value": point.reward, "low": point.low, "high": point.high,
                "n": point.n or None, "kl": point.kl,
            }  # fmt: skip
    if not reference.reward.is_missing:
        own = reference.reward
        yield {
            "series": "reference", "point": "reference", "measure": REWARD.name,
            "value": own.value, "low": own.low, "high": own.high, "n": own.n or None, "kl": 0.0,
        }  # fmt: skip


def _differences(view: ReportView) -> Iterator[Row]:
    names = {one.index: visible(one.label) for one in view.series}
    for matched in view.compared:
        for level in matched.comparison.levels:
            for pair in level.compared:
                found = pair.difference
                yield {
                    "measure": matched.measure.name, "kl": level.kl,
                    "first": names[pair.first], "second": names[pair.second],
                    "difference": found.value, "low": found.low, "high": found.high, "n": found.n,
                    "p_value": pair.p_value, "p_holm": pair.adjusted, "separated": pair.separated,
                    "standard_error_prompts": pair.shares[0] if pair.shares else None,
                    "standard_error_seeds": pair.shares[1] if pair.shares else None,
                    "prompts_to_separate": pair.prompts, "seeds_to_separate": pair.seeds,
                }  # fmt: skip


def matched_values(view: ReportView) -> pd.DataFrame:
    """What losses reach at matched KL: a row per measure, KL and loss, gaps to the optimum last.

    Columns measure, kl (nats), series, loss, value, low, high, n, and groups: the letters that
    losses share which are not separated there.
    """
    return pd.DataFrame(list(chain(_matched(view), _gaps(view))))


def _matched(view: ReportView) -> Iterator[Row]:
    for matched in view.compared:
        for level, letters in zip(matched.comparison.levels, matched.letters, strict=True):
            for one in view.series:
                if found := level.values.get(one.index):
                    yield {
                        "measure": matched.measure.name, "kl": level.kl, **_named(one),
                        "value": found.value, "low": found.low, "high": found.high, "n": found.n,
                        "groups": letters[one.index],
                    }  # fmt: skip


def _gaps(view: ReportView) -> Iterator[Row]:
    for level in view.gaps:
        for one in view.series:
            if found := level.gaps.get(one.index):
                yield {
                    "measure": FRONTIER_GAP.name, "kl": level.kl, **_named(one),
                    "value": found.value, "low": found.low, "high": found.high, "n": found.n,
                }  # fmt: skip


def _heat_map(view: ReportView) -> Iterator[Row]:
    for heat_map in view.heat_maps[:3]:
        for one in view.series:
            for setting in one.settings:
                yield {
                    **_named(one), "strength": setting.strength,
                    "measure": heat_map.measure.name, "seeds": len(setting.done),
                    "mean": setting.mean(heat_map.measure.name),
                }  # fmt: skip


def _training(view: ReportView) -> Iterator[Row]:
    for one in view.series:
        for trial in one.trials:
            for row in trial.training.to_dict("records"):
                known = {name: row[name] for name, _ in COLUMNS if name in row}
                yield {
                    **_named(one), "strength": trial.strength, "seed": trial.seed,
                    "trial": trial.id, "step": row["step"], **known,
                }  # fmt: skip
