"""Which setting to train, and what it can be expected to reach.

The largest of many figures is partly luck. Of 20 equal settings the best looks two standard errors
better than it is, and an interval around it covers 72%. So a setting is chosen on one half of the
prompts and reported on the other half. Prompts are not all of the luck: a run may be lucky on every
prompt. With several seeds the larger half of them chooses, too, and the others report. (To leave
out one seed at a time and average is no way out: the parts then choose each other, and an interval
that takes them for independent covers 90%.)

Settings take part whose policies are no degenerate ones and have few responses cut at the token
limit: what such figures say of training again is doubtful.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.comparisons import error_of_mean
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.halves import halves
from dpo_bench.analysis.points import Curves, Point, trained
from dpo_bench.analysis.run_variance import RunVariance

_Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class BestSetting:
    """The choice and what it reaches.

    Attributes:
        loss: key of its curve.
        strength: index of it among the loss's trained points.
        kl: of its policies, nats.
        expected: what a policy trained so reaches, by prompts and seeds that did not choose it,
            with a 95% interval.
        seeds: number of training seeds that chose and that reported.
        agreed: of all seeds, those that by themselves choose the same setting.
        candidates: number of settings among which it was chosen.
        left_out: number of settings with doubtful policies.
    """

    loss: str
    strength: int
    kl: float
    expected: Estimate
    seeds: tuple[int, int]
    agreed: int
    candidates: int
    left_out: int


def best_setting(
    curves: Curves,
    doubts: Mapping[str, Sequence[str]],
    variance: RunVariance,
    *,
    prompts_known: bool = True,
) -> BestSetting | None:
    """Choose the setting with the highest figure; None where nothing tells how sure it is.

    Args:
        curves: of each loss.
        doubts: for each of a loss's trained points why it does not take part; empty where it does.
        variance: of runs, over the same curves.
        prompts_known: False where a run's mean is all that is known of it.
    """
    points = {
        (name, index): point
        for name, found in curves.items()
        for index, point in enumerate(trained(found))
    }
    sound = {
        place: point
        for place, point in points.items()
        if not _doubt(doubts.get(place[0], ()), place)
    }
    usable = _repeated(sound)
    if not usable:
        return None
    names = sorted(set.intersection(*(set(point.seed_names) for point in usable.values())))
    prompts = next(iter(usable.values())).reward.shape[1]
    if not names or (len(names) < 2 and (not prompts_known or prompts < 4)):
        return None
    chosen, reported = halves(prompts, split=prompts_known and prompts >= 4)
    half = (len(names) + 1) // 2
    choosing, reporting = (names[:half], names[half:]) if len(names) > 1 else (names, names)
    choice = _choice(usable, choosing, chosen)
    point = usable[choice]
    by_prompt = np.mean([_row(point, name)[reported] for name in reporting], axis=0)
    alone = [_choice(usable, [name], chosen) for name in names]
    return BestSetting(
        *choice,
        point.mean_kl,
        _expected(by_prompt, choice, variance, len(reporting), prompts_known=prompts_known),
        (len(choosing), len(reporting)),
        alone.count(choice),
        len(usable),
        len(points) - len(sound),
    )


def _repeated(points: Mapping[_Place, Point]) -> dict[_Place, Point]:
    """Those with all seeds that every loss has; a search adds policies of one seed alone.

    At least the two seeds that most have.
    """
    counts = Counter(name for point in points.values() for name in point.seed_names)
    seeds = sorted(counts, key=lambda name: (-counts[name], name))
    kept = _with_seeds(points, seeds[:2])
    losses = {loss for loss, _ in kept}
    for count in range(3, len(seeds) + 1):
        fewer = _with_seeds(points, seeds[:count])
        if {loss for loss, _ in fewer} != losses:
            break
        kept = fewer
    return kept


def _with_seeds(points: Mapping[_Place, Point], seeds: Sequence[int]) -> dict[_Place, Point]:
    return {place: one for place, one in points.items() if set(seeds) <= set(one.seed_names)}


def _doubt(doubts: Sequence[str], place: _Place) -> str:
    return doubts[place[1]] if place[1] < len(doubts) else ""


def _choice(
    usable: Mapping[_Place, Point], names: Sequence[int], prompts: NDArray[np.intp]
) -> _Place:
    def height(place: _Place) -> float:
        return float(np.mean([_row(usable[place], name)[prompts].mean() for name in names]))

    return max(usable, key=height)


def _row(point: Point, name: int) -> Array:
    return np.asarray(point.reward[point.seed_names.index(name)])


def _expected(
    by_prompt: Array, place: _Place, variance: RunVariance, seeds: int, *, prompts_known: bool
) -> Estimate:
    count = len(by_prompt) if prompts_known else 0
    own, responses, freedom = (
        float(one[place[0]][place[1]])
        for one in (variance.own, variance.responses, variance.freedom)
    )
    runs = 0.0
    if math.isfinite(own):
        square = variance.loss[place[0]].value if place[0] in variance.loss else 0.0
        of_loss = max(square - own / len(variance.own[place[0]]), 0.0)
        alone = (max(own - responses, 0.0) + of_loss) / seeds
        runs, freedom = variance.with_common(alone, freedom, seeds)
    total, width = error_of_mean(by_prompt, (runs, freedom), 0.0, count)
    value, half = float(by_prompt.mean()), width * math.sqrt(total)
    return Estimate(value, value - half, value + half, count)
