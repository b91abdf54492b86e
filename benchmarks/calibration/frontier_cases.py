"""The optimal frontier and the gap to it, where the frontier is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.calibration.enumerable import EnumerableWorld
from benchmarks.calibration.rows import Row, coverage, holds
from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.points import Curves, Point

PROMPTS, SAMPLES, POPULATION = 128, 64, 3000


@dataclass(frozen=True)
class Bias:
    """Estimated minus exact optimal reward, in standard deviations of the reward.

    Attributes:
        rewards: their distribution.
        samples: responses per prompt, K.
        levels: the bias at KL .5, 1 and 2 nats; None beyond the stated range.
        end: mean KL where the estimate ends, nats.
        at_end: the bias there.
        error: largest standard error of these.
        frontiers: how many were estimated.
    """

    rewards: str
    samples: int
    levels: tuple[float | None, ...]
    end: float
    at_end: float
    error: float
    frontiers: int


def bias(rewards: str, samples: int, frontiers: int) -> Bias:
    """The bias of the frontier's estimate for one kind of reward, the prompts being given."""
    world = EnumerableWorld.of(rewards, prompts=PROMPTS)
    found = [Frontier(world.sample(samples, seed)) for seed in range(frontiers)]
    ends = np.array([one.valid_kl for one in found])
    misses: list[Array] = []
    for level in (0.5, 1.0, 2.0):
        reached = np.array([one.reward_at(level) for one in found if one.covers(level)])
        misses.append(reached - world.exact(np.array([level])))
    last = np.array([one.reward_at(one.valid_kl) for one in found]) - world.exact(ends)
    whole = [miss / world.deviation for miss in misses if len(miss) == frontiers]
    whole.append(last / world.deviation)
    means = [
        float(miss.mean() / world.deviation) if len(miss) == frontiers else None for miss in misses
    ]
    return Bias(
        rewards,
        samples,
        tuple(means),
        float(ends.mean()),
        float(whole[-1].mean()),
        max(float(one.std(ddof=1)) for one in whole) / frontiers**0.5,
        frontiers,
    )


@cache
def population() -> EnumerableWorld:
    """Many prompts, from which each experiment takes some."""
    return EnumerableWorld.of("saturating", prompts=POPULATION, responses=150)


def frontier_rows(simulations: int) -> Iterator[Row]:
    """Coverage of the frontier's own interval, and of the gap of a loss at KL 1.

    The loss tilts the reference by a distorted reward.
    """
    world, generator = population(), np.random.default_rng(5)
    distorted = EnumerableWorld(
        world.probabilities, world.rewards + generator.normal(0, 0.5, world.rewards.shape)
    )
    tilts = [_tilted(world, distorted, inverse) for inverse in (0.8, 1.6, 3.0)]
    everyone = {"loss": [Point(*tilt) for tilt in tilts]}
    best = float(world.exact(np.array([1.0]))[0])
    gap = best - float(read(everyone, cells(everyone)[0].mean(axis=0, keepdims=True), 1.0)[0, 0])
    curve, difference = [], []
    for seed in range(simulations):
        chosen = generator.choice(POPULATION, PROMPTS, replace=False)
        part = EnumerableWorld(world.probabilities[chosen], world.rewards[chosen])
        frontier = Frontier(part.sample(SAMPLES, seed))
        weights = resample_weights(PROMPTS, 600, seed)
        table = frontier.table(weights)
        low, high = (np.interp(1.0, table["kl"], table[f"reward_{end}"]) for end in ("low", "high"))
        curve.append(bool(low <= best <= high))
        curves = _noisy([(kl[chosen], reward[chosen]) for kl, reward in tilts], generator)
        difference.append(holds(regret_at(curves, frontier, 1.0, weights)["loss"].estimate, gap))
    setting = f"KL 1, {SAMPLES} samples for {PROMPTS} prompts"
    yield coverage("optimal frontier", setting, curve)
    yield coverage("gap to the optimal frontier", setting, difference)


def _tilted(world: EnumerableWorld, by: EnumerableWorld, inverse: float) -> tuple[Array, Array]:
    """KL and true reward [prompts] of the reference tilted by another reward."""
    lifted = by.probabilities * np.exp(
        inverse * (by.rewards - by.rewards.max(axis=1, keepdims=True))
    )
    policy = lifted / lifted.sum(axis=1, keepdims=True)
    ratio = policy / by.probabilities
    kl = (policy * np.log(ratio, out=np.zeros_like(ratio), where=policy > 0)).sum(axis=1)
    return kl, (policy * world.rewards).sum(axis=1)


def _noisy(tilts: list[tuple[Array, Array]], generator: np.random.Generator) -> Curves:
    """What two sampled responses add."""
    return {
        "loss": [
            Point(
                kl * (1 + generator.uniform(-0.5, 0.5, len(kl))),
                reward + generator.normal(0, 0.3, len(kl)),
            )
            for kl, reward in tilts
        ]
    }
