"""The section on how far each loss stays below the optimal frontier."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import FRONTIER_GAP, KL, REWARD
from dpo_bench.analysis.regret import RegretAtLevel
from dpo_bench.report.sections.section import ReportSection, estimate_cell
from dpo_bench.report.table_values import Cell, Row, Table
from dpo_bench.report.templating import Words
from dpo_bench.wording import MISSING, number


def regret_section(
    series: Sequence[LossCurve], found: Sequence[RegretAtLevel]
) -> ReportSection | None:
    """The table by loss and level, the smallest gap at the first known level first."""
    if not found:
        return None
    first = next(level for level in found if level.gaps)
    shown = {index for level in found for index in level.gaps}
    rows = sorted(
        (one for one in series if one.index in shown),
        key=lambda one: first.gaps[one.index].value if one.index in first.gaps else float("inf"),
    )
    columns = [("Loss", ""), *((f"At KL {_kl(level)} nats", "") for level in found)]
    cells = [(one, tuple(_cell(level, one.index) for level in found)) for one in rows]
    return ReportSection(
        "gaps",
        "Gap to the optimal frontier",
        _about(found),
        Table(
            tuple(columns),
            tuple(Row("", one.index, False, (Cell(one.label), *c)) for one, c in cells),
        ),
    )


def _about(found: Sequence[RegretAtLevel]) -> str:
    optima = [
        f"{number(level.optimum, REWARD.decimals)} at KL {_kl(level)}"
        for level in found
        if level.optimum is not None
    ]
    beyond = [_kl(level) for level in found if level.optimum is None]
    return Words("sections").paragraph("gaps", optima, beyond)


def _cell(level: RegretAtLevel, index: int) -> Cell:
    if index not in level.gaps:
        reason = "the frontier is not known" if level.optimum is None else "not covered"
        return Cell(MISSING, reason)
    return estimate_cell(level.gaps[index], FRONTIER_GAP.decimals)


def _kl(level: RegretAtLevel) -> str:
    return number(level.kl, KL.decimals)
