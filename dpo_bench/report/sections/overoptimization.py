"""The section on over-optimization: where more KL stops paying."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL, REWARD
from dpo_bench.analysis.overoptimization import Fit, fit_overoptimization
from dpo_bench.analysis.points import trained
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell
from dpo_bench.wording import number


def overoptimization_section(
    results: SweepResults, series: Sequence[LossCurve], curves: CurvesOnPrompts
) -> ReportSection | None:
    """A fit for every loss with three policies or more; None where rewards are not known."""
    own = results.reference.samples
    if REWARD not in curves.measures or "reward" not in own or curves.weights is None:
        return None
    by_prompt = own.groupby("prompt_id")["reward"].mean().reindex(curves.prompts)
    if by_prompt.isna().any():
        return None
    reference = by_prompt.to_numpy(float)
    rows = []
    for one in series:
        points = trained(curves.by_measure[REWARD.name].get(str(one.index), ()))
        if len(points) < 3 or len({point.mean_kl for point in points}) < 3:
            continue
        fit = fit_overoptimization(points, reference, curves.weights)
        rows.append(Row(_fit_cells(one, fit), one.index))
    return written("overoptimization", rows) if rows else None


def _fit_cells(series: LossCurve, fit: Fit) -> tuple[Cell, ...]:
    if fit.peak is None:
        peak = Cell("none", notes=(fit.reason,))
    else:
        found = estimate_cell(fit.peak, KL.decimals)
        ends = [
            end for end, is_open in (("below", fit.open_low), ("above", fit.open_high)) if is_open
        ]
        notes = (f"open {' and '.join(ends)}",) if ends else ()
        peak = dataclasses.replace(found, notes=notes)
    return (
        Cell(series.label), peak, estimate_cell(fit.alpha), estimate_cell(fit.beta),
        Cell(number(fit.rmse)), Cell(number(fit.rmse_quadratic_kl)),
    )  # fmt: skip
