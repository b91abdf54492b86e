"""The section on what tuning each loss over values of training bought."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import Metric
from dpo_bench.analysis.prompt_curves import primary_name
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.tuning import TunedLoss, order_changes, tuned_losses
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell
from dpo_bench.wording import MISSING, number


def tuning_section(results: SweepResults, series: Sequence[LossCurve]) -> ReportSection | None:
    """What tuning bought; None where no loss was tuned."""
    found, measure = tuned_losses(results, series), primary_name(results)
    if not found or measure is None:
        return None
    labels = {one.index: one.label for one in series}
    keys = list(dict.fromkeys(key for one in series for o in one.options for key in o.values))
    gained = [one for one in found if one.gain.low > 0]
    about = (
        measure,
        keys,
        len(found),
        [labels[one.index] for one in gained],
        order_changes(results, series),
    )
    rows = (row for one in found for row in _rows(one, labels[one.index], measure))
    return written("tuning", rows, about)


def _rows(one: TunedLoss, label: str, measure: Metric) -> Iterator[Row]:
    """A row for each value that was tried."""
    decimals = measure.decimals
    for place, option in enumerate(one.labels):
        chosen = place == one.chosen
        chose = one.chose[place] if place < len(one.chose) else None
        gain = one.gain if chosen and place else None
        best = one.expected[place] if place < len(one.expected) else None
        tries = (f"best of {place + 1}",) if best is not None and not math.isnan(best) else ()
        yield Row(
            (
                Cell(label, value=label),
                Cell(option, notes=("chosen",) if chosen else (), strong=chosen),
                Cell(number(chose, decimals), value=chose),
                estimate_cell(one.figures[place], decimals),
                Cell(MISSING) if gain is None else estimate_cell(gain, decimals),
                Cell(number(best, decimals), notes=tries, value=best),
            ),
            one.index,
        )
