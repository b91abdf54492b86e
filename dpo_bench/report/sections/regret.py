"""The section on how far each loss stays below the optimal frontier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import FRONTIER_GAP, KL, REWARD
from dpo_bench.analysis.regret import RegretAtLevel
from dpo_bench.report.sections.section import ReportSection, estimate_cell
from dpo_bench.report.table_values import Cell, Row, Table
from dpo_bench.wording import MISSING, listing, number


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
        " ".join(_about(found)),
        Table(
            tuple(columns),
            tuple(Row("", one.index, False, (Cell(one.label), *c)) for one, c in cells),
        ),
    )


def _about(found: Sequence[RegretAtLevel]) -> Iterator[str]:
    yield (
        "The mean reward of the best policy of the same KL minus the loss's, read off its curve,"
        " with 95% intervals; frontier and losses are estimated anew in every resample, over the"
        " same prompts."
    )
    best = [
        f"{number(level.optimum, REWARD.decimals)} at KL {_kl(level)}"
        for level in found
        if level.optimum is not None
    ]
    yield f"The optimum is {listing(best)} nats."
    if beyond := [_kl(level) for level in found if level.optimum is None]:
        yield f"At KL {listing(beyond)} nats the reference's samples do not show it."


def _cell(level: RegretAtLevel, index: int) -> Cell:
    if index not in level.gaps:
        reason = "the frontier is not known" if level.optimum is None else "not covered"
        return Cell(MISSING, reason)
    return estimate_cell(level.gaps[index], FRONTIER_GAP.decimals)


def _kl(level: RegretAtLevel) -> str:
    return number(level.kl, KL.decimals)
