"""The optimal frontier and the gap to it, where the frontier is exact.

``python -m benchmarks.calibration.frontier_cases [FRONTIERS]`` prints how far it reaches from the
reference's samples alone, and with those of a handful of policies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy.optimize import brentq

from benchmarks.calibration.enumerable import EnumerableWorld, NormalWorld
from benchmarks.calibration.rows import Row, coverage, holds
from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import curves_in_common
from dpo_bench.analysis.regret import regret_at
from dpo_bench.analysis.run_variance import run_variance
from dpo_bench.analysis.tilting import PolicySamples

PROMPTS, SAMPLES, POPULATION = 128, 64, 3000
POLICY_KLS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
"""mean KLs of the policies, nats"""
RESPONSES = 2
"""of a policy to each prompt"""


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


@dataclass(frozen=True)
class Reach:
    """How far the frontier is known, and how wrong it is there.

    Attributes:
        world: which rewards.
        samples: of the reference per prompt, K.
        accuracy: the policies' share of the best gain at their KL; None: no policies.
        prompts: their number.
        end: mean of the KLs where the estimates end, nats.
        bias: mean error there, in standard deviations of the reward within a prompt.
        error: standard error of the bias.
        largest: bias of the largest size at any KL below, in the same unit.
        extended: share of the estimates that policies carried farther.
    """

    world: str
    samples: int
    accuracy: float | None
    prompts: int
    end: float
    bias: float
    error: float
    largest: float
    extended: float


def reach(
    kind: str, samples: int, accuracy: float | None, frontiers: int, prompts: int = PROMPTS
) -> Reach:
    """Estimate many frontiers of one world; kind: moved, normal, saturating or log-normal."""
    source = _source(kind, prompts, accuracy)
    found = [Frontier(*source.draw(samples, seed)) for seed in range(frontiers)]
    ends = np.array([one.valid_kl for one in found])
    last = np.array([one.reward_at(one.valid_kl) for one in found]) - source.world.exact(ends)
    misses = [
        np.mean([one.reward_at(kl) for one in found]) - source.world.exact(np.array([kl]))[0]
        for kl in np.linspace(0, 1, 21)[1:] ** 2 * ends.min()
    ]
    unit = source.world.deviation
    return Reach(
        kind,
        samples,
        accuracy,
        prompts,
        float(ends.mean()),
        float(last.mean() / unit),
        float(last.std(ddof=1) / frontiers**0.5 / unit),
        float(max(misses, key=abs) / unit),
        float(np.mean([one.policies > 0 for one in found])),
    )


@dataclass(frozen=True)
class _Source:
    """Samples of a world's reference and of policies trained in it.

    Attributes:
        world: the world.
        policies: their probabilities; for `NormalWorld`, whose policies have none, their KLs.
        accuracy: of the policies.
    """

    world: EnumerableWorld | NormalWorld
    policies: tuple[Array | float, ...]
    accuracy: float | None

    def draw(self, samples: int, seed: int) -> tuple[Array, PolicySamples | None]:
        """Rewards of the reference and the policies' responses, of new random numbers."""
        rewards = self.world.sample(samples, seed)
        if not self.policies:
            return rewards, None
        drawn = [
            self._responses(policy, 10_000 * (place + 1) + seed)
            for place, policy in enumerate(self.policies)
        ]
        return rewards, PolicySamples(*(np.stack(part) for part in zip(*drawn, strict=True)))

    def _responses(self, policy: Array | float, seed: int) -> tuple[Array, Array]:
        if isinstance(self.world, NormalWorld):
            return self.world.draw(self.accuracy or 0.0, float(policy), RESPONSES, seed)
        return self.world.draw(np.asarray(policy), RESPONSES, seed)


@cache
def _source(kind: str, prompts: int, accuracy: float | None) -> _Source:
    if kind == "moved":
        return _Source(NormalWorld(prompts), POLICY_KLS if accuracy else (), accuracy)
    world = EnumerableWorld.of("normal" if kind == "log-normal" else kind, prompts, responses=1500)
    if kind == "log-normal":
        world = EnumerableWorld(world.probabilities, np.exp(world.rewards / 2.6))
    kls = POLICY_KLS if accuracy else ()
    policies: tuple[Array | float, ...] = tuple(
        world.trained(accuracy or 0.0, kl, place) for place, kl in enumerate(kls, start=1)
    )
    return _Source(world, policies, accuracy)


@cache
def population() -> EnumerableWorld:
    """Many prompts, from which each experiment takes some."""
    return EnumerableWorld.of("saturating", prompts=POPULATION, responses=150)


def frontier_rows(simulations: int) -> Iterator[Callable[[], list[Row]]]:
    """Every row on the frontier, as pieces of work."""
    yield partial(reference_rows, simulations)
    yield partial(pooled_rows, simulations)


def reference_rows(simulations: int) -> list[Row]:
    """Coverage of the frontier's own interval, and of the gap of a loss at KL 1.

    The loss tilts the reference by a distorted reward; what it reaches at KL 1 is that of the tilt
    whose KL is 1, not what is read off between the others.
    """
    world, generator = population(), np.random.default_rng(5)
    distorted = world.rewards + generator.normal(0, 0.5, world.rewards.shape)

    def measured(inverse: float) -> tuple[Array, Array]:
        return world.measured(world.policy(inverse, distorted))

    tilts = [measured(inverse) for inverse in (0.8, 1.2, 1.6, 3.0)]
    at_one = brentq(lambda inverse: float(measured(inverse)[0].mean()) - 1.0, 0.1, 10.0)
    best = float(world.exact(np.array([1.0]))[0])
    gap = best - float(measured(at_one)[1].mean())
    curve, difference = [], []
    for seed in range(simulations):
        chosen = generator.choice(POPULATION, PROMPTS, replace=False)
        part = EnumerableWorld(world.probabilities[chosen], world.rewards[chosen])
        frontier = Frontier(part.sample(SAMPLES, seed))
        table = frontier.table(resample_weights(PROMPTS, 600, seed))
        low, high = (np.interp(1.0, table["kl"], table[f"reward_{end}"]) for end in ("low", "high"))
        curve.append(bool(low <= best <= high))
        curves = curves_in_common(
            _noisy([(kl[chosen], reward[chosen]) for kl, reward in tilts], generator)
        )
        found = regret_at(curves, run_variance(curves), frontier, 1.0)
        difference.append(holds(found["loss"], gap))
    setting = f"KL 1, {SAMPLES} samples for {PROMPTS} prompts"
    return [
        coverage("optimal frontier", setting, curve),
        coverage("gap to the optimal frontier", setting, difference),
    ]


def pooled_rows(simulations: int) -> list[Row]:
    """Coverage where policies carry the frontier: its interval, and the gap of one of them."""
    world, generator = population(), np.random.default_rng(6)
    policies = [world.trained(0.8, kl, place) for place, kl in enumerate(POLICY_KLS)]
    kl, reward = world.measured(policies[2])
    level = float(kl.mean())
    best = float(world.exact(np.array([level]))[0])
    gap = best - float(reward.mean())
    curve, difference = [], []
    for seed in range(simulations):
        chosen = generator.choice(POPULATION, PROMPTS, replace=False)
        part = EnumerableWorld(world.probabilities[chosen], world.rewards[chosen])
        drawn = [
            part.draw(policy[chosen], RESPONSES, 10_000 * (place + 1) + seed)
            for place, policy in enumerate(policies)
        ]
        pooled = PolicySamples(*(np.stack(one) for one in zip(*drawn, strict=True)))
        frontier = Frontier(part.sample(16, seed), pooled)
        weights = resample_weights(PROMPTS, 600, seed)
        table = frontier.table(weights)
        low, high = (
            np.interp(level, table["kl"], table[f"reward_{end}"]) for end in ("low", "high")
        )
        if frontier.covers(level):
            curve.append(bool(low <= best <= high))
        if found := frontier.gap(drawn[2][0].mean(axis=1), kl[chosen], weights):
            difference.append(holds(found, gap))
    setting = f"KL {level:.2g}, 16 samples and {len(policies)} policies for {PROMPTS} prompts"
    return [
        coverage("optimal frontier", setting, curve),
        coverage("gap to the optimal frontier", setting, difference),
    ]


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


def main() -> None:
    """Print the table of `Reach`."""
    frontiers = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print("| rewards | K | accuracy | prompts | end | bias | error | largest below | extended |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in ("moved", "normal", "saturating", "log-normal"):
        for samples in (16, 64):
            for accuracy in (None, 0.6, 0.8, 0.9):
                one = reach(kind, samples, accuracy, frontiers)
                known = "none" if accuracy is None else f"{accuracy:g}"
                print(
                    f"| {kind} | {samples} | {known} | {one.prompts} | {one.end:.2f} |"
                    f" {one.bias:+.3f} | {one.error:.3f} | {one.largest:+.3f} |"
                    f" {one.extended:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
