"""A matched-KL comparison laid out: figures by loss and level, differences from the baseline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dpo_bench.analysis.compare import Level, MatchedComparison
from dpo_bench.analysis.comparisons import Comparison
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL, Metric
from dpo_bench.report.table_values import Cell, Row, Table, estimate_cell
from dpo_bench.wording import MISSING, interval, number


@dataclass(frozen=True, slots=True)
class DifferenceCell(Cell):
    """One loss against the baseline at one level, strong where the losses differ.

    The interval is the comparison's own; the verdict is corrected for all comparisons at all
    levels. The notes are the verdict, and the standard errors by source.

    Attributes:
        strip: low, value and high as shares (0 to 1) of an axis with 0 in its middle, the same
            for all cells; None when there is no difference.
    """

    strip: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class MatchedTables:
    """What page, Markdown and LaTeX show of the comparison by one measure.

    Attributes:
        comparison: what is laid out.
        baseline: label of the loss that the others are compared with.
        levels: heading of each level.
        values: a row per series, a cell per level.
        differences: a row per loss that is compared at any level, a `DifferenceCell` per level.
        ranking: losses ordered by their figure at each level by itself, a place per row.
        reach: half the width of the differences' common axis.
    """

    comparison: MatchedComparison
    baseline: str
    levels: tuple[str, ...]
    values: Table
    differences: Table
    ranking: Table
    reach: float

    @property
    def measure(self) -> Metric:
        """What was compared."""
        return self.comparison.measure

    @property
    def title(self) -> str:
        """The measure, and that it is descriptive where it is not the primary one."""
        return self.measure.title + ("" if self.comparison.primary else " (descriptive)")

    @property
    def best_first(self) -> Table:
        """The values ordered by the figure at the middle level; losses without one last."""
        middle = len(self.levels) // 2 + 1

        def place(row: Row) -> float:
            value = row.cells[middle].value
            return -value if isinstance(value, float) else math.inf

        return dataclasses.replace(self.values, rows=tuple(sorted(self.values.rows, key=place)))


def matched_tables(comparison: MatchedComparison, series: Sequence[LossCurve]) -> MatchedTables:
    """Lay out a comparison."""
    labels = {one.index: one.label for one in series}
    reach = comparison_reach(comparison)
    levels = tuple(f"KL {number(level.kl, KL.decimals)}" for level in comparison.levels)
    headings = tuple((f"at {level} nats", "") for level in levels)
    baseline = labels[comparison.baseline]
    indices = [one.index for one in series if one.on_curve]
    values = [Row((Cell(labels[i]), *_values(comparison, i)), i) for i in indices]
    differences = [
        Row((Cell(f"{labels[i]} \u2212 {baseline}"), *_differences(comparison, i, reach)), i)
        for i in indices
        if any(one.compared for one in comparison.of(i))
    ]
    return MatchedTables(
        comparison=comparison,
        baseline=baseline,
        levels=levels,
        values=Table((("Loss", ""), *headings), tuple(values)),
        differences=Table((("Difference", ""), *headings), tuple(differences)),
        ranking=Table((("Place", ""), *headings), tuple(_ranking(comparison, labels))),
        reach=reach,
    )


def _ranking(comparison: MatchedComparison, labels: Mapping[int, str]) -> Iterator[Row]:
    """The highest figure of each level first, each with the verdict on it."""
    ranked = [
        sorted(level.values, key=lambda index: -level.values[index].value)
        for level in comparison.levels
    ]
    for place in range(max(map(len, ranked))):
        found = [
            _ranked(comparison, level, order[place], labels)
            if place < len(order)
            else Cell(MISSING)
            for level, order in zip(comparison.levels, ranked, strict=True)
        ]
        yield Row((Cell(str(place + 1), value=float(place + 1)), *found))


def _ranked(
    comparison: MatchedComparison, level: Level, index: int, labels: Mapping[int, str]
) -> Cell:
    figure = estimate_cell(level.values[index], comparison.measure.decimals)
    pair = next((one for one in level.pairs if one.first == str(index)), None)
    notes: tuple[str, ...] = ()
    if index == comparison.baseline:
        notes = ("baseline",)
    elif pair is not None and pair.compared and comparison.primary:
        notes = (pair.verdict,)
    text = f"{labels[index]} {figure.text}"
    strong = comparison.primary and pair is not None and pair.decided
    return dataclasses.replace(figure, text=text, notes=notes, strong=strong)


def comparison_reach(comparison: MatchedComparison) -> float:
    """The largest absolute end of any difference's interval."""
    ends = [
        abs(end)
        for level in comparison.levels
        for one in level.compared
        for end in (one.difference.low, one.difference.high)
        if not math.isnan(end)
    ]
    return max(ends, default=0.0) or 1.0


def _differences(
    comparison: MatchedComparison, index: int, reach: float
) -> Iterator[DifferenceCell]:
    for one in comparison.of(index):
        yield difference_cell(one, reach, comparison.measure, primary=comparison.primary)


def difference_cell(
    one: Comparison, reach: float, measure: Metric, *, primary: bool = True
) -> DifferenceCell:
    """One comparison at one level, with its place on an axis from ``-reach`` to ``reach``."""
    if not one.compared:
        return DifferenceCell(MISSING, notes=("not covered by both",))
    found = one.difference
    if not found.has_interval:
        return DifferenceCell(number(found.value, measure.decimals), "", (one.reason,), found.value)
    ends = (found.low, found.value, found.high)
    low, value, high = (min(max(0.5 + 0.5 * end / reach, 0.0), 1.0) for end in ends)
    said = verdict_in_words(one, measure) if primary else ""
    return DifferenceCell(
        number(found.value, measure.decimals),
        interval(found.low, found.high, measure.decimals),
        tuple(filter(None, (said, spread_apart(one, measure)))),
        found.value,
        strong=primary and one.decided,
        strip=(low, value, high),
    )


def verdict_in_words(one: Comparison, measure: Metric) -> str:
    """The verdict on a loss against the baseline, with what the band leaves to the difference."""
    said = _verdict(one, one.verdict, measure)
    if one.verdict == "open" and one.policies not in ("open", one.verdict):
        said = f"open (one seed); these policies: {_verdict(one, one.policies, measure)}"
    elif one.reason:
        said = f"{said} ({one.reason})"
    return said


def _verdict(one: Comparison, verdict: str, measure: Metric) -> str:
    least, most = (number(end, measure.decimals) for end in (one.at_least, one.at_most))
    if verdict in ("better", "worse"):
        return f"{verdict} by {least} to {most}"
    return f"same: at most {most} apart" if verdict == "same" else "open"


def spread_apart(one: Comparison, measure: Metric) -> str:
    """The standard error of a difference by what it comes from."""
    if one.spread is None:
        return ""
    spread, decimals = one.spread, measure.decimals + 1
    named = {
        "prompts": spread.prompts,
        "responses": spread.responses,
        "runs": spread.runs,
        "reading between policies": spread.interpolation,
    }
    parts = [
        f"{number(error, decimals)} from {name}"
        for name, error in named.items()
        if not math.isnan(error) and error > 0
    ]
    return f"standard error {', '.join(parts)}" if parts else ""


def _values(comparison: MatchedComparison, index: int) -> Iterator[Cell]:
    """A loss's figure at each level."""
    measure = comparison.measure
    for level in comparison.levels:
        if index not in level.values:
            yield Cell(MISSING, notes=(level.reasons.get(index, ""),))
            continue
        found = level.values[index]
        cell = estimate_cell(found, measure.decimals)
        notes = (f"n = {found.n:,}",) if found.n else ()
        yield dataclasses.replace(cell, notes=(*notes, *_how_read(level, index, measure)))


def _how_read(level: Level, index: int, measure: Metric) -> Iterator[str]:
    low, high = level.brackets[index]
    if low == high:
        yield f"read at a policy of KL {number(low, KL.decimals)}"
    else:
        ends = " and ".join(number(end, KL.decimals) for end in (low, high))
        bound = number(level.bias_bounds[index], measure.decimals)
        yield f"read between KL {ends}, off by at most {bound}"
    if why := level.doubts.get(index):
        yield f"rests on policies that are {why}"
