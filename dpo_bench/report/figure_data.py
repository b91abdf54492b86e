"""The numbers behind every figure file, tidy: a row per point, one CSV beside each picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dpo_bench.report.measures import CHOSEN, KL, REJECTED, REWARD, Measure, all_measures
from dpo_bench.report.series import Series
from dpo_bench.report.text import visible
from dpo_bench.report.training_curves import COLUMNS
from dpo_bench.report.view import ReportView

Row = dict[str, Any]


def figure_table(view: ReportView, name: str) -> pd.DataFrame:
    """The table behind the figure of this name (`figures.NAMES`)."""
    measures = {measure.name: measure for measure in all_measures()}
    rows: Iterator[Row]
    if name == "frontier":
        rows = _chain(_points(view, (REWARD,)), _reference_curves(view))
    elif name == "displacement":
        rows = _points(view, (CHOSEN, REJECTED))
    elif name == "differences":
        rows = _differences(view)
    elif name == "heat_map":
        rows = _heat_map(view)
    elif name == "training":
        rows = _training(view)
    else:
        rows = _points(view, (measures[name],))
    return pd.DataFrame(list(rows))


def _chain(*parts: Iterator[Row]) -> Iterator[Row]:
    for part in parts:
        yield from part


def _named(series: Series) -> Row:
    return {"series": visible(series.label), "loss": visible(series.loss)}


def _points(view: ReportView, measures: tuple[Measure, ...]) -> Iterator[Row]:
    for one in view.series:
        for trial in one.done:
            kl = trial.measured(KL.name)
            for measure in measures:
                found = trial.measured(measure.name)
                if found.value is None:
                    continue
                yield {
                    **_named(one), "strength": trial.strength, "seed": trial.seed,
                    "trial": trial.id, "measure": measure.name, "value": found.value,
                    "low": found.low, "high": found.high, "n": found.n,
                    "kl": kl.value, "kl_low": kl.low, "kl_high": kl.high,
                }  # fmt: skip


def _reference_curves(view: ReportView) -> Iterator[Row]:
    reference = view.results.reference
    for label, curve in (
        ("optimal frontier", reference.frontier),
        ("best of n", reference.best_of_n),
    ):
        for point in curve:
            yield {
                "series": label, "measure": REWARD.name, "value": point.reward, "low": point.low,
                "high": point.high, "n": point.n or None, "kl": point.kl,
            }  # fmt: skip
    if reference.reward.value is not None:
        own = reference.reward
        yield {
            "series": "reference", "measure": REWARD.name, "value": own.value, "low": own.low,
            "high": own.high, "n": own.n, "kl": 0.0,
        }  # fmt: skip


def _differences(view: ReportView) -> Iterator[Row]:
    if isinstance(view.comparison, str):
        return
    names = {one.index: visible(one.label) for one in view.series}
    for level in view.comparison.levels:
        for pair in level.compared:
            found = pair.difference
            yield {
                "kl": level.kl, "first": names[pair.first], "second": names[pair.second],
                "difference": found.value, "low": found.low, "high": found.high, "n": found.n,
                "p_value": pair.p_value, "p_holm": pair.adjusted, "separated": pair.separated,
                "standard_error_prompts": pair.shares[0] if pair.shares else None,
                "standard_error_seeds": pair.shares[1] if pair.shares else None,
                "prompts_to_separate": pair.prompts, "seeds_to_separate": pair.seeds,
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
