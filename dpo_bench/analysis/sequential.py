"""What a searched sweep asks at a planned look: of which losses is anything still open?"""

from __future__ import annotations

from collections.abc import Sequence

from dpo_bench.analysis.compare import MatchedComparison, Plan, compare_series
from dpo_bench.analysis.comparisons import Comparison
from dpo_bench.analysis.looks import is_settled, nearness
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.series import group_series


def open_at_last_look(results: SweepResults) -> tuple[dict[str, float], str]:
    """The losses of which a comparison is open at the last look, and the present verdicts.

    Returns:
        by loss how near its nearest open comparison is to a decision (1: there), as the report
        compares them; and how many losses are better, worse, the same and open, in words.
    """
    series = group_series(results)
    found = compare_series(read_curves(results, series), series, Plan.of(results))
    if not isinstance(found, MatchedComparison):
        return {}, "nothing is compared yet"
    names = {str(one.index): one.loss for one in series}
    near: dict[str, float] = {}
    for index, share in nearness(found.family).items():
        near[names[index]] = max(near.get(names[index], 0.0), share)
    kinds = [kind for one in series if (kind := _kind(found.of(one.index)))]
    counts = (f"{kinds.count(kind)} {kind}" for kind in ("better", "worse", "same", "open"))
    both = [f"{kinds.count('both')} better and worse"] if "both" in kinds else []
    return near, ", ".join([*counts, *both])


def _kind(pairs: Sequence[Comparison]) -> str:
    """A loss's verdict over all KLs: open where any is; empty where it is not compared."""
    compared = [one for one in pairs if one.compared]
    verdicts = {one.verdict for one in compared} - {"same"}
    if not all(is_settled(one) for one in compared):
        return "open"
    if len(verdicts) > 1:
        return "both"
    return next(iter(verdicts), "same" if compared else "")
