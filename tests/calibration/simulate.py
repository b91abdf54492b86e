"""Synthetic policies whose expected rewards and KLs are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpo_bench.evaluation.curves import Curves, Point, cells, read
from dpo_bench.evaluation.statistics import Array

GRID = (0.4, 1.0, 2.5, 5.0, 9.0)
"""expected KL of each strength, nats"""


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
    """

    heights: tuple[float, ...]
    prompts: int = 128
    seeds: int = 1
    seed_deviation: float = 0.0

    @property
    def truth(self) -> Curves:
        """The expected curves, over one prompt."""
        return {
            str(index): [Point([kl], [self._reward(kl) + height]) for kl in GRID]
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
            str(index): self._loss(generator, height, ease, common)
            for index, height in enumerate(self.heights)
        }

    def _loss(
        self, generator: np.random.Generator, height: float, ease: Array, common: Array
    ) -> Sequence[Point]:
        taste = generator.normal(0, 0.25, self.prompts)
        points = []
        for kl in GRID:
            own = generator.normal(0, 1, self.seeds)
            shift = self.seed_deviation * (0.5 * common + math.sqrt(0.75) * own)[:, None]
            noise = generator.normal(0, 0.4, (self.seeds, self.prompts))
            reward = self._reward(kl) + height + 0.5 * ease + taste + shift + noise
            # log-normal, of expectation 1: prompts and responses, then seeds
            log = 0.4 * ease + 0.3 * generator.normal(0, 1, (self.seeds, self.prompts))
            drift = 2 * self.seed_deviation
            trained = drift * generator.normal(0, 1, self.seeds)[:, None]
            factor = np.exp(log - 0.5 * (0.16 + 0.09) + trained - 0.5 * drift**2)
            points.append(Point(kl * factor, reward))
        return points

    @staticmethod
    def _reward(kl: float) -> float:
        return float(np.tanh(0.1 + 0.28 * math.sqrt(kl)))


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
