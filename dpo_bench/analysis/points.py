"""The policies that a loss's curves go through, each with its figures prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array


@dataclass(frozen=True, eq=False, init=False)
class Point:
    """A policy, or one per seed, trained with one loss at one strength.

    Given as [clusters] or [seeds, clusters], kept as [seeds, clusters]: a cluster is a prompt, its
    value the mean over that prompt's samples, and all points have the same prompts in one order.

    Attributes:
        kl: KL(policy || reference), nats per sequence.
        reward: mean reward, or another figure to compare, such as the win rate.
        seed_names: the training seed of each row; policies of one seed are paired across losses.
            Counted from 0 when not given.
        step: training steps after which it was measured; only points of one step make a curve.
        mean_kl: mean KL over prompts and seeds, nats.

    Raises:
        ValueError: the shapes differ, a seed occurs twice, or a value is missing or infinite.
    """

    kl: Array
    reward: Array
    seed_names: tuple[int, ...]
    step: int
    mean_kl: float

    def __init__(
        self,
        kl: ArrayLike,
        reward: ArrayLike,
        seed_names: Sequence[int] | None = None,
        step: int = 0,
    ) -> None:
        tables = [np.atleast_2d(np.asarray(one, dtype=np.float64)) for one in (kl, reward)]
        if tables[0].shape != tables[1].shape or tables[0].ndim != 2 or not tables[0].size:
            raise ValueError(
                "kl and reward must both be [clusters] or [seeds, clusters],"
                f" not {list(tables[0].shape)} and {list(tables[1].shape)}"
            )
        if not all(np.isfinite(table).all() for table in tables):
            raise ValueError("a KL or reward is missing or infinite: leave the point out")
        names = tuple(range(len(tables[0])) if seed_names is None else seed_names)
        if len(names) != len(tables[0]) or len(set(names)) != len(names):
            raise ValueError(f"the seeds {names} do not name the {len(tables[0])} rows")
        object.__setattr__(self, "kl", tables[0])
        object.__setattr__(self, "reward", tables[1])
        object.__setattr__(self, "seed_names", names)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "mean_kl", float(tables[0].mean()))

    @property
    def seeds(self) -> int:
        """Number of training seeds averaged over."""
        return len(self.kl)


Curves = Mapping[str, Sequence[Point]]
"""For each loss the points of its grid and its checkpoints, in any order."""


def by_step(points: Sequence[Point]) -> dict[int, list[int]]:
    """The indices of the points of each step, in order of the steps."""
    found: dict[int, list[int]] = {}
    for index, point in enumerate(points):
        found.setdefault(point.step, []).append(index)
    return dict(sorted(found.items()))


def trained(points: Sequence[Point]) -> list[Point]:
    """The points of the last step: policies after their training."""
    steps = by_step(points)
    return [points[index] for index in steps[max(steps)]] if steps else []


def cells(curves: Curves) -> Array:
    """KLs, then rewards, of all points [seeds, clusters, 2 points], for `two_way.two_way`.

    Raises:
        ValueError: the points differ in their number of prompts.
    """
    points = [point for grid in curves.values() for point in grid]
    if len({point.kl.shape[1] for point in points}) > 1:
        raise ValueError("the points differ in their number of prompts: they cannot be paired")
    names = sorted({name for point in points for name in point.seed_names})
    table = np.full((len(names), points[0].kl.shape[1], 2 * len(points)), np.nan)
    for index, point in enumerate(points):
        rows = [names.index(name) for name in point.seed_names]
        table[rows, :, index] = point.kl
        table[rows, :, len(points) + index] = point.reward
    return table
