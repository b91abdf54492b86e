"""How far each loss stays below the optimal frontier, at the KLs at which losses are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dpo_bench.analysis import matched
from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import FRONTIER_GAP, KL, REWARD
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.section import Section, estimate_cell
from dpo_bench.report.table_values import Cell, Row, Table
from dpo_bench.wording import MISSING, listing, number


@dataclass(frozen=True, slots=True)
class RegretAtLevel:
    """All series against the optimum at one KL.

    Attributes:
        kl: nats.
        optimum: the optimal policy's mean reward; None where the frontier is not known.
        gaps: optimal reward minus the loss's, by index of series; empty likewise.
    """

    kl: float
    optimum: float | None
    gaps: Mapping[int, Estimate]


def frontier_regret(
    results: SweepResults, curves: CurvesOnPrompts | str, comparison: MatchedComparison | str
) -> tuple[RegretAtLevel, ...]:
    """The gaps at the comparison's levels, or where there is one loss alone at levels of its own.

    Empty where no level lies in the frontier's range: neither curve nor frontier is continued.
    """
    if isinstance(curves, str) or REWARD not in curves.measures:
        return ()
    own = curves.by_measure[REWARD.name]
    if not isinstance(comparison, str):
        levels = [level.kl for level in comparison.levels]
    elif len(own) == 1 and (ends := matched.common_range(own)):
        levels = matched.default_levels(*ends)
    else:
        return ()
    frontier = _frontier(results, curves.prompts)
    if frontier is None or not any(map(frontier.covers, levels)):
        return ()
    return tuple(_at(own, frontier, kl, curves) for kl in levels)


def _at(
    own: matched.Curves, frontier: Frontier, kl: float, curves: CurvesOnPrompts
) -> RegretAtLevel:
    if not frontier.covers(kl):
        return RegretAtLevel(kl, None, {})
    found = matched.regret_at(own, frontier, kl, curves.weights)
    gaps = {int(name): one.estimate for name, one in found.items()}
    return RegretAtLevel(kl, frontier.reward_at(kl), gaps)


def _frontier(results: SweepResults, prompts: pd.Index) -> Frontier | None:
    """The reference's frontier over the curves' prompts; None where the sweep gives none."""
    samples = results.reference.samples
    if not results.reference.frontier or "reward" not in samples:
        return None
    rewards = samples.pivot(index="prompt_id", columns="sample", values="reward").reindex(prompts)
    table = rewards.to_numpy(float)
    return None if pd.isna(table).any() else Frontier(table)


def regret_section(series: Sequence[LossCurve], found: Sequence[RegretAtLevel]) -> Section | None:
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
    return Section(
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
