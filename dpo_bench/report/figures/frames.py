"""What each figure shows, as a tidy table in data units: a row per point.

The figures are drawn from these tables, and the CSV beside each picture is the same table. In the
figures against KL the column ``point`` says what a row is: a policy after its training, a policy
along it, a node of the curve of a step by which losses are compared, or the reference's. The column
``index`` tells the drawing which series a row is of, and is no part of the CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.training_curves import COLUMNS
from dpo_bench.report.view import ReportView
from dpo_bench.wording import visible

Row = dict[str, Any]

TRAINED, ALONG, CURVE = "trained", "along training", "curve"
FRONTIER, BEST_OF_N, REFERENCE = "optimal frontier", "best of n", "reference"
"""what a row of a figure against KL is"""


def figure_table(view: ReportView, name: str) -> pd.DataFrame:
    """The table behind the figure of this name (`figures.NAMES`), as its CSV holds it."""
    if name == "frontier":
        table = reward_points(view.series, view.curves, view.results)
    elif name == "displacement":
        table = displacement_points(view.series)
    elif name == "differences":
        table = pd.DataFrame(list(_differences(view)))
    elif name == "heat_map":
        table = pd.DataFrame(list(_heat_map(view)))
    elif name == "training":
        table = training_steps(view.series)
    else:
        table = points_against_kl(view.series, view.curves, BY_NAME[name])
    return table.drop(columns="index", errors="ignore")


def points_against_kl(
    series: Sequence[LossCurve], curves: CurvesOnPrompts | None, measure: Metric
) -> pd.DataFrame:
    """The policies after training and along it, and the curves through them."""
    return pd.DataFrame(list(_against_kl(series, curves, measure)))


def reward_points(
    series: Sequence[LossCurve], curves: CurvesOnPrompts | None, results: SweepResults
) -> pd.DataFrame:
    """The same of the reward, with the optimal frontier, best-of-n and the reference."""
    rows = chain(_against_kl(series, curves, REWARD), _reference_curves(results))
    return pd.DataFrame(list(rows))


def displacement_points(series: Sequence[LossCurve]) -> pd.DataFrame:
    """Chosen and rejected log-ratios of the policies after training."""
    return pd.DataFrame(list(_trained(series, (CHOSEN, REJECTED))))


def training_steps(series: Sequence[LossCurve]) -> pd.DataFrame:
    """A row per logged step of every trial."""
    return pd.DataFrame(list(_training(series)))


def _named(series: LossCurve) -> Row:
    return {"index": series.index, "series": visible(series.label), "loss": visible(series.loss)}


def _which(trial: Trial) -> Row:
    return {"strength": trial.strength, "seed": trial.seed, "trial": trial.id}


def _against_kl(
    series: Sequence[LossCurve], curves: CurvesOnPrompts | None, measure: Metric
) -> Iterator[Row]:
    yield from _trained(series, (measure,))
    for one in series:
        for trial in one.done:
            yield from _along(one, trial, measure)
    if curves is not None:
        for one in series:
            yield from _nodes(one, curves, measure)


def _trained(series: Sequence[LossCurve], measures: tuple[Metric, ...]) -> Iterator[Row]:
    for one in series:
        for trial in one.done:
            kl = trial.estimate(KL.name)
            for measure in measures:
                found = trial.estimate(measure.name)
                if found.is_missing:
                    continue
                yield {
                    **_named(one), **_which(trial), "step": trial.value("steps"),
                    "point": TRAINED, "measure": measure.name, "value": found.value,
                    "low": found.low, "high": found.high, "n": found.n or None,
                    "kl": kl.value, "kl_low": kl.low, "kl_high": kl.high,
                }  # fmt: skip


def _along(series: LossCurve, trial: Trial, measure: Metric) -> Iterator[Row]:
    for row in trial.checkpoints.to_dict("records"):
        value, kl = (
            [finite(row.get(f"{name}{end}")) for end in ("", "_low", "_high")]
            for name in (measure.name, KL.name)
        )
        if value[0] is not None:
            yield {
                **_named(series), **_which(trial), "step": row["step"], "point": ALONG,
                "measure": measure.name, "value": value[0], "low": value[1], "high": value[2],
                "n": trial.estimate(measure.name).n or None,
                "kl": kl[0], "kl_low": kl[1], "kl_high": kl[2],
            }  # fmt: skip


def _nodes(series: LossCurve, curves: CurvesOnPrompts, measure: Metric) -> Iterator[Row]:
    """The nodes of the curves by which losses are compared."""
    n = len(curves.prompts)
    for step, line in curves.lines(series, measure).items():
        for kl, value in line:
            yield {
                **_named(series), "step": step, "point": CURVE, "measure": measure.name,
                "value": value, "n": n, "kl": kl,
            }  # fmt: skip


def _reference_curves(results: SweepResults) -> Iterator[Row]:
    reference = results.reference
    for label, curve in ((FRONTIER, results.frontier), (BEST_OF_N, reference.best_of_n)):
        for point in curve:
            yield {
                "series": label, "point": label, "measure": REWARD.name,
                "value": point.reward.value, "low": point.reward.low,
                "high": point.reward.high,
                "n": point.n or None, "kl": point.kl,
            }  # fmt: skip
    if not reference.reward.is_missing:
        own = reference.reward
        yield {
            "series": REFERENCE, "point": REFERENCE, "measure": REWARD.name,
            "value": own.value, "low": own.low, "high": own.high, "n": own.n or None, "kl": 0.0,
        }  # fmt: skip


def _differences(view: ReportView) -> Iterator[Row]:
    names = {str(one.index): visible(one.label) for one in view.series}
    for matched in view.compared:
        primary = matched.comparison.primary
        for one in matched.comparison.family.all:
            if not one.compared or one.spread is None:
                continue
            found, spread = one.difference, one.spread
            yield {
                "measure": matched.measure.name, "kl": one.kl,
                "loss": names[one.first], "against": names[one.second],
                "difference": found.value, "low": found.low, "high": found.high, "n": found.n,
                "p_value": one.p_value if primary else None,
                "verdict": one.verdict if primary else "descriptive",
                "policies": one.policies if primary else "descriptive",
                "at_least": one.at_least if primary else None,
                "at_most": one.at_most if primary else None,
                "bias_bound": one.bias_bound, "standard_error_prompts": spread.prompts,
                "standard_error_responses": spread.responses,
                "standard_error_runs": spread.runs,
                "standard_error_interpolation": spread.interpolation, "reason": one.reason,
            }  # fmt: skip


def matched_values(view: ReportView) -> pd.DataFrame:
    """What losses reach at matched KL: a row per measure, KL and loss, gaps to the optimum last.

    Columns measure, kl (nats), series, loss, value, low, high, n, kl_below and kl_above (between
    whose policies it is read), bias_bound, doubts (why these are doubtful).
    """
    table = pd.DataFrame(list(chain(_matched(view), _gaps(view))))
    return table.drop(columns="index", errors="ignore")


def _matched(view: ReportView) -> Iterator[Row]:
    for matched in view.compared:
        for level in matched.comparison.levels:
            for one in view.series:
                if found := level.values.get(one.index):
                    below, above = level.brackets[one.index]
                    yield {
                        "measure": matched.measure.name, "kl": level.kl, **_named(one),
                        "value": found.value, "low": found.low, "high": found.high, "n": found.n,
                        "kl_below": below, "kl_above": above,
                        "bias_bound": level.bias_bounds[one.index],
                        "doubts": level.doubts.get(one.index, ""),
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


def _training(series: Sequence[LossCurve]) -> Iterator[Row]:
    for one in series:
        for trial in one.trials:
            for row in trial.training_log.to_dict("records"):
                known = {name: row[name] for name, _ in COLUMNS if name in row}
                yield {
                    **_named(one), "strength": trial.strength, "seed": trial.seed,
                    "trial": trial.id, "step": row["step"], **known,
                }  # fmt: skip
