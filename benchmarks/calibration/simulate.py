"""Synthetic policies whose expected rewards and KLs are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.curves import cells, read
from dpo_bench.analysis.points import Curves, Point

GRID = (0.4, 1.0, 2.5, 5.0, 9.0)
"""expected KL of each strength, nats"""

STAGGERED = (0.35, 0.65, 1.6, 3.6, 9.5)
"""the same for losses whose strengths fall between those of the others"""


@dataclass(frozen=True)
class Stage:
    """A step of training: its share of the final KL, and how much lower the reward at a KL is."""

    step: int
    share: float
    shortfall: float


STAGES = (Stage(1, 0.35, 0.1), Stage(2, 0.9, 0.03), Stage(3, 1.0, 0.0))
"""about what the quickstart's policies are at a third, at two thirds and at the end of training"""


@dataclass(frozen=True)
class Losses:
    """Losses of which each has a curve of five strengths.

    A response's reward is the curve's value plus what prompt, prompt and loss, training seed and
    chance add; its KL is the expected one times log-normal factors of the same four.

    Attributes:
        heights: added to the reward of each loss.
        prompts: number of prompts.
        seeds: number of training seeds; the same seed has something in common in all losses.
        seed_deviation: of the reward between seeds; the KL's is of the same size relative to it.
        along: whether policies are measured along training, too: at each of `STAGES`.
        staggered: whether every other loss has a grid half-way between the others'.
    """

    heights: tuple[float, ...]
    prompts: int = 128
    seeds: int = 1
    seed_deviation: float = 0.0
    along: bool = False
    staggered: bool = False

    @property
    def truth(self) -> Curves:
        """The expected curves, over one prompt."""
        return {
            str(index): [
                Point([kl], [self._reward(kl, stage) + height], step=stage.step)
                for strength in self._grid(index)
                for stage in self._stages
                for kl in [strength * stage.share]
            ]
            for index, height in enumerate(self.heights)
        }

    def at(self, level: float) -> Array:
        """The expected reward [losses] at a KL (nats), read off as the estimate is."""
        return np.asarray(read(self.truth, cells(self.truth)[0], level)[0])

    def draw(self, generator: np.random.Generator) -> Curves:
        """One experiment."""
        ease = generator.normal(0, 1, self.prompts)
        common = generator.normal(0, 1, self.seeds)
        return {
            str(index): self._loss(generator, self._grid(index), height, ease, common)
            for index, height in enumerate(self.heights)
        }

    def _loss(
        self,
        generator: np.random.Generator,
        grid: Sequence[float],
        height: float,
        ease: Array,
        common: Array,
    ) -> Sequence[Point]:
        taste = generator.normal(0, 0.25, self.prompts)
        points = []
        for strength in grid:
            # of one run: what its seed and its texts have in common at all of its stages
            own = generator.normal(0, 1, self.seeds)
            shift = self.seed_deviation * (0.5 * common + math.sqrt(0.75) * own)[:, None]
            drift = 2 * self.seed_deviation
            trained = drift * generator.normal(0, 1, self.seeds)[:, None]
            for stage in self._stages:
                noise = generator.normal(0, 0.4, (self.seeds, self.prompts))
                kl = strength * stage.share
                reward = self._reward(kl, stage) + height + 0.5 * ease + taste + shift + noise
                # log-normal, of expectation 1: prompts and responses, then seeds
                log = 0.4 * ease + 0.3 * generator.normal(0, 1, (self.seeds, self.prompts))
                factor = np.exp(log - 0.5 * (0.16 + 0.09) + trained - 0.5 * drift**2)
                points.append(Point(kl * factor, reward, step=stage.step))
        return points

    def _grid(self, index: int) -> tuple[float, ...]:
        return STAGGERED if self.staggered and index % 2 else GRID

    @property
    def _stages(self) -> tuple[Stage, ...]:
        return STAGES if self.along else STAGES[-1:]

    @staticmethod
    def _reward(kl: float, stage: Stage) -> float:
        return float(np.tanh(0.1 + 0.28 * math.sqrt(kl))) - stage.shortfall


def pooled(curves: Curves) -> Curves:
    """The same policies on one curve, whatever their step."""
    return {
        name: [Point(one.kl, one.reward, one.seed_names) for one in points]
        for name, points in curves.items()
    }


def plain_two_way(
    curves: Curves, level: float, weights: Array, generator: np.random.Generator
) -> tuple[float, float]:
    """Percentiles of the first loss minus the second when prompts and seeds are both resampled."""
    table = cells(curves)
    seeds = len(table)
    drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(weights)) / seeds
    means = np.einsum("bs,bsk->bk", drawn, np.einsum("bc,sck->bsk", weights, table))
    rewards = read(curves, means, level)
    low, high = np.quantile(rewards[:, 0] - rewards[:, 1], [0.025, 0.975])
    return float(low), float(high)


def hump(
    generator: np.random.Generator, alpha: float, beta: float, prompts: int, seeds: int
) -> tuple[list[Point], Array]:
    """Policies on d (alpha - beta ln d), and the reference's rewards: 0 on average."""
    ease = generator.normal(0, 0.5, prompts)
    points = []
    for kl in (0.1, 0.4, 1.0, 2.5, 6.0, 12.0, 20.0):
        distance = math.sqrt(kl)
        gain = distance * (alpha - beta * math.log(distance))
        shift = 0.03 * generator.normal(0, 1, (seeds, 1)) if seeds > 1 else 0.0
        noise = generator.normal(0, 0.3, (seeds, prompts))
        factor = np.exp(0.4 * generator.normal(0, 1, (seeds, prompts)) - 0.08)
        points.append(Point(kl * factor, gain + ease + shift + noise))
    return points, ease + generator.normal(0, 0.1, prompts)
