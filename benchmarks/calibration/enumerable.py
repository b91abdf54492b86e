"""A world so small that its optimal frontier is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dpo_bench.analysis.bootstrap import Array


@dataclass
class EnumerableWorld:
    """Prompts with a handful of responses of known probability, so that the frontier is exact.

    Attributes:
        probabilities: [prompts, responses], of the reference.
        rewards: [prompts, responses].
    """

    probabilities: Array
    rewards: Array

    @classmethod
    def of(cls, kind: str, prompts: int, responses: int = 400, seed: int = 0) -> EnumerableWorld:
        generator = np.random.default_rng(seed)
        shares = generator.dirichlet(np.full(responses, 0.5), size=prompts).clip(1e-12)
        quality = generator.normal(0.4, 1.5, (prompts, 1))
        score = quality + generator.normal(0, 2.6, (prompts, responses))
        if kind == "saturating":  # VADER's compound score is s / sqrt(s^2 + 15)
            score = score / np.sqrt(score**2 + 15)
        return cls(shares / shares.sum(axis=1, keepdims=True), score)

    @property
    def deviation(self) -> float:
        """Standard deviation of the reward within a prompt."""
        mean = (self.probabilities * self.rewards).sum(axis=1)
        return math.sqrt(((self.probabilities * self.rewards**2).sum(axis=1) - mean**2).mean())

    def tilted(self, inverse: float) -> tuple[Array, Array]:
        """KL and reward [prompts] of the exact optimum at one inverse temperature."""
        lifted = self.probabilities * np.exp(
            inverse * (self.rewards - self.rewards.max(axis=1, keepdims=True))
        )
        policy = lifted / lifted.sum(axis=1, keepdims=True)
        ratio = np.divide(policy, self.probabilities)
        kl = (policy * np.log(ratio, out=np.zeros_like(ratio), where=policy > 0)).sum(axis=1)
        return kl, (policy * self.rewards).sum(axis=1)

    def exact(self, levels: Array) -> Array:
        """The exact optimal mean reward at mean KLs."""
        grid = np.r_[0, np.geomspace(0.02, 100, 150) / self.deviation]
        kl, reward = np.array([[part.mean() for part in self.tilted(one)] for one in grid]).T
        return np.asarray(np.interp(np.sqrt(levels), np.sqrt(kl.clip(0)), reward))

    def sample(self, count: int, seed: int) -> Array:
        """Rewards [prompts, count] of samples of the reference."""
        drawn = np.random.default_rng(seed).random((len(self.rewards), count))
        cumulated = self.probabilities.cumsum(axis=1)
        cumulated[:, -1] = 1
        rows = [np.searchsorted(*row, side="right") for row in zip(cumulated, drawn, strict=True)]
        return np.take_along_axis(self.rewards, np.stack(rows), axis=1)
