"""Values of training that a loss is tuned over, and what that bought.

The option (a learning rate, a number of steps, a combination) is chosen on one half of the held-out
prompts by its mean figure over the compared KLs that all of the loss's options cover, or, where
there is none, over its settings. Everything that is compared then is read on the other half: the
best of several looks better than it is on whatever chose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.halves import split_prompts
from dpo_bench.analysis.kl_axis import ROUND
from dpo_bench.analysis.loss_curves import GridPoint, grid_points
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.prompt_curves import held_out, primary_name, trained_points
from dpo_bench.analysis.readings import Reading, curves_in_common
from dpo_bench.analysis.results import SweepResults


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several options.

    Attributes:
        chosen: its place.
        figures: of each option; NaN for one without policies.
        kls: at which these are means, nats; empty where they are means over settings.
    """

    chosen: int
    figures: tuple[float, ...]
    kls: tuple[float, ...]


def choose(options: Sequence[Sequence[Point]], kls: Sequence[float]) -> Choice:
    """Choose the option with the highest mean figure; the first of equal ones.

    Args:
        options: of each its policies after training, on the prompts that choose.
        kls: at which losses are compared, nats.
    """
    readings = read_options(options, kls)
    common = common_kls(options, readings, kls)
    figures = tuple(
        float(np.mean(by_prompt(points, found, common))) if points else float("nan")
        for points, found in zip(options, readings, strict=True)
    )
    known = [-np.inf if np.isnan(one) else one for one in figures]
    return Choice(int(np.argmax(known)) if known else 0, figures, common)


Readings = Mapping[float, Reading]


def read_options(options: Sequence[Sequence[Point]], kls: Sequence[float]) -> list[Readings]:
    """Each option read at the KLs that it covers."""
    given = {str(place): points for place, points in enumerate(options) if points}
    curves = curves_in_common(given) if given else {}
    found: list[Readings] = []
    for place in range(len(options)):
        tried = {kl: curves[str(place)].read(kl) for kl in kls} if str(place) in curves else {}
        found.append({kl: one for kl, one in tried.items() if isinstance(one, Reading)})
    return found


def common_kls(
    options: Sequence[Sequence[Point]], readings: Sequence[Readings], kls: Sequence[float]
) -> tuple[float, ...]:
    """The KLs that all options with policies cover."""
    own = [found for points, found in zip(options, readings, strict=True) if points]
    return tuple(kl for kl in kls if own and all(kl in found for found in own))


def by_prompt(points: Sequence[Point], found: Readings, kls: Sequence[float]) -> Array:
    """An option's figure [prompts]: its mean over KLs, or else over settings, and over seeds."""
    parts = [found[kl].values.mean(axis=0) for kl in kls]
    return np.asarray(np.mean(parts or [p.reward.mean(axis=0) for p in points], axis=0))


def compared_kls(results: SweepResults) -> tuple[float, ...]:
    """The KLs (nats) that the experiment compares at, or the round ones."""
    stated = dict(results.experiment.get("comparison") or {}).get("kl")
    return tuple(map(float, stated or ROUND)) if results.has_kl else ()


def choose_settings(results: SweepResults, options: Sequence[Sequence[GridPoint]]) -> Choice:
    """Choose among groups of a loss's settings, by the primary measure on the half that chooses."""
    measure = primary_name(results)
    if measure is None or not results.done:
        return Choice(0, (), ())
    points, prompts = trained_points(results, options, measure)
    choosing = prompts.isin(split_prompts(prompts, held_out(results))[0])
    if not results.prompts_known:
        choosing = np.ones(len(prompts), dtype=bool)
    return choose([_on(own, choosing) for own in points], compared_kls(results))


def choose_paths(results: SweepResults, paths: Sequence[Sequence[str]]) -> int:
    """The same among groups of trials, given by their ids; those that are not there count not."""
    by_id = {trial.id: trial for trial in results.trials}
    groups = [[by_id[one] for one in path if one in by_id] for path in paths]
    names = sorted({name for group in groups for one in group for name in one.settings})
    return choose_settings(results, [grid_points(group, names) for group in groups]).chosen


def _on(points: Sequence[Point], prompts: NDArray[np.bool_]) -> list[Point]:
    return [Point(p.kl[:, prompts], p.reward[:, prompts], p.seed_names, p.step) for p in points]
