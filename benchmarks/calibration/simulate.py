"""Synthetic policies whose expected rewards and KLs are known, from a formula and not from a fit.

A loss at KL k has the expected reward tanh(.1 + .28 sqrt(k)) plus the loss's height and bend; a
share of wins is a probability of its own. What an estimate reads off between policies never decides
the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.points import Curves, Point

GRID = (0.4, 1.0, 2.5, 5.0, 9.0)
"""expected KL of each strength, nats"""

STAGGERED = (0.35, 0.65, 1.6, 3.6, 9.5)
"""the same for losses whose strengths fall between those of the others"""

TARGETS = (0.5, 1.2, 3.0, 6.0, 8.0)
"""the same where strengths were searched for, the compared KLs among them"""

LEVELS = (1.2, 3.0, 6.0)
"""KLs at which losses are compared, nats"""

Noise = Literal["normal", "t3", "log-normal", "binary"]


def expected_reward(kl: float | Array) -> Array:
    """The reward that every loss of height 0 has at a KL."""
    return np.asarray(np.tanh(0.1 + 0.28 * np.sqrt(kl)))


@dataclass(frozen=True)
class Losses:
    """Losses of which each has a curve of five strengths.

    A response's reward is the curve's value at the run's own expected KL plus what prompt, prompt
    and loss, run and chance add; its KL is the run's times log-normal factors of prompt and chance.

    Attributes:
        heights: added to the reward of each loss.
        prompts: number of prompts.
        seeds: number of training seeds; the same seed has something in common in all losses.
        seed_deviation: of the reward between runs.
        scatter: of the logarithm of the runs' KLs.
        noise: distribution of what responses add, of deviation .4; ``binary``: rewards are 0 or 1.
        wins: for ``binary``, the probability of 1 at KL 3 at height 0.
        grid: ``staggered``: every other loss has a grid between the others'; ``targets``: all have
            policies near the compared KLs, within 10%.
        alike: share of the runs' variance that all strengths of a loss and seed have in common.
        bends: of each loss, reward per nat by which its curve leaves the others' on both sides of
            KL 3, where all are equal.
    """

    heights: tuple[float, ...]
    prompts: int = 256
    seeds: int = 3
    seed_deviation: float = 0.02
    scatter: float = 0.15
    noise: Noise = "normal"
    wins: float = 0.5
    grid: Literal["staggered", "targets"] = "staggered"
    alike: float = 0.0
    bends: tuple[float, ...] = ()

    def truth(self, loss: str, kl: float) -> float:
        """What a loss reaches at a KL."""
        height = self.heights[int(loss)]
        if self.noise == "binary":
            return float(self._chance(np.array(kl), height))
        return float(expected_reward(kl)) + height + float(self._bent(loss, np.array(kl)))

    def _bent(self, loss: str, kl: Array) -> Array:
        bend = self.bends[int(loss)] if self.bends else 0.0
        return np.asarray(bend * (np.sqrt(kl) - math.sqrt(3.0)) ** 2)

    def draw(self, generator: np.random.Generator) -> Curves:
        """One experiment."""
        ease = generator.normal(0, 1, self.prompts)
        common = generator.normal(0, 1, self.seeds)
        return {
            str(index): self._loss(generator, str(index), height, ease, common)
            for index, height in enumerate(self.heights)
        }

    def _loss(
        self,
        generator: np.random.Generator,
        loss: str,
        height: float,
        ease: Array,
        common: Array,
    ) -> Sequence[Point]:
        taste = generator.normal(0, 1, self.prompts)
        of_seed = generator.normal(0, 1, self.seeds)
        points = []
        for strength in self._grid(int(loss)):
            alone = generator.normal(0, 1, self.seeds)
            own = math.sqrt(self.alike) * of_seed + math.sqrt(1 - self.alike) * alone
            shift = self.seed_deviation * (0.5 * common + math.sqrt(0.75) * own)
            kl = self._kls(generator, strength)[:, None]
            if self.noise == "binary":
                reward = self._wins(generator, kl, height + shift[:, None], taste)
            else:
                reward = expected_reward(kl) + self._bent(loss, kl) + height + shift[:, None]
                reward = reward + 0.5 * ease + 0.25 * taste + self._responses(generator)
            log = 0.4 * ease + 0.3 * generator.normal(0, 1, (self.seeds, self.prompts))
            points.append(Point(kl * np.exp(log - 0.5 * (0.16 + 0.09)), reward))
        return points

    def _kls(self, generator: np.random.Generator, strength: float) -> Array:
        """The runs' own expected KLs."""
        if self.grid == "targets":
            return strength * generator.uniform(0.9, 1.1, self.seeds)
        factor = np.exp(generator.normal(0, self.scatter, self.seeds) - self.scatter**2 / 2)
        return np.asarray(strength * factor)

    def _responses(self, generator: np.random.Generator) -> Array:
        size = (self.seeds, self.prompts)
        if self.noise == "t3":
            return np.asarray(0.4 * generator.standard_t(3, size) / math.sqrt(3))
        if self.noise == "log-normal":
            deviation = math.sqrt((math.e - 1) * math.e)
            return np.asarray(0.4 * (generator.lognormal(0, 1, size) - math.exp(0.5)) / deviation)
        return generator.normal(0, 0.4, size)

    def _chance(self, kl: Array, height: float | Array) -> Array:
        """The probability of a win at a KL; it moves by a fifth of its room along the curve."""
        room = min(self.wins, 1 - self.wins)
        moved = room * 0.4 * (expected_reward(kl) - expected_reward(3.0))
        return np.asarray(self.wins + moved + height)

    def _wins(
        self, generator: np.random.Generator, kl: Array, height: Array, taste: Array
    ) -> Array:
        """Share of two responses that win; prompts differ by up to .6 of the room."""
        chance = self._chance(kl, height)
        spread = 0.6 * np.minimum(chance, 1 - chance) * np.clip(taste / 2, -1, 1)
        drawn = generator.random((2, self.seeds, self.prompts))
        return np.asarray((drawn < np.clip(chance + spread, 0, 1)).mean(axis=0))

    def _grid(self, index: int) -> tuple[float, ...]:
        if self.grid == "targets":
            return TARGETS
        return STAGGERED if index % 2 else GRID


def equal_settings(
    generator: np.random.Generator, settings: int, prompts: int, seeds: int, deviation: float
) -> Curves:
    """Settings that all reach 0: five strengths of each loss, at KLs 1 to 5."""
    ease = generator.normal(0, 0.5, prompts)
    common = 0.5 * deviation * generator.normal(0, 1, seeds)
    curves: dict[str, list[Point]] = {}
    for index in range(settings):
        own = math.sqrt(0.75) * deviation * generator.normal(0, 1, seeds)
        noise = generator.normal(0, 0.4, (seeds, prompts)) + generator.normal(0, 0.2, prompts)
        reward = ease + noise + (common + own)[:, None]
        kl = np.full((seeds, prompts), 1.0 + index % 5)
        curves.setdefault(str(index // 5), []).append(Point(kl, reward))
    return curves


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
