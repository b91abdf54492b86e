"""A matched-KL comparison laid out: figures by loss and level, differences by pair and level."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpo_bench.analysis.compare import Level, MatchedComparison, PairAtLevel
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL, Metric
from dpo_bench.report.table_values import Cell
from dpo_bench.wording import MISSING, interval, listing, number


@dataclass(frozen=True, slots=True)
class DifferenceCell:
    """One pair at one level.

    Attributes:
        cell: the difference and its interval.
        separated: whether the two differ, corrected for all pairs at all levels; the interval is
            the pair's own and may exclude 0 where they are not separated.
        verdict: in words.
        needed: what would separate the pair; empty when separated.
        spread: the standard errors from prompts and from seeds; empty with one seed.
        strip: low, value and high as shares (0 to 1) of an axis with 0 in its middle, the same
            for all cells; None when the pair was not compared.
    """

    cell: Cell
    separated: bool
    verdict: str
    needed: str
    spread: str
    strip: tuple[float, float, float] | None


DifferenceRow = tuple[str, tuple[DifferenceCell, ...]]
"""A pair's label and its cells, one per level."""

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
        values: a row per series, a cell per level.
        differences: a row per pair (label, cells) that is compared at any level, a cell per level.
        shown: those of them that a picture or a page has room for: all, or where there are very
            many the ones with the loss that is best at the middle level.
        groups: for each level the sets that are not separated, best first, as text.
        letters: for each level the letters of the groups that each series is in, by its index.
        few: whether the groups are short enough to be read as lists of names.
        reach: half the width of the differences' common axis.
    """

    comparison: MatchedComparison
    levels: tuple[str, ...]
    values: tuple[tuple[LossCurve, tuple[Cell, ...]], ...]
    differences: tuple[DifferenceRow, ...]
    shown: tuple[DifferenceRow, ...]
    groups: tuple[tuple[str, ...], ...]
    letters: tuple[dict[int, str], ...]
    few: bool
    reach: float

    @property
    def measure(self) -> Metric:
        """What was compared."""
        return self.comparison.measure


def matched_tables(comparison: MatchedComparison, series: Sequence[LossCurve]) -> MatchedTables:
    """Lay out a comparison."""
    shown = {one.index: one for one in series}
    reach, measure = comparison_reach(comparison), comparison.measure
    columns = [
        [difference_cell(pair, reach, measure) for pair in level.pairs]
        for level in comparison.levels
    ]
    titles = [
        f"{shown[pair.first].label} \u2212 {shown[pair.second].label}"
        for pair in comparison.levels[0].pairs
    ]
    rows = list(zip(titles, zip(*columns, strict=True), strict=True))
    known = [any(cell.strip for cell in cells) for _, cells in rows]
    differences = tuple(itertools.compress(rows, known))
    pairs = tuple(itertools.compress(comparison.levels[0].pairs, known))
    indices = sorted(
        {index for pair in comparison.levels[0].pairs for index in (pair.first, pair.second)}
    )
    return MatchedTables(
        comparison=comparison,
        levels=tuple(f"KL {number(level.kl, KL.decimals)}" for level in comparison.levels),
        values=tuple(
            (shown[index], tuple(_value_cell(level, index, measure) for level in comparison.levels))
            for index in indices
        ),
        differences=differences,
        shown=_shown(comparison, pairs, differences),
        groups=tuple(tuple(_groups(level, shown)) for level in comparison.levels),
        letters=tuple(_letters(level.groups) for level in comparison.levels),
        few=max(sum(map(len, level.groups)) for level in comparison.levels) <= _NAMES,
        reach=reach,
    )


def _shown(
    comparison: MatchedComparison,
    pairs: Sequence[PairAtLevel],
    differences: tuple[DifferenceRow, ...],
) -> tuple[DifferenceRow, ...]:
    if len(differences) <= _ROOM:
        return differences
    best = comparison.middle.best
    return tuple(
        row
        for pair, row in zip(pairs, differences, strict=True)
        if best in (pair.first, pair.second)
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
        return DifferenceCell(Cell(MISSING), False, pair.reason, "", "", None)
    found = pair.difference
    strip = tuple(0.5 + 0.5 * end / reach for end in (found.low, found.value, found.high))
    brackets = interval(found.low, found.high, measure.decimals)
    return DifferenceCell(
        Cell(number(found.value, measure.decimals), brackets, found.value),
        pair.separated,
        "separated" if pair.separated else "not separated",
        needed_to_separate(pair),
        spread_apart(pair, measure),
        (strip[0], strip[1], strip[2]),
    )


def needed_to_separate(pair: PairAtLevel) -> str:
    """How many prompts or seeds would separate a pair, in words; empty for one that is."""
    if pair.separated or pair.reason:
        return ""
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
    return f"standard error {prompts} from prompts, {seeds} from seeds"


def _round_up(count: int) -> int:
    """Two significant digits, upwards: the extrapolation is no better than that."""
    step = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // step) * step


def _value_cell(level: Level, index: int, measure: Metric) -> Cell:
    if index not in level.values:
        return Cell(MISSING, level.reasons.get(index, ""))
    found = level.values[index]
    brackets = interval(found.low, found.high, measure.decimals)
    return Cell(number(found.value, measure.decimals), f"{brackets}, n = {found.n:,}", found.value)


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
