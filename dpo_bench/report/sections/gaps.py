"""The section on how far each loss stays below the optimal frontier."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import FRONTIER_GAP, KL, REWARD
from dpo_bench.analysis.regret import RegretAtLevel
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, Table, estimate_cell
from dpo_bench.report.templating import Words
from dpo_bench.wording import MISSING, number


def gaps_section(
    series: Sequence[LossCurve], found: Sequence[RegretAtLevel]
) -> ReportSection | None:
    """The gaps of every loss; None where there are none."""
    if not found:
        return None
    optima = [
        f"{number(level.optimum, REWARD.decimals)} at KL {_kl(level)}"
        for level in found
        if level.optimum is not None
    ]
    beyond = [_kl(level) for level in found if level.optimum is None]
    rows = gaps_table(series, found).rows
    return written("gaps", rows, (optima, beyond), (list(map(_kl, found)),))


def gaps_table(
    series: Sequence[LossCurve], found: Sequence[RegretAtLevel], *, with_optimum: bool = False
) -> Table:
    """Gaps by loss and level, the smallest gap at the first known level first.

    Args:
        series: the curves.
        found: the levels, at least one with gaps.
        with_optimum: begin with the optimum's own mean reward.
    """
    first = next(level for level in found if level.gaps)
    shown = {index for level in found for index in level.gaps}
    losses = sorted(
        (one for one in series if one.index in shown),
        key=lambda one: first.gaps[one.index].value if one.index in first.gaps else float("inf"),
    )
    rows = [
        Row((Cell(one.label), *(_cell(level, one.index) for level in found)), one.index)
        for one in losses
    ]
    if with_optimum:
        optima = [Cell(number(level.optimum, REWARD.decimals)) for level in found]
        rows.insert(0, Row((Cell("(mean reward of the optimum)"), *optima)))
    columns = Words("sections").notes("gaps_columns", list(map(_kl, found)))
    return Table(tuple(columns), tuple(rows))


def _cell(level: RegretAtLevel, index: int) -> Cell:
    if index not in level.gaps:
        reason = "the frontier is not known" if level.optimum is None else "not covered"
        return Cell(MISSING, notes=(reason,))
    return estimate_cell(level.gaps[index], FRONTIER_GAP.decimals)


def _kl(level: RegretAtLevel) -> str:
    return number(level.kl, KL.decimals)
