"""Worlds whose optimal frontier is exact, with policies of which everything is known too."""

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

    def policy(self, inverse: float, scores: Array | None = None) -> Array:
        """The reference tilted by exp(inverse x scores), by the rewards where none are given.

        Returns:
            its probabilities [prompts, responses].
        """
        scores = self.rewards if scores is None else scores
        lifted = self.probabilities * np.exp(inverse * (scores - scores.max(axis=1, keepdims=True)))
        return np.asarray(lifted / lifted.sum(axis=1, keepdims=True))

    def measured(self, policy: Array) -> tuple[Array, Array]:
        """KL and reward [prompts] of a policy's probabilities."""
        ratio = np.divide(policy, self.probabilities)
        kl = (policy * np.log(ratio, out=np.zeros_like(ratio), where=policy > 0)).sum(axis=1)
        return kl, (policy * self.rewards).sum(axis=1)

    def tilted(self, inverse: float) -> tuple[Array, Array]:
        """KL and reward [prompts] of the exact optimum at one inverse temperature."""
        return self.measured(self.policy(inverse))

    def exact(self, levels: Array) -> Array:
        """The exact optimal mean reward at mean KLs."""
        grid = np.r_[0, np.geomspace(0.02, 100, 150) / self.deviation]
        kl, reward = np.array([[part.mean() for part in self.tilted(one)] for one in grid]).T
        return np.asarray(np.interp(np.sqrt(levels), np.sqrt(kl.clip(0)), reward))

    def trained(self, accuracy: float, kl: float, seed: int) -> Array:
        """A policy that learned a distorted reward: probabilities [prompts, responses].

        Args:
            accuracy: correlation of the reward that it learned with the true one.
            kl: its mean KL, nats.
            seed: of the distortion.
        """
        from scipy.optimize import brentq

        noise = np.random.default_rng(seed).normal(size=self.rewards.shape)
        scores = accuracy * self.rewards / self.deviation + math.sqrt(1 - accuracy**2) * noise

        def excess(inverse: float) -> float:
            return float(self.measured(self.policy(inverse, scores))[0].mean()) - kl

        return self.policy(float(brentq(excess, 1e-3, 100)), scores)

    def sample(self, count: int, seed: int) -> Array:
        """Rewards [prompts, count] of samples of the reference."""
        return self.draw(self.probabilities, count, seed)[0]

    def draw(self, policy: Array, count: int, seed: int) -> tuple[Array, Array]:
        """Rewards and log-ratios [prompts, count] of samples of a policy."""
        drawn = np.random.default_rng(seed).random((len(policy), count))
        cumulated = policy.cumsum(axis=1)
        cumulated[:, -1] = 1
        rows = [np.searchsorted(*row, side="right") for row in zip(cumulated, drawn, strict=True)]
        picked = np.stack(rows)
        own, base = (np.take_along_axis(one, picked, 1) for one in (policy, self.probabilities))
        return np.take_along_axis(self.rewards, picked, axis=1), np.log(own / base)


@dataclass(frozen=True)
class NormalWorld:
    """Responses are points of a plane, normal under the reference; the reward is one coordinate.

    The reference tilted by exp(t x reward) is the same normal moved by t: its mean reward is t and
    its KL t^2 / 2. A policy is moved in another direction, in which it gains less.

    Attributes:
        prompts: number of prompts, all alike.
    """

    prompts: int
    deviation: float = 1.0

    @staticmethod
    def exact(levels: Array) -> Array:
        """The exact optimal reward at KLs (nats)."""
        return np.sqrt(2 * np.asarray(levels))

    def sample(self, count: int, seed: int) -> Array:
        """Rewards [prompts, count] of samples of the reference."""
        return np.random.default_rng(seed).normal(size=(self.prompts, count))

    def draw(self, accuracy: float, kl: float, count: int, seed: int) -> tuple[Array, Array]:
        """Rewards and log-ratios [prompts, count] of a policy that moved by sqrt(2 KL).

        Args:
            accuracy: the cosine of its direction with the reward's, hence its share of the best
                gain at its KL.
            kl: its KL, nats.
            count: samples per prompt.
            seed: of the samples.
        """
        along, across = np.random.default_rng(seed).normal(size=(2, self.prompts, count))
        moved = math.sqrt(2 * kl)
        along = along + moved
        reward = accuracy * along + math.sqrt(1 - accuracy**2) * across
        return reward, moved * along - moved**2 / 2
