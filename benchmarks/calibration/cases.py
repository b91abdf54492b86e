"""The cases of the table. Each draws a number of experiments from a generator of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import choix
import numpy as np
from scipy import special

from benchmarks.calibration.rows import Row, coverage, false_separations, holds
from benchmarks.calibration.simulate import Losses, hump, plain_two_way, pooled
from dpo_bench.analysis.bootstrap import (
    Array,
    bootstrap_each,
    bootstrap_mean,
    resample_weights,
    win_fraction,
)
from dpo_bench.analysis.bradley_terry import round_robin
from dpo_bench.analysis.length_control import length_controlled
from dpo_bench.analysis.matched import areas, compare, compare_levels
from dpo_bench.analysis.overoptimization import fit_overoptimization

RESAMPLES = 600
LEVEL = 3.0
"""KL at which losses are compared, nats"""


def _weights(prompts: int, simulation: int) -> Array:
    """New resamples now and then: what they add must be in the share, drawing them costs."""
    return resample_weights(prompts, RESAMPLES, simulation // 10)


def mean(kind: str, prompts: int, simulations: int) -> Row:
    """The mean of normal or exponential rewards."""
    generator = np.random.default_rng(prompts)
    truth = 0.0 if kind == "normal" else 1.0
    held: list[bool] = []
    for seed in range(math.ceil(simulations / 100)):
        size = (prompts, 100)
        table = generator.normal(size=size) if truth == 0 else generator.exponential(size=size)
        found = bootstrap_each(lambda means: means, table, resample_weights(prompts, 1000, seed))
        held += [holds(one, truth) for one in found]
    return coverage("mean", f"{kind}, {prompts} prompts", held)


def paired_difference(simulations: int) -> Row:
    """The difference of two policies' bounded rewards on the same prompts."""
    generator, held = np.random.default_rng(1), []
    truth = 6 / 8 - 4 / 6
    for seed in range(simulations):
        ease = generator.random(128)
        # quantiles of two beta distributions at partly shared ranks, averaged over two responses
        ranks = np.clip(0.6 * ease[:, None] + 0.4 * generator.random((128, 4)), 0, 1)
        ranks = _uniform(ranks)
        rewards = special.betaincinv([6, 6, 4, 4], [2, 2, 2, 2], ranks)
        difference = rewards[:, :2].mean(axis=1) - rewards[:, 2:].mean(axis=1)
        held.append(holds(bootstrap_mean(difference, _weights(128, seed)), truth))
    return coverage("paired difference", "beta-distributed rewards, 128 prompts", held)


def _uniform(ranks: Array) -> Array:
    """The distribution function of .6 U + .4 V at its own values, so that ranks are uniform."""
    rising = ranks**2 / (2 * 0.6 * 0.4)
    middle = (ranks - 0.2) / 0.6
    falling = 1 - (1 - ranks) ** 2 / (2 * 0.6 * 0.4)
    return np.asarray(np.where(ranks < 0.4, rising, np.where(ranks < 0.6, middle, falling)))


def win_rate(simulations: int) -> Row:
    """The win rate of two responses against eight of the reference, prompt by prompt."""
    generator, held = np.random.default_rng(2), []
    truth = float(special.ndtr(0.5 / math.sqrt(2 + 0.25)))
    for seed in range(simulations):
        lead = generator.normal(0.5, 0.5, (128, 1))
        won = win_fraction(lead + generator.normal(size=(128, 2)), generator.normal(size=(128, 8)))
        held.append(holds(bootstrap_mean(won.mean(axis=1), _weights(128, seed)), truth))
    return coverage("win rate", "2 responses against 8, 128 prompts", held)


def matched_difference(seeds: int, deviation: float, simulations: int) -> Row:
    """The difference of two losses at a KL, over prompts and seeds."""
    losses = Losses((0.0, 0.05), seeds=seeds, seed_deviation=deviation)
    setting = f"{seeds} seeds, deviation between seeds {deviation:g}" if seeds > 1 else "1 seed"
    return _of_the_difference(losses, setting, np.random.default_rng(seeds), simulations)


def along_training(seeds: int, simulations: int) -> Row:
    """The same difference where policies are measured at three steps of each run."""
    deviation = 0.03 if seeds > 1 else 0.0
    losses = Losses((0.0, 0.05), seeds=seeds, seed_deviation=deviation, along=True, staggered=True)
    setting = f"{seeds} seed{'s' if seeds > 1 else ''}, three steps of every run"
    return _of_the_difference(losses, setting, np.random.default_rng(50 + seeds), simulations)


def _of_the_difference(
    losses: Losses, setting: str, generator: np.random.Generator, simulations: int
) -> Row:
    """Two losses' difference; over several seeds, beside it the plain two-way bootstrap."""
    held: list[bool] = []
    plain: list[bool] = []
    truth = float(-np.diff(losses.at(LEVEL))[0])
    for seed in range(simulations):
        curves, weights = losses.draw(generator), _weights(128, seed)
        (found,) = compare(curves, LEVEL, weights)
        held.append(holds(found.difference, truth))
        if losses.seeds > 1:
            low, high = plain_two_way(curves, LEVEL, weights, generator)
            plain.append(low <= truth <= high)
    return coverage("matched-KL difference", setting, held, plain)


def area(seeds: int, deviation: float, simulations: int) -> Row:
    """The area between two curves over the KLs that both cover."""
    losses = Losses((0.0, 0.05), seeds=seeds, seed_deviation=deviation)
    generator, held = np.random.default_rng(10 + seeds), []
    for seed in range(simulations):
        (found,) = areas(losses.draw(generator), _weights(128, seed))
        # both curves have the same shape: their distance is the same at every KL
        held.append(holds(found.area, -0.05 * (found.high - found.low)))
    return coverage("area between curves", "1 seed" if seeds == 1 else f"{seeds} seeds", held)


def strengths(simulations: int) -> Row:
    """All Bradley-Terry strengths of five policies."""
    skill, taste = np.array([-0.6, -0.2, 0.0, 0.3, 0.5]), 0.5
    expected = special.ndtr((skill[:, None] - skill) / math.sqrt(2 + 2 * taste**2))
    np.fill_diagonal(expected, 0)
    truth = choix.ilsr_pairwise_dense(expected, tol=1e-10)
    truth = truth - truth.mean()
    generator, held = np.random.default_rng(3), []
    names = [str(index) for index in range(5)]
    for seed in range(simulations):
        level = skill[:, None] + generator.normal(0, taste, (5, 128))
        rewards = level[:, :, None] + generator.normal(size=(5, 128, 2))
        wins = {
            (names[i], names[j]): win_fraction(rewards[i], rewards[j]).mean(axis=1)
            for i in range(5)
            for j in range(i + 1, 5)
        }
        found = round_robin(names, wins, _weights(128, seed))
        held += [holds(one.strength, float(truth[int(one.name)])) for one in found]
    return coverage("Bradley-Terry strength", "5 policies, 128 prompts", held)


def length_control(simulations: int) -> Row:
    """The length-controlled win rate where longer responses are preferred, and are longer."""
    generator, held = np.random.default_rng(4), []
    truth = float(special.expit(0.2))
    for seed in range(simulations):
        longer = generator.normal(8, 8, (128, 1)) + generator.normal(0, 6, (128, 2))
        chance = special.expit(0.2 + 1.0 * np.tanh(longer / 10))
        won = (generator.random((128, 2)) < chance).astype(float)
        held.append(holds(length_controlled(won, longer, _weights(128, seed)).controlled, truth))
    return coverage("length-controlled win rate", "2 responses, 128 prompts", held)


def peak(seeds: int, simulations: int) -> Row:
    """The KL at which d (.75 - .4 ln d) peaks."""
    generator, held = np.random.default_rng(20 + seeds), []
    truth = math.exp(2 * (0.75 / 0.4 - 1))
    for seed in range(simulations):
        points, reference = hump(generator, 0.75, 0.4, 128, seeds)
        found = fit_overoptimization(points, reference, _weights(128, seed))
        held.append(found.peak is not None and holds(found.peak, truth))
    return coverage("peak of gold reward", "1 seed" if seeds == 1 else f"{seeds} seeds", held)


def null_family(seeds: int, levels: int, simulations: int) -> Row:
    """Six losses that do not differ."""
    deviation = 0.03 if seeds > 1 else 0.0
    losses = Losses((0.0,) * 6, seeds=seeds, seed_deviation=deviation)
    generator, wrong = np.random.default_rng(30 + seeds + levels), []
    for seed in range(simulations):
        curves, weights = losses.draw(generator), _weights(128, seed)
        found = compare_levels(curves, [1.2, LEVEL, 6.0][:levels], weights)
        wrong.append(any(one.separated for part in found for one in part))
    family = f"{15 * levels} comparisons"
    return false_separations(
        "any false separation", f"{family}, {seeds} seed{'s' if seeds > 1 else ''}", wrong
    )


def null_along(simulations: int) -> Row:
    """Six losses that do not differ but in where their strengths lie, at three steps of each run.

    Beside it the same with one curve through the policies of all steps.
    """
    losses = Losses((0.0,) * 6, prompts=256, along=True, staggered=True)
    generator = np.random.default_rng(40)
    wrong: list[bool] = []
    plain: list[bool] = []
    for seed in range(simulations):
        curves, weights = losses.draw(generator), _weights(256, seed)
        for drawn, counted in ((curves, wrong), (pooled(curves), plain)):
            found = compare(drawn, LEVEL, weights)
            counted.append(any(one.separated for one in found))
    return false_separations(
        "any false separation", "15 comparisons, 1 seed, three steps, 256 prompts", wrong, plain
    )


def all_cases(simulations: int) -> Iterator[Row]:
    """Every row of the table but the frontier's."""
    for kind in ("normal", "exponential"):
        for prompts in (64, 256):
            yield mean(kind, prompts, simulations)
    yield paired_difference(simulations)
    yield win_rate(simulations)
    yield length_control(simulations)
    yield strengths(simulations // 3)
    yield matched_difference(1, 0.0, simulations)
    for seeds in (2, 3, 5):
        for deviation in (0.0, 0.03, 0.1):
            yield matched_difference(seeds, deviation, simulations)
    yield along_training(1, simulations)
    yield along_training(3, simulations)
    yield area(1, 0.0, simulations // 2)
    yield area(3, 0.03, simulations // 2)
    yield peak(1, simulations)
    yield peak(3, simulations)
    yield null_family(1, 1, simulations)
    yield null_family(1, 3, simulations // 2)
    yield null_family(3, 1, simulations)
    yield null_along(simulations // 2)
