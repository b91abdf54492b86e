"""The section on the areas between curves: one figure for a whole curve."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.analysis import matched
from dpo_bench.analysis.compare import most_overlapping
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell
from dpo_bench.wording import number


def areas_section(series: Sequence[LossCurve], curves: CurvesOnPrompts) -> ReportSection | None:
    """The areas, the surest first; None where no two curves overlap."""
    measure = curves.measures[0]
    found = matched.areas(most_overlapping(curves.curves), curves.weights)
    if not found:
        return None
    names = {str(one.index): one for one in series}
    rows = [
        Row(
            (
                Cell(f"{names[one.first].label} \u2212 {names[one.second].label}"),
                estimate_cell(one.mean),
                estimate_cell(one.area),
                Cell(number(one.adjusted), value=one.adjusted),
                Cell("separated" if one.adjusted < 0.05 else "not separated"),
            ),
        )
        for one in sorted(found, key=lambda area: area.adjusted)
    ]
    low, high = found[0].low, found[0].high
    return written("areas", rows, (low, high, measure), (measure,))
