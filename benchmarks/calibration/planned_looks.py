"""Seeds that are added at planned looks until nothing is open, as a searched sweep adds them.

At 3, 6 and 10 seeds losses are compared with the baseline; one of which nothing is open any more
is given no further seeds. The verdicts are those that the report gives in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.calibration.rows import Row, at_least, false_verdicts
from benchmarks.calibration.simulate import LEVELS, Losses
from dpo_bench.analysis.comparisons import Family
from dpo_bench.analysis.looks import Look, compare_in_looks, levels_of_looks, open_losses
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.experiment.config import Search
from dpo_bench.search.plan import looks_of

DRAWS = 1000
"""of each family's simulation; the program takes more"""
PLANNED = Search(seeds=(3, 10))
BASELINE = "0"


@dataclass(frozen=True)
class Ended:
    """An experiment to which seeds were added until it was decided, or ten were reached.

    Attributes:
        family: verdicts after the last look that was made.
        first: verdicts that three seeds alone give, all of the 5% spent on them.
        seeds: by loss, how many it was given.
    """

    family: Family
    first: Family
    seeds: dict[str, int]


def carried_out(curves: Curves, seed: int, same_within: float | None = None) -> Ended:
    """Look at 3, 6 and 10 seeds of an experiment that has ten of all losses."""
    counts = looks_of(PLANNED, 10)

    def compared(seeds: dict[str, int], looks: Sequence[Look]) -> Family:
        seen = _first_seeds(curves, seeds)
        how = {"baseline": BASELINE, "same_within": same_within, "draws": DRAWS, "seed": seed}
        return compare_in_looks(seen, LEVELS, looks, **how)  # type: ignore[arg-type]

    first = compared(dict.fromkeys(curves, counts[0]), ())
    seeds = dict.fromkeys(curves, 0)
    active = set(curves)
    looks: list[Look] = []
    for count, level in zip(counts, levels_of_looks(counts), strict=True):
        seeds |= dict.fromkeys(active, count)
        looks.append((tuple(range(count)), level))
        family = compared(seeds, looks)
        still_open = open_losses(family)
        if not still_open:
            break
        active = {*still_open, BASELINE}
    return Ended(family, first, seeds)


def _first_seeds(curves: Curves, seeds: dict[str, int]) -> Curves:
    return {
        name: [Point(one.kl[: seeds[name]], one.reward[: seeds[name]]) for one in points]
        for name, points in curves.items()
    }


def _experiments(
    losses: Losses, simulations: int, same_within: float | None = None, seed: int = 13
) -> Iterator[Ended]:
    generator = np.random.default_rng(seed)
    for one in range(simulations):
        yield carried_out(losses.draw(generator), one, same_within)


def _mean_seeds(found: Sequence[Ended]) -> str:
    others = [count for one in found for name, count in one.seeds.items() if name != BASELINE]
    return f"{np.mean(others):.1f} seeds on average"


def nothing_differs(losses: Losses, margin: float | None, simulations: int) -> Row:
    """Any better or worse among equal losses."""
    found = list(_experiments(losses, simulations, margin))
    wrong = [any(one.decided for one in ended.family.all) for ended in found]
    setting = f"looks at 3, 6 and 10 seeds, {losses.prompts:,} prompts"
    setting += "" if margin is None else f", margin {margin:g}"
    return false_verdicts("any false verdict, seeds added", setting, wrong, _mean_seeds(found))


def nothing_same(margin: float, simulations: int) -> Row:
    """Any same among losses that differ from the baseline by just the margin."""
    losses = Losses((0.0, margin, -margin, margin), seeds=10, grid="targets")
    found = list(_experiments(losses, simulations, margin, seed=14))
    wrong = [any(one.verdict == "same" for one in ended.family.all) for ended in found]
    setting = f"differences of {margin:g}, margin {margin:g}, looks at 3, 6 and 10 seeds"
    return false_verdicts("any false same, seeds added", setting, wrong, _mean_seeds(found))


def power(losses: Losses, least: float, simulations: int) -> Row:
    """How many differences are found when seeds are added, and by three seeds alone."""
    found = list(_experiments(losses, simulations, seed=15))
    shown = [one.verdict == "better" for ended in found for one in ended.family.all]
    at_first = [one.verdict == "better" for ended in found for one in ended.first.all]
    where = f"{losses.prompts:,} prompts, seed deviation {losses.seed_deviation:g}"
    setting = f"3 losses at 3 KLs, {where}, looks at 3, 6 and 10 seeds"
    about = f"by 3 seeds alone {100 * np.mean(at_first):.0f}%; {_mean_seeds(found)}"
    name = f"a difference of {losses.heights[1]:g} is found, seeds added"
    return replace(at_least(name, setting, shown, least, about), experiments=simulations)


def look_rows(simulations: int) -> Iterator[Callable[[], list[Row]]]:
    """Every row on planned looks, as pieces of work."""
    equal = (0.0,) * 5
    for prompts, margin in ((256, None), (1024, 0.05)):
        losses = Losses(equal, prompts=prompts, seeds=10, grid="targets")
        yield partial(_one, nothing_differs, losses, margin, simulations)
    yield partial(_one, nothing_same, 0.05, simulations)
    # Seeds help where runs differ; where prompts are few these limit what can be found.
    for prompts, deviation, least in ((256, 0.02, 0.1), (1024, 0.03, 0.5)):
        losses = Losses(
            (0.0, 0.05, 0.05, 0.05), prompts, 10, seed_deviation=deviation, grid="targets"
        )
        yield partial(_one, power, losses, least, simulations // 2)


def _one(case: Callable[..., Row], *arguments: object) -> list[Row]:
    return [case(*arguments)]
