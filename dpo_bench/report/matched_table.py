"""A matched-KL comparison laid out: figures by loss and level, differences by pair and level."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpo_bench.analysis.compare import Level, MatchedComparison, PairAtLevel
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL, Metric
from dpo_bench.report.table_values import Cell, Row, Table, estimate_cell
from dpo_bench.wording import MISSING, interval, listing, number


@dataclass(frozen=True, slots=True)
class DifferenceCell(Cell):
    """One pair at one level, strong where the two are separated.

    That is corrected for all pairs at all levels; the interval is the pair's own and may exclude 0
    where they are not separated. The notes are the verdict, what would separate the pair, and the
    standard errors from prompts and from seeds.

    Attributes:
        strip: low, value and high as shares (0 to 1) of an axis with 0 in its middle, the same
            for all cells; None when the pair was not compared.
    """

    strip: tuple[float, float, float] | None = None


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAMES = 24
"""names in all groups of a level up to which they are listed; beyond, letters say it"""
_ROOM = 66
"""pairs that are shown at once: twelve losses"""


@dataclass(frozen=True, slots=True)
class MatchedTables:
    """What page, Markdown and LaTeX show of the comparison by one measure.

    Attributes:
        comparison: what is laid out.
        levels: heading of each level.
        values: a row per series, a cell per level, marked with the letters of its groups.
        differences: a row per pair that is compared at any level, a `DifferenceCell` per level.
        shown: those of them that a picture or a page has room for: all, or where there are very
            many the ones with the loss that is best at the middle level.
        groups: for each level the sets that are not separated, best first, as text.
        letters: for each level the letters of the groups that each series is in, by its index.
        few: whether the groups are short enough to be read as lists of names.
        reach: half the width of the differences' common axis.
    """

    comparison: MatchedComparison
    levels: tuple[str, ...]
    values: Table
    differences: Table
    shown: Table
    groups: tuple[tuple[str, ...], ...]
    letters: tuple[dict[int, str], ...]
    few: bool
    reach: float

    @property
    def measure(self) -> Metric:
        """What was compared."""
        return self.comparison.measure

    @property
    def best_first(self) -> Table:
        """The values ordered by the figure at the middle level; losses without one last."""
        middle = len(self.levels) // 2 + 1

        def place(row: Row) -> float:
            value = row.cells[middle].value
            return -value if isinstance(value, float) else math.inf

        return dataclasses.replace(self.values, rows=tuple(sorted(self.values.rows, key=place)))

    @property
    def in_groups(self) -> Table:
        """The letters alone: which losses are not separated at which level."""
        rows = []
        for row in self.values.rows:
            first, *cells = row.cells
            marks = [Cell(cell.mark or MISSING) for cell in cells]
            rows.append(Row((first, *marks), row.series))
        return dataclasses.replace(self.values, rows=tuple(rows))


def matched_tables(comparison: MatchedComparison, series: Sequence[LossCurve]) -> MatchedTables:
    """Lay out a comparison."""
    shown = {one.index: one for one in series}
    reach, measure = comparison_reach(comparison), comparison.measure
    pairs = comparison.levels[0].pairs
    columns = [
        [difference_cell(pair, reach, measure) for pair in level.pairs]
        for level in comparison.levels
    ]
    compared = [
        (pair, cells)
        for pair, cells in zip(pairs, zip(*columns, strict=True), strict=True)
        if any(cell.strip for cell in cells)
    ]
    levels = tuple(f"KL {number(level.kl, KL.decimals)}" for level in comparison.levels)
    headings = tuple((f"at {level} nats", "") for level in levels)
    differences = tuple(
        Row((Cell(f"{shown[pair.first].label} \u2212 {shown[pair.second].label}"), *cells))
        for pair, cells in compared
    )
    best = comparison.middle.best
    of_the_best = [best in (pair.first, pair.second) for pair, _ in compared]
    few = tuple(itertools.compress(differences, of_the_best))
    letters = tuple(_letters(level.groups) for level in comparison.levels)
    indices = sorted({index for pair in pairs for index in (pair.first, pair.second)})
    values = [
        Row((Cell(shown[index].label), *_values(comparison, letters, index)), index)
        for index in indices
    ]
    titled = (("Pair", ""), *headings)
    return MatchedTables(
        comparison=comparison,
        levels=levels,
        values=Table((("Loss", ""), *headings), tuple(values)),
        differences=Table(titled, differences),
        shown=Table(titled, differences if len(differences) <= _ROOM else few),
        groups=tuple(tuple(_groups(level, shown)) for level in comparison.levels),
        letters=letters,
        few=max(sum(map(len, level.groups)) for level in comparison.levels) <= _NAMES,
        reach=reach,
    )


def comparison_reach(comparison: MatchedComparison) -> float:
    """The largest absolute end of any difference's interval."""
    ends = [
        abs(end)
        for level in comparison.levels
        for pair in level.compared
        for end in (pair.difference.low, pair.difference.high)
    ]
    return max(ends, default=0.0) or 1.0


def difference_cell(pair: PairAtLevel, reach: float, measure: Metric) -> DifferenceCell:
    """One pair at one level, with its place on an axis from ``-reach`` to ``reach``."""
    if pair.reason:
        return DifferenceCell(MISSING, notes=(pair.reason,))
    found = pair.difference
    low, value, high = (0.5 + 0.5 * end / reach for end in (found.low, found.value, found.high))
    verdict = "separated" if pair.separated else "not separated"
    return DifferenceCell(
        number(found.value, measure.decimals),
        interval(found.low, found.high, measure.decimals),
        (verdict, needed_to_separate(pair), spread_apart(pair, measure)),
        found.value,
        strong=pair.separated,
        strip=(low, value, high),
    )


def needed_to_separate(pair: PairAtLevel) -> str:
    """How many prompts or seeds would separate a pair, in words; empty for one that is."""
    if pair.separated or pair.reason:
        return ""
    if not pair.difference.n:  # not known prompt by prompt
        return "" if pair.seeds is None else f"{_round_up(pair.seeds):,} seeds would separate"
    ways = [] if pair.prompts is None else [f"about {_round_up(pair.prompts):,} prompts"]
    ways += [] if pair.seeds is None else [f"{_round_up(pair.seeds):,} seeds"]
    if ways:
        return f"{' or '.join(ways)} would separate"
    if pair.shares is None:
        return ""
    return "neither prompts alone nor seeds alone would separate"


def spread_apart(pair: PairAtLevel, measure: Metric) -> str:
    """The standard errors of a difference by what they come from; empty with one seed."""
    if pair.shares is None:
        return ""
    prompts, seeds = (number(share, measure.decimals) for share in pair.shares)
    if not pair.difference.n:  # not known prompt by prompt
        return f"standard error {seeds} from seeds"
    return f"standard error {prompts} from prompts, {seeds} from seeds"


def _round_up(count: int) -> int:
    """Two significant digits, upwards: the extrapolation is no better than that."""
    step = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // step) * step


def _values(
    comparison: MatchedComparison, letters: Sequence[dict[int, str]], index: int
) -> Iterator[Cell]:
    """A loss's figure at each level."""
    measure = comparison.measure
    for level, marks in zip(comparison.levels, letters, strict=True):
        if index not in level.values:
            yield Cell(MISSING, notes=(level.reasons.get(index, ""),))
            continue
        found = level.values[index]
        cell = estimate_cell(found, measure.decimals)
        notes = (f"n = {found.n:,}",) if found.n else ()
        yield dataclasses.replace(cell, notes=notes, mark=marks.get(index, ""))


def _letters(groups: Sequence[Sequence[int]]) -> dict[int, str]:
    """The letters of the groups that each series belongs to, the best group's first."""
    found: dict[int, list[str]] = {}
    for place, group in enumerate(groups):
        mark = _LETTERS[place] if place < len(_LETTERS) else f"({place + 1})"
        for index in group:
            found.setdefault(index, []).append(mark)
    return {index: ",".join(marks) for index, marks in found.items()}


def _groups(level: Level, shown: dict[int, LossCurve]) -> Iterator[str]:
    for group in level.groups:
        yield listing([shown[index].label for index in group])
