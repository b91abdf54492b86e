"""The section on over-optimization: where more KL stops paying."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL, REWARD
from dpo_bench.analysis.overoptimization import (
    COMPARABLE,
    Fit,
    FormFit,
    PeakRange,
    fit_overoptimization,
)
from dpo_bench.analysis.points import trained
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell
from dpo_bench.report.templating import Words
from dpo_bench.wording import interval, number


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
    return written("overoptimization", rows, (COMPARABLE,)) if rows else None


def _fit_cells(series: LossCurve, fit: Fit) -> tuple[Cell, ...]:
    shown = {one.name: _form_cell(one) for one in fit.forms}
    return (
        Cell(series.label), _peak_cell(fit), *shown.values(),
        *(estimate_cell(one) for one in fit.gao.coefficients),
    )  # fmt: skip


def _peak_cell(fit: Fit) -> Cell:
    """The range over the forms that fit comparably, and in words where Gao's form does not fit."""
    none_fits = all(one.misfit for one in fit.forms)
    words = tuple(Words("sections").items("misfit", fit.best, fit.gao, none_fits))
    found = fit.range
    if found is None:
        return Cell("none", notes=(fit.best.reason, *words))
    first, last = (number(end, KL.decimals) for end in (found.first, found.last))
    return Cell(
        first if first == last else f"{first} to {last}",
        interval(found.low, found.high, KL.decimals),
        notes=(*_open_ends(found), *words),
        value=found.first,
    )


def _form_cell(form: FormFit) -> Cell:
    """A form's residual, with its own peak and whether it counts."""
    peak = "no peak"
    if form.peak is not None:
        ends = interval(form.peak.low, form.peak.high, KL.decimals)
        peak = f"peak {number(form.peak.value, KL.decimals)} {ends}"
    ends_open = _open_ends(form) if form.peak is not None else ()
    notes = (peak, *ends_open, *(() if form.comparable else ("left out",)))
    return Cell(number(form.rmse), notes=notes, value=form.rmse)


def _open_ends(found: FormFit | PeakRange) -> tuple[str, ...]:
    sides = (("below", found.open_low), ("above", found.open_high))
    ends = [side for side, is_open in sides if is_open]
    return (f"open {' and '.join(ends)}",) if ends else ()
